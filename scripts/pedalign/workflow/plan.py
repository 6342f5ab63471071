"""What the rules need to know of the config: which artifacts there are, and the inputs and resources of each job.

Snakemake calls methods with `wildcards` once per job.
"""

import os
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pedalign.cluster.resources import gpu_count, runtime
from pedalign.core.artifacts import sha256
from pedalign.core.checkpoint_folders import checkpoint_state
from pedalign.core.code_digest import digest
from pedalign.core.errors import UserError, nearest
from pedalign.core.paths import ModelPaths, Paths, TutorPaths
from pedalign.core.processes import accumulation
from pedalign.data.rubric import instruction_text, load_rubric
from pedalign.data.sources.importers import IMPORTERS, is_bank
from pedalign.data.sources.published import PUBLISHED, check_published
from pedalign.data.splits import SPLITS, dataset_files, perplexity_file
from pedalign.generation.vllm_environment import vllm_python
from pedalign.training.algorithms import ALGORITHMS, expect_batch
from pedalign.workflow.config import Config
from pedalign.workflow.job_settings import answering, as_text
from pedalign.workflow.model_settings import Model
from pedalign.workflow.policies import (
    BASE,
    Policy,
    adopted,
    aligned_entry,
    parse_policy,
    runs,
    unknown_model,
    untrained,
)

HASHED = 2**28  # bytes; larger raw files are told apart by size and time
PUBLISHED_FOLDER = "datasets/published"
NO_NAME = "(?!)"  # a wildcard constraint that matches nothing


class Plan:
    """What the config means for each job.

    `root`: the folder of the Snakefile. `here`: whether this is the call that a user started, not one of its jobs.
    `machine` returns the number of GPUs of this machine, None if jobs run elsewhere.
    Raises UserError if the config, the rubric and the runs do not fit together.
    """

    def __init__(self, config: Config, root: Path, here: bool, machine: Callable[[], int | None]) -> None:
        self.config, self.root, self.here, self.machine = config, root, here, machine
        self.paths = Paths(config.results.rstrip("/"), config.dataset)
        if Path(self.paths.results).is_file():
            raise UserError(f"config: results: {self.paths.results} is a file", "name a folder, which may be missing")
        self.rubric = self.beside(config.rubric)
        self.simulated = self.beside("datasets/simulated")
        self.imports = config.import_
        folders = {"simulated": self.simulated, "published": PUBLISHED_FOLDER}
        self.source = self.paths.imported if self.imports else folders.get(config.source, config.source)
        self.published_flag = "--published" if config.source == "published" else ""
        self.policies = runs(config)
        self.runs = list(self.policies)
        self._aligned_entries: dict[tuple[str, str], Model] = {}
        self.untrained = untrained(config)
        self.models = list(dict.fromkeys([*(model for model, _ in self.runs), *self.untrained]))
        self.adopted = adopted(config)
        self.tutors = [f"{model}/{BASE}" for model in self.untrained]
        self.tutors += [f"{model}/sft" for model in self.models]
        self.tutors += [f"{model}/{policy}" for model, policy in self.runs]
        # Models that are fine-tuned here, and models with a tutor that is aligned here, which needs preference pairs.
        self.fine_tuned = [model for model in self.models if f"{model}/sft" not in self.adopted]
        aligned = [model for model, policy in self.runs if f"{model}/{policy}" not in self.adopted]
        self.aligned_here = list(dict.fromkeys(aligned))
        for model, policy in self.runs:
            if f"{model}/{policy}" not in self.adopted:
                self.aligned_entry(model, policy)
        rubric = load_rubric(Path(self.rubric))
        self.instructions = list(rubric.instructions)
        balance, keys = config.pair.balance, [field.key for field in rubric.label_fields]
        if balance and balance.field not in keys:
            problem = f"config: pair.balance.field: the rubric {rubric.name} has no label field '{balance.field}'"
            raise UserError(problem, nearest(balance.field, keys))
        for model in self.models:
            instruction_text(rubric, config.models[model].instruction)
            answering(config, model, "dpo")
        if any(config.models[model].generate.engine == "vllm" for model in self.models):
            vllm_python()

    def beside(self, path: str) -> str:
        """The path of a file that comes with the workflow, unless the working directory has one of that name."""
        own = os.path.relpath(self.root / path)
        return own if os.path.exists(own) and not os.path.exists(path) else path

    def code(self, script: str, *files: str) -> str:
        """A digest of a script's code, of all modules that it imports, and of other files that it reads."""
        scripts = self.root / "scripts"
        return digest(scripts / f"{script}.py", *(scripts / file for file in files))

    # Artifacts

    def tutor(self, wildcards: Any) -> TutorPaths:
        return self.paths.model(wildcards.model).tutor(wildcards.policy)

    def model_paths(self, models: list[str]) -> list[ModelPaths]:
        return [self.paths.model(model) for model in models]

    def tutor_paths(self) -> list[TutorPaths]:
        return [self.paths.tutor(tutor) for tutor in self.tutors]

    def aligned_paths(self) -> list[TutorPaths]:
        return [self.paths.tutor(f"{model}/{policy}") for model, policy in self.runs]

    def split_files(self) -> list[str]:
        return [self.paths.split(split) for split in SPLITS]

    def artifacts(self) -> list[str]:
        """Every artifact of the config's runs. `all` names each, so that one that was deleted is made again."""
        paths = [*self.split_files(), *map(self.paths.formatted, SPLITS[1:]), self.paths.splits_report]
        for model in self.fine_tuned:
            found = self.paths.model(model)
            paths += [found.audit] if self.config.models[model].path else [found.base, found.base_manifest, found.audit]
        for found in self.model_paths(self.aligned_here):
            paths += [found.sft.responses("dpo"), found.preferences, found.preferences_counts]
        paths += [self.paths.model(model).reference for model in self.aligned_here if self._has_reference(model)]
        for tutor in self.tutor_paths():
            paths += [tutor.checkpoint, tutor.manifest, tutor.responses(), tutor.metrics]
        paths += [self.paths.tutor(name).card for name in self.tutors if not name.endswith(f"/{BASE}")]
        paths += [tutor.comparison for tutor in self.aligned_paths()]
        return [*paths, *self.perplexities(), self.paths.summary, self.paths.report]

    def perplexities(self) -> list[str]:
        return [tutor.perplexity for tutor in self.tutor_paths()] if self.has_perplexity_pairs() else []

    def audits(self) -> list[str]:
        return [found.audit for found in self.model_paths(self.fine_tuned)]

    # Conversation files

    def source_file(self, part: object) -> str:
        return f"{self.source}/{self.config.dataset}-dataset-{part}.json"

    def source_in_words(self) -> str:
        """Where the conversations are from, as a model card tells it."""
        return f"imported ({self.imports.format})" if self.imports else self.config.source

    def raw_files(self, _: Any = None) -> list[str]:
        """The files to import. Raises UserError if one is not there, or there is no `import:`."""
        if not self.imports:
            raise UserError("config: import: is null, so there is nothing to import", "name a format and its files")
        files = [self.beside(path) if is_bank(path) else path for path in self.imports.paths]
        for file in files if self.here else ():
            if not os.path.isfile(file):
                what = "is a folder" if os.path.isdir(file) else "no such file"
                raise UserError(f"config: import.files: {file}: {what}", "name a file, from the folder of the call")
        return files

    def raw_state(self, _: Any = None) -> str:
        """What is in the raw files, in their order, as a parameter of the rule: a file that is replaced by an older one
        looks unchanged to Snakemake."""
        found = [(file, os.stat(file)) for file in self.raw_files() if os.path.isfile(file)]
        return as_text(
            files=[
                [file, sha256(Path(file)) if stat.st_size < HASHED else f"{stat.st_size} bytes of {stat.st_mtime_ns}"]
                for file, stat in found
            ]
        )

    def imported_files(self, of_bank: bool = False) -> list[str]:
        """The conversation files that are made of raw files, or of a bank; none if the config names no such files."""
        if not self.imports or self.imports.of_bank != of_bank:
            return []
        number = self.config.simulation.files if of_bank else len(self.imports.paths)
        return [self.source_file(part) for part in range(1, number + 1)]

    def bank_files(self) -> list[str]:
        """The conversation files and the pairs that are simulated about the problems of an imported bank."""
        files = self.imported_files(of_bank=True)
        return [*files, self.source_file("ppl")] if files else []

    def import_report(self, of_bank: bool | None = None) -> list[str]:
        """The report of the import, if there is one; `of_bank`: if it is one of a bank, or of conversations."""
        there = self.imports and of_bank in (None, self.imports.of_bank)
        return [self.paths.import_report] if there else []

    def import_code(self) -> str:
        """A digest of the code of the import in the format that the config names, and of no other importer."""
        if not self.imports:
            return ""
        return self.code(
            "import_conversations", os.path.relpath(IMPORTERS[self.imports.format].module, self.root / "scripts")
        )

    def split_flags(self) -> str:
        """Options of scripts/split.py that few calls need."""
        return shlex.join(f"--imported={path}" for path in self.import_report()) or self.published_flag

    def conversation_files(self) -> list[str]:
        """The conversation files to read; those that a rule makes or downloads may still be missing."""
        if self.imports:
            self.raw_files()
            return self.imported_files(self.imports.of_bank)
        if self.config.source == "simulated":
            return [self.source_file(number) for number in range(1, self.config.simulation.files + 1)]
        if self.config.source == "published":
            files = [self.source_file(number) for number in (1, 2, 3)]
            if self.here:
                check_published(map(Path, [*files, self.source_file("ppl")]))
            return files
        return [str(path) for path in dataset_files(Path(self.source), self.config.dataset)]

    def published_files(self) -> list[str]:
        """The paper's conversation files; existing ones are checked."""
        files = [f"{PUBLISHED_FOLDER}/{name}" for name in PUBLISHED]
        check_published(map(Path, files))
        return files

    def has_perplexity_pairs(self) -> bool:
        """Whether there are pairs to compute the perplexity on; if not, the summary says so."""
        if self.imports:
            return self.imports.of_bank
        made = self.config.source in ("simulated", "published")
        return made or any(Path(self.source_file("ppl") + more).is_file() for more in ("", "l"))

    def perplexity_pairs(self, _: Any = None) -> str:
        if self.imports and not self.imports.of_bank:
            problem = "config: import: imports no pairs of replies to compute a perplexity on"
            raise UserError(problem, "do without perplexity.json, or use 'source' (docs/explanation/perplexity.md)")
        if self.imports or self.config.source in ("simulated", "published"):
            return self.source_file("ppl")
        return str(perplexity_file(Path(self.source), self.config.dataset))

    def simulation_arguments(self) -> str:
        """Options of scripts/simulate.py: only numbers, so none needs quoting."""
        numbers = {name: value for name, value in self.config.simulation.values().items() if name != "problems"}
        return " ".join(f"--{name} {value}" for name, value in sorted(numbers.items()))

    # Inputs of a job

    def entry(self, name: str) -> Model:
        """A model's entry. Raises UserError, with the nearest name, if the catalogue has none of this name."""
        if name not in self.config.models:
            raise unknown_model(name, self.config, "target")
        return self.config.models[name]

    def policy(self, wildcards: Any) -> Policy:
        return self._policy(wildcards.model, wildcards.policy)

    def _policy(self, model: str, name: str) -> Policy:
        """A run's policy, or what the name of another one says."""
        known = self.policies.get((model, name))
        return known or parse_policy(name, self.config.seed, entry=self.entry(model))

    def aligned_entry(self, model: str, policy: str) -> Model:
        """A model's entry, with the settings of a policy's alignment."""
        if (model, policy) not in self._aligned_entries:
            place = f"{'config: runs' if (model, policy) in self.policies else 'target'}: {model} {policy}"
            found = aligned_entry(self.entry(model), self._policy(model, policy), place)
            self._aligned_entries[model, policy] = found
        return self._aligned_entries[model, policy]

    def _trained_entry(self, wildcards: Any, stage: str) -> Model:
        """A model's entry, as one of its jobs trains it."""
        return (
            self.aligned_entry(wildcards.model, wildcards.policy) if stage == "align" else self.entry(wildcards.model)
        )

    def _has_reference(self, model: str) -> bool:
        """Whether an alignment of a model in `runs` has a reference model."""
        tutors = [(policy, name) for (owner, name), policy in self.policies.items() if owner == model]
        return any(
            ALGORITHMS[policy.algorithm].uses_reference
            for policy, name in tutors
            if f"{model}/{name}" not in self.adopted
        )

    def reference(self, wildcards: Any) -> list[str]:
        """The reference model's log-probabilities, for an alignment that has one."""
        if f"{wildcards.model}/{wildcards.policy}" in self.adopted:  # Snakemake asks, and then prefers the rule adopt
            return []
        uses = ALGORITHMS[self.policy(wildcards).algorithm].uses_reference
        return [self.paths.model(wildcards.model).reference] if uses else []

    def settings_in_words(self) -> str:
        """`<model>/<policy>` → what differs from the model's entry, of the policies in `runs` where something does."""
        told = {f"{model}/{name}": one.in_words() for (model, name), one in self.policies.items() if one.settings}
        return as_text(**told)

    def base_model(self, wildcards: Any) -> str:
        """The model that the fine-tuning starts from."""
        return self.entry(wildcards.model).path or self.paths.model(wildcards.model).base

    def base_state(self, wildcards: Any) -> str:
        return _state(self.entry(wildcards.model).path)

    def adopted_source(self, wildcards: Any) -> str:
        return self.adopted[wildcards.tutor]

    def adopted_state(self, wildcards: Any) -> str:
        return _state(self.adopted_source(wildcards))

    def adopted_tutors(self) -> str:
        """A regular expression that matches the names of adopted tutors."""
        return "|".join(map(re.escape, self.adopted)) or NO_NAME

    def sharded_models(self) -> str:
        """A regular expression that matches the models whose splits are answered by several jobs."""
        names = [name for name, model in self.config.models.items() if model.generate.shards > 1]
        return "|".join(map(re.escape, names)) or NO_NAME

    def shards(self, wildcards: Any) -> list[str]:
        """The parts of a split's responses, one per job."""
        number = self.entry(wildcards.model).generate.shards
        return [self.tutor(wildcards).shard(wildcards.split, shard, number) for shard in range(1, number + 1)]

    def card_inputs(self, wildcards: Any) -> dict[str, str]:
        """Inputs of a model card that not every tutor has."""
        tutor, sft = self.tutor(wildcards), self.paths.model(wildcards.model).sft
        aligned, pairs = wildcards.policy != "sft", self.has_perplexity_pairs()
        found = {
            "comparison": tutor.comparison if aligned else None,
            "perplexity": tutor.perplexity if pairs else None,
            "before": sft.perplexity if pairs and aligned else None,
            "audit": None if f"{wildcards.model}/sft" in self.adopted else self.paths.model(wildcards.model).audit,
        }
        return {name: path for name, path in found.items() if path is not None}

    def check_batch(self, stage: str, wildcards: Any, gpus: int) -> None:
        """Raises UserError where a training's batch can't be spread over the processes of its job, one a GPU."""
        training = getattr(self._trained_entry(wildcards, stage), stage)
        try:
            accumulation(training.global_batch_size, training.device_batch_size, max(1, gpus))
            if stage == "align":
                expect_batch(self.policy(wildcards).algorithm, training.device_batch_size)
        except UserError as error:
            raise UserError(f"{wildcards.model}: {stage}: {error.problem}", error.remedy) from None

    def origin(self, wildcards: Any) -> str:
        """The model that a tutor's training started from, in words."""
        return self.entry(wildcards.model).origin or "random weights"

    def rows(self, wildcards: Any) -> str:
        """What a row of a tutor's training is."""
        return "conversations" if wildcards.policy == "sft" else ALGORITHMS[self.policy(wildcards).algorithm].rows

    # Resources of a job: functions that Snakemake calls

    def _job(self, model: str, stage: str) -> dict[str, Any]:
        return self.entry(model).as_dict["resources"][stage]

    def resource(self, stage: str, name: str) -> Callable[..., Any]:
        """A resource that a model's entry sets for one of its stages."""
        return lambda wildcards: self._job(wildcards.model, stage)[name]

    def minutes(self, stage: str) -> Callable[..., int]:
        """The time limit; each further attempt gets more."""
        return lambda wildcards, attempt: runtime(self._job(wildcards.model, stage), attempt)

    def gpus(self, stage: str) -> Callable[..., int]:
        """The number of GPUs over all nodes."""
        return lambda wildcards: gpu_count(self._trained_entry(wildcards, stage).as_dict, stage, self.machine())

    def nodes(self, stage: str) -> Callable[..., int]:
        return lambda wildcards: self._job(wildcards.model, stage).get("nodes", 1)

    def mpi(self, stage: str) -> Callable[..., str | None]:
        """`srun` for jobs over several nodes, where the launcher starts itself on each node; else None."""
        return lambda wildcards: "srun" if self.nodes(stage)(wildcards) > 1 else None

    def tasks(self, stage: str) -> Callable[..., int | None]:
        return lambda wildcards: nodes if (nodes := self.nodes(stage)(wildcards)) > 1 else None


def _state(source: str | None) -> str:
    """Facts that show whether a checkpoint's folder was changed, as a parameter of the rule.

    Snakemake compares no checksums of large files, so a replaced folder looks unchanged if its files are older than the
    results. Empty for a model that a rule makes (None): its manifest shows changes.
    """
    return as_text(**(checkpoint_state(source) if source else {}))
