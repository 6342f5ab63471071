"""The settings of each stage's jobs: exactly the parts of the config that can change the stage's result.

Each is one JSON text with sorted keys, so that equal settings are equal texts: Snakemake compares the text with that of
the artifact's last run.
"""

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pedalign.cluster.resources import gpu_count
from pedalign.core.artifacts import read_json
from pedalign.core.errors import UserError
from pedalign.core.section import read
from pedalign.training.algorithms import ALGORITHMS
from pedalign.workflow.config import Config
from pedalign.workflow.model_settings import Model, Training
from pedalign.workflow.policies import BASE

if TYPE_CHECKING:
    from pedalign.workflow.plan import Plan

FULL = "full"  # the wording of the instruction that says all of the rubric
_SIDE_SETTINGS = {"benchmark", "trackers", "training_state", "resources"}  # they change no result


def as_text(**values: Any) -> str:
    return json.dumps(values, sort_keys=True)


def answering(config: Config, model: str, split: str) -> dict[str, Any]:
    """How a model answers a split: with several samples per prompt of the DPO split, if the config says so, to find
    mistakes; with one of the test split.

    Raises UserError if several samples would be the same reply.
    """
    generation, samples = {**config.models[model].generate.values(), "seed": config.seed}, 1
    del generation["shards"]  # the replies do not depend on it
    if split == "dpo":
        samples = config.pair.samples
        if config.pair.temperature is not None:
            generation["temperature"] = config.pair.temperature
    if samples > 1 and generation["temperature"] == 0:
        raise UserError(
            f"config: pair.samples: is {samples}, but {model} gives the likeliest reply each time",
            "set pair.temperature, for example to 1.0, or samples to 1",
        )
    return {"generation": generation, "samples": samples}


class JobSettings:
    """One method per stage. Snakemake calls those with `wildcards` once per job."""

    def __init__(self, plan: "Plan") -> None:
        self.plan, self.config = plan, plan.config

    def split(self) -> str:
        return as_text(**self._split())

    def _split(self) -> dict[str, Any]:
        return {**self.config.split.values(), "seed": self.config.seed, "paper_rules": self.config.paper_rules}

    def base(self, wildcards: Any) -> str:
        entry = self.plan.entry(wildcards.model)
        made = {"architecture": entry.architecture and entry.architecture.values(), "vocab_size": entry.vocab_size}
        return as_text(**self._rendering(wildcards.model), **made, seed=self.config.seed)

    def audit(self, wildcards: Any) -> str:
        return as_text(**self._rendering(wildcards.model))

    def sft(self, wildcards: Any) -> str:
        model, entry = wildcards.model, self.plan.entry(wildcards.model)
        training = _training(entry, "sft", self.config.seed, self._cut_length(model))
        return as_text(rendering=self._rendering(model), training=training, **_adapter(entry), **_attention(entry))

    def generate(self, wildcards: Any) -> str:
        model = wildcards.model
        how = answering(self.config, model, wildcards.split)
        entry = self.plan.entry(model)
        rendering = self._rendering(model, wildcards.policy)
        return as_text(rendering=rendering, dtype=entry.dtype, **how, **_attention(entry))

    def samples(self, wildcards: Any) -> int:
        """Responses per prompt of a split."""
        return answering(self.config, wildcards.model, wildcards.split)["samples"]

    def pair(self) -> str:
        """PreferenceSettings. The other keys of `pair` belong to other stages."""
        chosen = self.config.pair.values(exclude={"temperature", "label_noise"})
        return as_text(**chosen, paper_rules=self.config.paper_rules, seed=self.config.seed)

    def reference(self, wildcards: Any) -> str:
        return as_text(**self._forward(wildcards.model))

    def align(self, wildcards: Any) -> str:
        policy, entry = self.plan.policy(wildcards), self.plan.aligned_entry(wildcards.model, wildcards.policy)
        algorithm, training = ALGORITHMS[policy.algorithm], _training(entry, "align", policy.seed, None)
        weight = training.pop("sft_weight", None)
        noise = self.config.pair.label_noise if algorithm.uses_label_noise else 0.0
        alignment = {"algorithm": policy.algorithm, "beta": policy.beta, "label_noise": noise}
        if algorithm.uses_sft_weight and weight is not None:
            alignment["sft_weight"] = weight
        return as_text(
            rendering=self._rendering(wildcards.model),
            training=training,
            alignment=alignment,
            **_adapter(entry),
            **_attention(entry),
        )

    def score(self) -> str:
        return as_text(**self.config.score.values(), seed=self.config.seed)

    def perplexity(self, wildcards: Any) -> str:
        rules = {"paper_rules": self.config.paper_rules, "resamples": self.config.score.resamples}
        return as_text(**self._forward(wildcards.model, wildcards.policy), **rules, seed=self.config.seed)

    def report(self) -> str:
        """The settings that the report shows: those that can change a result, of the models that have a run."""
        unused = {"source"} if self.plan.imports else set()
        shown = self.config.values(exclude=_SIDE_SETTINGS | unused, exclude_none=True)
        models = {name: self.config.models[name].as_dict for name in self.plan.models}
        decisive = {
            name: {key: value for key, value in entry.items() if key not in _SIDE_SETTINGS}
            for name, entry in models.items()
        }
        return as_text(**{**shown, "models": decisive})

    def benchmark(self, wildcards: Any) -> str:
        """WorkloadSettings: how the measured model is prompted, trained and decoded."""
        model = wildcards.model
        if model not in self.plan.fine_tuned or model not in self.plan.aligned_here:
            problem = f"benchmark: {model} is not trained here"
            raise UserError(problem, "begin 'runs' with a model that is trained here")
        entry = self.plan.entry(model)
        return as_text(
            size=self.config.benchmark,
            model=model,
            dtype=entry.dtype,
            sft=_training(entry, "sft", self.config.seed, entry.max_length),
            alignment=_training(entry, "align", self.config.seed, entry.max_length),
            generation=answering(self.config, model, "test")["generation"],
            **self._rendering(model),
        )

    def preflight(self, request: Callable[..., dict[str, Any]], here: bool, status_command: str | None) -> str:
        """PreflightSettings. `request(rule, **wildcards)` gives the resources of a job of the rule."""
        plan = self.plan
        pairs = plan.perplexity_pairs() if plan.has_perplexity_pairs() else None
        return as_text(
            results=plan.paths.results,
            here=here,
            status_command=status_command,
            models={name: self.config.models[name].as_dict for name in plan.models},
            runs=[*plan.runs, *((model, BASE) for model in plan.untrained)],
            jobs={name: self._stage_requests(name, request) for name in plan.models},
            data_job=request("split"),
            data={"files": plan.conversation_files(), "perplexity": pairs, "splits": self._split()},
            lengths={name: self.limits(name) for name in plan.models},
            seed=self.config.seed,
            variants={name: self._variants(name) for name in plan.aligned_here},
            presets={name: self._presets(name) for name in plan.models if self.config.models[name].path},
        )

    def _presets(self, model: str) -> list[tuple[str, dict[str, Any]]]:
        """Each preset's name, and the entry that a model would have with its `path`, the preset, and nothing else."""
        found = []
        for name, preset in self.config.presets.items():
            with suppress(UserError):  # a preset that leaves values to entries
                entry = read(Model, {"path": self.config.models[model].path, **preset}, f"presets.{name}")
                if isinstance(entry.sft, Training):
                    found.append((name, entry.as_dict))
        return found

    def _variants(self, model: str) -> dict[str, dict[str, Any]]:
        """Policy → the `align`, `adapter` and `gpu` of its alignment, of the policies with settings of their own."""
        found: dict[str, dict[str, Any]] = {}
        for (owner, name), policy in self.plan.policies.items():
            if owner == model and policy.settings and f"{model}/{name}" not in self.plan.adopted:
                entry = self.plan.aligned_entry(model, name).as_dict
                gpus = gpu_count(entry, "align", self.plan.machine())
                found[name] = {"gpu": gpus, **{key: entry[key] for key in ("align", "adapter") if key in entry}}
        return found

    def _stage_requests(self, model: str, request: Callable[..., dict[str, Any]]) -> dict[str, dict[str, Any]]:
        """Stage → resources of its jobs, for the stages that run for a model."""
        runs_here = {"sft": model in self.plan.fine_tuned, "align": model in self.plan.aligned_here, "generate": True}
        policy = next((name for owner, name in self.plan.runs if owner == model), "sft")
        return {
            stage: {
                **self.config.models[model].as_dict["resources"][stage],
                **request(stage, model=model, policy=policy, split="test"),
            }
            for stage, does in runs_here.items()
            if does
        }

    def limits(self, model: str) -> dict[str, Any]:
        """LengthSettings of a model."""
        entry = self.plan.entry(model)
        return {
            "max_length": entry.max_length,
            "allow_truncation": entry.allow_truncation,
            "fine_tuned": f"{model}/sft" not in self.plan.adopted,
            "max_new_tokens": entry.generate.max_new_tokens,
            "trained_share": self.config.checks.trained_share,
            "pairs": entry.align is not None,
        }

    def _rendering(self, model: str, policy: str = "") -> dict[str, str]:
        """Settings of the renderer, the same for every stage; an untrained model gets the full instruction, if the
        rubric has one, since it has not seen the form of a reply."""
        entry = self.plan.entry(model)
        full = policy == BASE and FULL in self.plan.instructions
        return {"template": entry.template, "instruction": FULL if full else entry.instruction}

    def _cut_length(self, model: str) -> int | None:
        """The length at which a model's SFT conversations are cut; None if the audit says that none is longer.

        So a new `max_length` that cuts nothing is not a new training. Before the audit exists, any conversation may be
        too long; Snakemake asks again once it exists.
        """
        entry = self.plan.entry(model)
        if not entry.allow_truncation or entry.max_length is None:  # the audit refuses texts that would be cut
            return None
        try:
            longest = read_json(Path(self.plan.paths.model(model).audit))["tokens"]["max"]
        except (UserError, KeyError, TypeError):
            return entry.max_length
        return entry.max_length if longest > entry.max_length else None

    def _forward(self, model: str, policy: str = "") -> dict[str, Any]:
        entry = self.plan.entry(model)
        batch = entry.generate.max_batch_tokens
        found = {"rendering": self._rendering(model, policy), "dtype": entry.dtype, "max_batch_tokens": batch}
        return {**found, **_attention(entry)}


def _training(entry: Model, stage: str, seed: int, cut: int | None) -> dict[str, Any]:
    """TrainingSettings. `cut`: the length at which conversations are cut; pairs never are."""
    return {**getattr(entry, stage).values(), "max_length": cut, "dtype": entry.dtype, "seed": seed}


def _adapter(entry: Model) -> dict[str, Any]:
    """AdapterSettings; empty if all weights are trained."""
    return {"adapter": entry.adapter.values()} if entry.adapter else {}


def _attention(entry: Model) -> dict[str, str]:
    """Empty if transformers decides."""
    return {"attn_implementation": entry.attn_implementation} if entry.attn_implementation else {}
