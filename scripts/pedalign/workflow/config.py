"""The settings of config.yaml: their names, types, meanings, defaults and limits, declared once.

The check of a config, its messages and docs/reference/config.md are made from these declarations.
"""

import re
from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field, model_validator

from pedalign.core.errors import nearest
from pedalign.core.section import Number, Section, Text, mistake, one_or_list, shown, text_or
from pedalign.training.algorithms import ALGORITHMS


def _name(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", text):
        raise mistake(f"is {text!r}", "use letters, digits, '.', '_' and '-'")
    return text


def _path(text: str) -> str:
    if not text or not text.isprintable() or set(text) & {"{", "}"}:
        raise mistake(f"is {text!r}", "name a path without braces and control characters")
    return text


def _url(text: str) -> str:
    if not text.startswith(("http://", "https://")) or "@" in text or text.split() != [text]:
        remedy = "give an http(s) URL without user and password, which logs would show; ~/.netrc is read for them"
        raise mistake(f"is {shown(text)}", remedy)
    return text


def _algorithm(text: str) -> str:
    if text not in ALGORITHMS:
        raise mistake(f"is {text!r}", nearest(text, ALGORITHMS))
    return text


def _up_to(text: str) -> str:
    number = text.removeprefix("up to ")
    if number == text or not number.isdecimal() or int(number) == 0:
        raise mistake(f"is {text!r}", "give a number, or 'up to 4'")
    return text


Name = Annotated[str, AfterValidator(_name)]
Path = Annotated[str, AfterValidator(_path)]
Count = Annotated[int, Field(ge=1)]
Natural = Annotated[int, Field(ge=0)]
Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]
Share = Annotated[Number, Field(ge=0, lt=1)]
Shares = Annotated[list[Annotated[Number, Field(ge=0, le=1)]], Field(min_length=2, max_length=2)]
Positive = Annotated[Number, Field(gt=0)]
Beta = Annotated[Number, Field(gt=0, le=1e7)]
UpTo = Annotated[str, AfterValidator(_up_to)]
Algorithm = Annotated[str, AfterValidator(_algorithm)]


class Simulation(Section):
    """How to make the simulated conversation files, if they are missing."""

    problems: Path = "datasets/bio-problems.yaml"
    """The problem bank."""
    files: Count = 3
    """Number of files."""
    conversations: Count = 1250
    """Conversations per file."""
    pairs: Count = 240
    """Perplexity pairs."""
    malformed: Share = 0.02
    """Share of replies that are broken on purpose, to test the cleaning."""
    seed: Seed = 43
    """Random seed of the simulation."""


class Split(Section):
    """Number of conversations to draw from each file."""

    sft: Count = 500
    """For supervised fine-tuning."""
    dpo: Count = 350
    """For preference pairs: the fine-tuned tutor answers these, and its mistakes become pairs."""
    test: Count = 400
    """For the metrics."""
    method: Literal["random", "leak_free"] = "random"
    """`random`: as in the paper. `leak_free`: all conversations about one problem are in one split
    (docs/explanation/splits.md)."""


class Balance(Section):
    """Limits how many more pairs a gold label of a field has than the others."""

    field: str
    """Key of a label field of the rubric."""
    most: Annotated[Number, Field(ge=1)]
    """Most pairs of a label, as a multiple of the mean."""


class Pair(Section):
    """Preference pairs: a gold reply and a wrong reply of the fine-tuned tutor (docs/explanation/preferences.md)."""

    samples: Count = 1
    """Replies of the tutor to each prompt of the DPO split."""
    temperature: Annotated[Number, Field(ge=0)] | None = None
    """Sampling temperature of these replies; null: the model's own. It must be above 0 if `samples` is above 1."""
    per_prompt: Count = 1
    """Most pairs from one prompt."""
    reject: Literal["first", "worst", "nearest"] = "first"
    """Which mistakes of a prompt to use first: `first`: as sampled, `worst`: most wrong labels, `nearest`: fewest."""
    balance: Balance | None = None
    """Limits the pairs of each gold label; null: no limit."""
    most: Count | None = None
    """Most pairs in all, drawn at random; null: no limit."""
    label_noise: Annotated[Number, Field(ge=0, lt=0.5)] = 0.1
    """Assumed share of pairs whose two replies are swapped; only cdpo uses it."""


class Score(Section):
    """How replies are scored."""

    first_turn: bool = False
    """true: also score the first reply of a conversation, where there is nothing to judge yet."""
    resamples: Annotated[int, Field(ge=100)] = 2000
    """Draws of the bootstrap (95% intervals) and of the permutation test."""


class Checks(Section):
    """Signs of a training that went wrong."""

    trained_share: Shares = Field(default=[0.02, 0.98])
    """Least and most share of the SFT split's tokens that are trained; outside it the run stops before training."""
    unlearned: Literal["mark", "stop"] = "mark"
    """If the loss did not fall or the reward margin did not rise: `mark` the tutor in the summary, or `stop`."""
    valid_format: Annotated[Number, Field(ge=0, le=1)] = 0.9
    """Least share of test replies in valid format; below it a tutor is marked, and its differences are not tested."""

    @model_validator(mode="after")
    def _least_first(self) -> "Checks":
        if self.trained_share[0] > self.trained_share[1]:
            raise mistake(f"is {self.trained_share}", "give the least share first, then the most", "trained_share")
        return self


class TrainingState(Section):
    """How often a training saves its state. A stopped training resumes from the newest state."""

    minutes: Natural = 15
    """Minutes between two states; 0: do not save by time."""
    steps: Natural = 0
    """Optimizer steps between two states; 0: do not save by steps."""


class Run(Section):
    """An aligned tutor, with the fine-tuned tutor that it starts from. Lists stand for all their combinations."""

    model: one_or_list(str)  # type: ignore[valid-type]
    """Name of a model in `models`."""
    algorithm: one_or_list(Algorithm)  # type: ignore[valid-type]
    """The alignment algorithm (docs/explanation/algorithms.md)."""
    beta: one_or_list(Beta)  # type: ignore[valid-type]
    """Weight of staying near the reference model."""
    seed: one_or_list(Seed) | None = None  # type: ignore[valid-type]
    """Training seed, to repeat a training with another one; left out: the seed of the config."""


class Architecture(Section):
    """Arguments of the transformers config of a `model_type`."""

    model_config = Section.model_config | {"extra": "allow"}

    model_type: str
    """Name of the architecture in transformers, such as llama."""


class Training(Section):
    """Settings of a training."""

    epochs: Positive
    """Passes over the split."""
    learning_rate: Positive
    """Peak learning rate."""
    scheduler: Literal["cosine", "linear", "constant", "constant_with_warmup"]
    """Schedule of the learning rate."""
    warmup: Share
    """Share of the steps during which the learning rate rises."""
    weight_decay: Annotated[Number, Field(ge=0)]
    """Weight decay of AdamW."""
    global_batch_size: Count
    """Conversations or pairs per optimizer step, over all devices; gradient accumulation follows from it."""
    device_batch_size: Count
    """Conversations or pairs that one device computes at a time."""
    gradient_checkpointing: bool
    """Recomputes activations to save memory."""


class Adapter(Section):
    """A LoRA adapter, trained instead of all weights in both stages (docs/how-to/adapters.md)."""

    rank: Count
    """Rank r of LoRA."""
    alpha: Count
    """Scaling alpha of LoRA."""
    dropout: Share
    """Dropout before the adapter."""
    targets: one_or_list(str)  # type: ignore[valid-type]
    """Names of the layers that get an adapter, or all-linear."""
    four_bit: bool
    """Holds the frozen weights in 4 bits (QLoRA)."""


class Generate(Section):
    """How a tutor answers."""

    max_new_tokens: Count
    """Most tokens of a reply."""
    min_new_tokens: Natural
    """Fewest tokens of a reply."""
    temperature: Annotated[Number, Field(ge=0)]
    """Sampling temperature; 0: always the most likely token."""
    repetition_penalty: Positive
    """Repetition penalty; 1: none."""
    engine: Literal["auto", "shared_prefix", "plain", "vllm"] = "auto"
    """The code that computes replies. `auto`: the faster of `shared_prefix` and `plain` that is proved to give this
    model's own replies (docs/how-to/engines.md)."""
    max_batch_tokens: Count | None = None
    """Most tokens in memory at a time, of conversations and of replies at full length; null: as many as fit."""
    shards: Count = 1
    """Number of jobs that answer a split in parallel; more than 1 needs a number for `max_batch_tokens`."""

    @model_validator(mode="after")
    def _batches(self) -> "Generate":
        if self.min_new_tokens > self.max_new_tokens:
            raise mistake(
                f"is {self.min_new_tokens}", f"give at most max_new_tokens, {self.max_new_tokens}", "min_new_tokens"
            )
        if self.shards > 1 and self.max_batch_tokens is None:
            remedy = "give max_batch_tokens a number, for example 65536, so that all jobs have the same batches"
            raise mistake(f"is {self.shards}", remedy, "shards")
        return self


class Job(Section):
    """Resources of a job."""

    gpu: text_or(Natural, UpTo)  # type: ignore[valid-type]
    """GPUs over all nodes: a number, or `up to 4`: as many as the machine has, at most 4."""
    nodes: Count | None = None
    """Number of nodes; left out: 1."""
    threads: Count
    """Threads per node."""
    mem_mb: Count
    """Memory per node, in MB."""
    runtime: Count
    """Time limit in minutes; a second attempt gets twice as many, a third three times, up to max_runtime."""
    max_runtime: Count | None = None
    """Longest time limit of an attempt; left out: all attempts get `runtime`."""


class Resources(Section):
    """Resources of a model's jobs. They do not change results: new resources rerun nothing."""

    renamed: ClassVar[Mapping[str, str]] = {"alignment": "align", "generation": "generate"}

    sft: Job | None = None
    """Resources of the fine-tuning."""
    align: Job | None = None
    """Resources of an alignment."""
    generate: Job
    """Resources of generation, perplexity and the reference; one GPU at most."""

    @model_validator(mode="after")
    def _one_gpu(self) -> "Resources":
        if self.generate.gpu not in (0, 1, "up to 1"):
            raise mistake(f"is {self.generate.gpu!r}", "set at most 1; 'shards' uses more GPUs", "generate.gpu")
        return self


class Model(Section):
    """An entry of the catalogue."""

    renamed: ClassVar[Mapping[str, str]] = {"alignment": "align", "generation": "generate"}

    path: Text | None = None
    """Folder or hub id of a pretrained model."""
    init: Literal["scratch"] | None = None
    """Instead of `path`: random weights, and a tokenizer trained on the SFT split alone."""
    vocab_size: Annotated[int, Field(ge=300)] | None = None
    """Vocabulary size of a model from scratch."""
    architecture: Architecture | None = None
    """Architecture of a model from scratch."""
    template: Literal["auto", "tutor", "mistral", "zephyr", "vicuna_v1.1", "llama-3"] = "auto"
    """Prompt format: `auto`, the chat template of a pretrained model; `tutor` (ours); or one of FastChat's."""
    instruction: str
    """Name of the instruction in the rubric."""
    max_length: Annotated[int, Field(ge=16)] | None = None
    """Most tokens of a conversation or a preference pair in training."""
    allow_truncation: bool = False
    """true: train on conversations cut at max_length; false: stop before training if one is longer."""
    dtype: Literal["float32", "bfloat16"]
    """Precision: float32, or bfloat16 on GPUs."""
    sft: text_or(Training)  # type: ignore[valid-type]
    """Settings of the fine-tuning; or the folder or hub id of a tutor that is already fine-tuned."""
    adapter: Adapter | None = None
    """Trains a LoRA adapter instead of all weights."""
    aligned: Annotated[dict[str, Text], Field(min_length=1)] | None = None
    """Tutors that are already aligned: policy (such as dpo-b0.1) → folder or hub id."""
    align: Training | None = None
    """Settings of the alignments."""
    generate: Generate
    """How the tutors answer."""
    resources: Resources
    """Resources of the jobs."""

    @model_validator(mode="after")
    def _parts(self) -> "Model":
        scratch = [name for name in ("init", "architecture", "vocab_size") if getattr(self, name) is not None]
        if not isinstance(self.sft, str):
            if self.path is not None if len(scratch) == 3 else (scratch or self.path is None):
                given = [*(["path"] if self.path is not None else []), *scratch]
                remedy = "give either 'path', or 'init', 'architecture' and 'vocab_size' together"
                raise mistake(f"has {' and '.join(map(repr, given)) or 'no model to start from'}", remedy)
            self._needs("resources.sft", self.resources.sft)
            if self.init and self.template == "auto":
                raise mistake("is 'auto', and a model from scratch has no chat template", "write tutor", "template")
        if self.aligned is None:
            self._needs("align", self.align)
        if self.align is not None:
            self._needs("resources.align", self.resources.align)
        if self.align is not None or not isinstance(self.sft, str):
            self._needs("max_length", self.max_length)
        return self

    @staticmethod
    def _needs(name: str, value: object) -> None:
        if value is None:
            place, _, key = name.rpartition(".")
            raise mistake(f"key '{key}' is missing", f"add '{key}:'", place)

    @property
    def origin(self) -> str | None:
        """The model that the first training starts from; None for random weights."""
        return self.sft if isinstance(self.sft, str) else self.path

    @cached_property
    def as_dict(self) -> dict[str, Any]:
        """Names and values, without those that are None. Cached: each job asks for it."""
        found = {name: value for name, value in self.values().items() if value is not None}
        jobs = {name: job for name, job in found["resources"].items() if job is not None}
        dropped = {name: {key: value for key, value in job.items() if value is not None} for name, job in jobs.items()}
        return {**found, "resources": dropped}


class Config(Section):
    """config.yaml."""

    renamed: ClassVar[Mapping[str, str]] = {"splits": "split", "preferences": "pair", "evaluation": "score"}

    dataset: Name = "bio"
    """Name of the conversation files: <dataset>-dataset-1.json, -2.json, ..."""
    source: Path = "simulated"
    """Where the files are: simulated (datasets/simulated), published (downloaded; dataset: bio), or a folder."""
    published_url: Annotated[str, AfterValidator(_url)] = (
        "https://raw.githubusercontent.com/luffycodes/Tutorbot-Spock/main/datasets"
    )
    """Address of the published files, or of a mirror; downloads are checked by hash."""
    rubric: Path = "datasets/rubrics/class.yaml"
    """The fields and labels of a tutor's reply (docs/reference/rubrics.md)."""
    results: Path = "results"
    """The folder of all artifacts."""
    seed: Seed = 42
    """Random seed of the splits, the trainings, sampling and resampling."""
    simulation: Simulation = Simulation()
    split: Split = Split()
    paper_rules: bool = False
    """true: draw, clean and pair exactly as the paper's published scripts do (docs/how-to/paper-numbers.md)."""
    pair: Pair = Pair()
    score: Score = Score()
    checks: Checks = Checks()
    benchmark: Literal["quick", "full"] = "quick"
    """Size of `snakemake benchmark`."""
    trackers: list[Literal["tensorboard", "wandb"]] = Field(default=["tensorboard"])
    """Where the curves of a training can be watched while it runs."""
    training_state: TrainingState = TrainingState()
    runs: Annotated[list[Run], Field(min_length=1)]
    """What `all` builds."""
    models: Annotated[dict[Name, Model], Field(min_length=1)]
    """The catalogue of models. To build one without a run, ask for its path:
    results/<model>/<policy>/test/metrics.json"""

    @model_validator(mode="after")
    def _together(self) -> "Config":
        if self.paper_rules and self.split.method != "random":
            raise mistake("paper_rules draw at random", "set it to random, or paper_rules to false", "split.method")
        if len(set(self.trackers)) < len(self.trackers):
            raise mistake(f"is {list(self.trackers)}", "name each tracker once", "trackers")
        return self
