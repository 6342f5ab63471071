"""The settings of config.yaml: their names, types, meanings, defaults and limits, declared once.

The check of a config, its messages and docs/reference/config.md are made from these declarations.
"""

import os
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field, model_validator

from pedalign.core.section import Number, Section, as_part, mistake, one_or_list
from pedalign.data.sources.importers import IMPORTERS, is_bank
from pedalign.workflow.catalogue import filled_in, given_at
from pedalign.workflow.model_settings import Model
from pedalign.workflow.setting_types import (
    Algorithm,
    Beta,
    Count,
    Format,
    Name,
    Natural,
    Path,
    Positive,
    Scheduler,
    Seed,
    Share,
    Shares,
    Weight,
    url,
)


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


class Import(Section):
    """Raw files of conversations in another format, which are converted first (docs/how-to/import.md)."""

    format: Format
    """Their format."""
    files: one_or_list(Path)  # type: ignore[valid-type]
    """The files, from the folder of the call: JSON or JSON lines; for `class` also problem banks (CSV, YAML)."""

    @property
    def paths(self) -> list[str]:
        return self.files if isinstance(self.files, list) else [self.files]

    @property
    def of_bank(self) -> bool:
        """Whether conversations are simulated about the problems of a bank."""
        return IMPORTERS[self.format].banks and is_bank(self.paths[0])

    @model_validator(mode="after")
    def _each_once(self) -> "Import":
        if len({os.path.realpath(path) for path in self.paths}) < len(self.paths):
            raise mistake(f"is {self.paths}", "name each file once", "files")
        banks = [is_bank(path) for path in self.paths]
        if any(banks) and not all(banks):
            raise mistake(
                "has a problem bank beside conversations", "name banks alone, or conversations alone", "files"
            )
        return self


class Split(Section):
    """Number of conversations to draw from each file."""

    sft: Count = 500
    """For supervised fine-tuning."""
    dpo: Count = 350
    """For preference pairs: the fine-tuned tutor answers these, and its mistakes become pairs."""
    test: Count = 400
    """For the metrics."""
    min_turns: Annotated[int, Field(ge=1, le=2)] = 2
    """2: conversations of more than two turns, as in the paper; 1: also those of one reply, with `score.first_turn`."""
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


class RunAdapter(Section):
    """Settings of the alignment's adapter that are not those of the model's entry."""

    rank: one_or_list(Count) = None  # type: ignore[valid-type]
    """Rank r of LoRA."""
    alpha: one_or_list(Count) = None  # type: ignore[valid-type]
    """Scaling alpha of LoRA."""
    dropout: one_or_list(Share) = None  # type: ignore[valid-type]
    """Dropout before the adapter."""
    four_bit: one_or_list(bool) = None  # type: ignore[valid-type]
    """Holds the frozen weights in 4 bits (QLoRA)."""
    targets: Any = None
    """Names of the layers that get an adapter, or all-linear; a list of lists stands for all of them."""


class Run(Section):
    """An aligned tutor, with the fine-tuned tutor that it starts from. Lists stand for all their combinations.

    Below `seed` are settings of the alignment that are not those of the model's entry (docs/how-to/sweep.md).
    """

    model: one_or_list(str)  # type: ignore[valid-type]
    """Name of a model in `models`."""
    policy: Literal["base"] | None = None
    """Instead of `algorithm` and `beta`: `base`, the model before any training, told what to do by the full
    instruction."""
    algorithm: one_or_list(Algorithm) | None = None  # type: ignore[valid-type]
    """The alignment algorithm (docs/explanation/algorithms.md)."""
    beta: one_or_list(Beta) | None = None  # type: ignore[valid-type]
    """Weight of staying near the reference model."""
    seed: one_or_list(Seed) | None = None  # type: ignore[valid-type]
    """Training seed, to repeat a training with another one; left out: the seed of the config."""
    epochs: one_or_list(Positive) = None  # type: ignore[valid-type]
    """Passes over the pairs."""
    learning_rate: one_or_list(Positive) = None  # type: ignore[valid-type]
    """Peak learning rate."""
    scheduler: one_or_list(Scheduler) = None  # type: ignore[valid-type]
    """Schedule of the learning rate."""
    warmup: one_or_list(Share) = None  # type: ignore[valid-type]
    """Share of the steps during which the learning rate rises."""
    weight_decay: one_or_list(Weight) = None  # type: ignore[valid-type]
    """Weight decay of the optimizer."""
    global_batch_size: one_or_list(Count) = None  # type: ignore[valid-type]
    """Pairs per optimizer step, over all devices."""
    device_batch_size: one_or_list(Count) = None  # type: ignore[valid-type]
    """Pairs that one device computes at a time."""
    gradient_checkpointing: one_or_list(bool) = None  # type: ignore[valid-type]
    """Recomputes activations to save memory."""
    sft_weight: one_or_list(Weight) = None  # type: ignore[valid-type]
    """Weight of the fine-tuning loss of the gold replies, for dpo_sft and cpo."""
    adapter: RunAdapter = None  # type: ignore[assignment]
    """Settings of the adapter; with an entry that has none, all of them."""
    trainer: dict[str, Any] = None  # type: ignore[assignment]
    """Arguments of TRL's config, with lists of values to try."""

    @model_validator(mode="after")
    def _trained_or_not(self) -> "Run":
        settings = {name: value for name, value in self.values().items() if name not in ("model", "policy")}
        given = [name for name, value in settings.items() if value is not None]
        if self.policy and given:
            raise mistake(f"has 'policy: base' and {given[0]!r}", f"an untrained model has no {given[0]}: remove one")
        missing = [name for name in ("algorithm", "beta") if settings[name] is None]
        if not self.policy and missing:
            meaning = as_part(type(self).model_fields[missing[0]].description or "")
            raise mistake(f"key {missing[0]!r} is missing", f"add '{missing[0]}:' ({meaning})")
        return self


class Config(Section):
    """config.yaml."""

    renamed: ClassVar[Mapping[str, str]] = {"splits": "split", "preferences": "pair", "evaluation": "score"}

    dataset: Name = "bio"
    """Name of the conversation files: <dataset>-dataset-1.json, -2.json, ..."""
    source: Path = "simulated"
    """Where the files are: simulated (datasets/simulated), published (downloaded; dataset: bio), or a folder."""
    import_: Import | None = Field(default=None, alias="import")
    """Raw files to convert into conversation files, in place of `source`; null: there are none."""
    published_url: Annotated[str, AfterValidator(url)] = (
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
    defaults: dict[str, Any] = Field(default={})
    """Values for every entry of `models` that does not give them itself."""
    presets: dict[Name, dict[str, Any]] = Field(default={})
    """Values that entries of `models` take by name: `preset: laptop`."""
    models: Annotated[dict[Name, Model], Field(min_length=1)]
    """The catalogue of models. To build one without a run, ask for its path:
    results/<model>/<policy>/test/metrics.json"""

    @model_validator(mode="before")
    @classmethod
    def _filled_in(cls, values: Any) -> Any:
        return filled_in(values) if isinstance(values, dict) else values

    @classmethod
    def given_at(cls, values: Any, path: list[Any]) -> list[Any]:
        return given_at(values, path)

    @model_validator(mode="after")
    def _together(self) -> "Config":
        if self.paper_rules and self.split.method != "random":
            raise mistake("paper_rules draw at random", "set it to random, or paper_rules to false", "split.method")
        if self.split.min_turns == 1 and self.paper_rules:
            raise mistake("paper_rules draw conversations of more than two turns", "set it to 2", "split.min_turns")
        if self.split.min_turns == 1 and not self.score.first_turn:
            problem = "is false, and of conversations of one reply (split.min_turns: 1) there is no other to score"
            raise mistake(problem, "set it to true, or split.min_turns to 2", "score.first_turn")
        if self.import_ and self.source != "simulated":
            raise mistake(f"is {self.source!r}, and `import` names files too", "leave out one of the two", "source")
        if len(set(self.trackers)) < len(self.trackers):
            raise mistake(f"is {list(self.trackers)}", "name each tracker once", "trackers")
        return self
