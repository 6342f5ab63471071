"""The settings of a model's entry in config.yaml."""

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from pedalign.core.errors import UserError
from pedalign.core.section import Number, Section, Text, mistake, one_or_list, text_or
from pedalign.training.trainer_arguments import check_aligning, check_schedule, check_trainer
from pedalign.workflow.setting_types import Attention, Count, Natural, Positive, Scheduler, Share, UpTo, Weight


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
    scheduler: Scheduler
    """Schedule of the learning rate, by its name in transformers."""
    warmup: Share
    """Share of the steps during which the learning rate rises."""
    weight_decay: Weight
    """Weight decay of the optimizer."""
    global_batch_size: Count
    """Conversations or pairs per optimizer step, over all devices; gradient accumulation follows from it."""
    device_batch_size: Count
    """Conversations or pairs that one device computes at a time."""
    gradient_checkpointing: bool
    """Recomputes activations to save memory."""
    trainer: dict[str, Any] | None = None
    """Further arguments of TRL's config, such as {optim: adafactor}; what is set elsewhere is refused
    (docs/how-to/trainer-arguments.md)."""

    @model_serializer(mode="wrap")
    def _given(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without what may be left out and is: a new setting changes nothing for those who do not use it."""
        return {name: value for name, value in handler(self).items() if value not in (None, {})}


class Alignment(Training):
    """Settings of an alignment."""

    sft_weight: Weight | None = None
    """Weight of the fine-tuning loss of the gold replies, for dpo_sft and cpo; left out: 1."""


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

    @model_validator(mode="after")
    def _all_linear_alone(self) -> "Adapter":
        if isinstance(self.targets, list) and "all-linear" in self.targets:
            raise mistake(f"is {self.targets}", "write all-linear alone, without a list", "targets")
        return self


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

    preset: Text | None = None
    """Name of a preset in `presets`, whose values the entry has, unless it gives them itself."""
    like: Text | None = None
    """Name of another entry, whose values it has, unless it gives them itself."""
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
    attn_implementation: Attention | None = None
    """How transformers computes attention, in every stage; left out: as it does by default. FlashAttention needs its
    package and bfloat16."""
    sft: text_or(Training)  # type: ignore[valid-type]
    """Settings of the fine-tuning; or the folder or hub id of a tutor that is already fine-tuned."""
    adapter: Adapter | None = None
    """Trains a LoRA adapter instead of all weights."""
    aligned: Annotated[dict[str, Text], Field(min_length=1)] | None = None
    """Tutors that are already aligned: policy (such as dpo-b0.1) → folder or hub id."""
    align: Alignment | None = None
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
        if (self.attn_implementation or "").startswith("flash") and self.dtype != "bfloat16":
            raise mistake(
                f"is '{self.attn_implementation}', which computes in 16 bits, and dtype is {self.dtype}",
                "set dtype to bfloat16, or attn_implementation to sdpa",
                "attn_implementation",
            )
        if isinstance(self.sft, Training):
            _checked(check_trainer, "SFT", self.sft.trainer or {}, "sft.trainer")
            _checked(check_schedule, self.sft.scheduler, self.sft.trainer or {}, "sft")
        if self.align is not None:
            _checked(check_aligning, self.align.trainer or {}, "align.trainer")
            _checked(check_schedule, self.align.scheduler, self.align.trainer or {}, "align")
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


def _checked(check: Callable[..., None], *given: Any) -> None:
    """Raises a UserError of a check as a mistake of a section, in which the place comes first."""
    try:
        check(*given)
    except UserError as error:
        place, _, problem = error.problem.partition(": ")
        raise mistake(problem, error.remedy, place) from None
