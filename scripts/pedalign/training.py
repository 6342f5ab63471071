"""What trainings share, and supervised fine-tuning, by TRL's trainers on rows that the renderer made."""

import argparse
import dataclasses
import json
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerFast, PrinterCallback, TrainerCallback
from trl import SFTConfig, SFTTrainer
from trl.trainer import utils as trl_utils

from pedalign.adapters import AdapterSettings, load_with_adapter, merged
from pedalign.artifacts import whole_directory, write_manifest
from pedalign.conversation import Conversation
from pedalign.errors import UserError
from pedalign.models import load_model, load_tokenizer, save_checkpoint
from pedalign.rubric import load_rubric
from pedalign.settings import from_json
from pedalign.template import Renderer, renderer

# TRL's language-model head skips the positions that are not trained, but only where Triton runs: some accelerators need
# tensors of one shape from batch to batch. The CPU does not, so it may skip them too. The losses are the same.
trl_utils._use_triton = lambda device: True


@dataclass(frozen=True)
class TrainingSettings:
    """What decides the result of a training; every field stands in config.yaml.

    `warmup` is a share of the steps. `global_batch_size` counts rows (conversations or pairs) per
    optimizer step over all devices; `device_batch_size` those computed at a time on one device.
    `max_length` is in tokens.
    """

    epochs: float
    learning_rate: float
    scheduler: str
    warmup: float
    weight_decay: float
    global_batch_size: int
    device_batch_size: int
    max_length: int
    dtype: str
    gradient_checkpointing: bool
    seed: int

    def accumulation(self, processes: int) -> int:
        """Batches per optimizer step on each device. Raises UserError where it is no whole number."""
        at_a_time = self.device_batch_size * processes
        if self.global_batch_size % at_a_time:
            raise UserError(
                f"global_batch_size {self.global_batch_size} is not a multiple of device_batch_size "
                f"{self.device_batch_size} x {processes} processes = {at_a_time}",
                "change one of the two in the model's entry of config.yaml",
            )
        return self.global_batch_size // at_a_time

    def trainer_arguments(self) -> dict[str, Any]:
        """The arguments that SFTConfig and DPOConfig share."""
        processes = int(os.environ.get("WORLD_SIZE", "1"))
        on_gpu = torch.cuda.is_available()
        return {
            "output_dir": tempfile.gettempdir(),  # nothing is saved there (save_strategy)
            "num_train_epochs": self.epochs,
            "learning_rate": self.learning_rate,
            "lr_scheduler_type": self.scheduler,
            "warmup_steps": self.warmup,
            "weight_decay": self.weight_decay,
            "per_device_train_batch_size": self.device_batch_size,
            "gradient_accumulation_steps": self.accumulation(processes),
            "max_length": self.max_length,
            "bf16": self.dtype == "bfloat16",
            "tf32": True if on_gpu else None,
            "activation_checkpointing": self.gradient_checkpointing,  # transformers 5 renames it
            "train_sampling_strategy": "group_by_length",
            "seed": self.seed,
            "use_cpu": not on_gpu,
            "save_strategy": "no",
            "report_to": "none",
            "logging_steps": 1,
            "disable_tqdm": True,
        }


class Progress(TrainerCallback):
    """A line every ten seconds in place of a line per step."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.started = self.last = time.monotonic()

    def on_log(self, args, state, control, logs=None, **_):
        now = time.monotonic()
        if state.is_world_process_zero and logs and "loss" in logs and now - self.last >= 10:
            self.last = now
            left = (now - self.started) / state.global_step * (state.max_steps - state.global_step)
            print(
                f"{self.name}: step {state.global_step}/{state.max_steps}, loss {float(logs['loss']):.3f}, "
                f"{left:.0f} s left",
                flush=True,
            )


def run_trainer(trainer: Any, started: float) -> dict[str, Any]:
    """Train, and the facts for the manifest."""
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    steps = [entry for entry in trainer.state.log_history if "loss" in entry]
    return {
        "seconds": round(time.monotonic() - started, 1),
        "steps": trainer.state.global_step,
        "final_loss": float(steps[-1]["loss"]),
        "history": [{name: _number(value) for name, value in entry.items()} for entry in steps],
    }


def _number(value: Any) -> Any:
    return float(value) if isinstance(value, str) else value


def finetune(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    renderer: Renderer,
    conversations: Sequence[Conversation],
    settings: TrainingSettings,
) -> dict[str, Any]:
    """Fine-tune `model` in place on the tutor's turns; the facts for the manifest.

    One row per conversation; exactly the replies and their end tokens are trained.
    """
    started = time.monotonic()
    rows = []
    for conversation in conversations:
        ids, trained = renderer.encode(conversation.messages)
        if not any(trained[: settings.max_length]):
            raise UserError(
                f"conversation '{conversation.id}': max_length {settings.max_length} cuts off every reply",
                "raise 'max_length' in the model's entry of config.yaml",
            )
        labels = [token if wanted else -100 for token, wanted in zip(ids, trained, strict=True)]
        rows.append({"input_ids": ids[: settings.max_length], "labels": labels[: settings.max_length]})
    trainer = SFTTrainer(
        model=model,
        args=SFTConfig(**settings.trainer_arguments()),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        callbacks=[Progress("finetune")],
    )
    expect_all_rows(len(trainer.train_dataset), len(rows))
    return {"rows": len(rows), **run_trainer(trainer, started)}


def expect_all_rows(kept: int, given: int) -> None:
    if kept != given:
        raise AssertionError(f"the trainer dropped {given - kept} of {given} rows")


@dataclass(frozen=True)
class StageSettings:
    """All that a training script is told."""

    rendering: dict[str, str]  # template and instruction
    training: TrainingSettings
    adapter: AdapterSettings | None = None  # None: all weights are trained
    alignment: dict[str, Any] | None = None  # AlignmentSettings, of preference optimization alone

    @classmethod
    def from_json(cls, text: str) -> "StageSettings":
        settings = from_json(cls, text)
        training = from_json(TrainingSettings, json.dumps(settings.training))
        adapter = from_json(AdapterSettings, json.dumps(settings.adapter)) if settings.adapter else None
        return dataclasses.replace(settings, training=training, adapter=adapter)


def add_training_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", required=True, help="folder or hub id of the model to start from")
    parser.add_argument("--rubric", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True, help="the checkpoint folder")
    parser.add_argument("--manifest", type=Path, required=True, help="the checkpoint's manifest, written last")
    parser.add_argument(
        "--settings", required=True, help="JSON: rendering, training, and for preference optimization alignment"
    )


def train_and_save(
    args: argparse.Namespace,
    settings: StageSettings,
    train: Callable[[PreTrainedModel, PreTrainedTokenizerFast, Renderer], dict[str, Any]],
) -> None:
    """Load the model, `train` it or its adapter in place, write the whole model, and its manifest last."""
    tokenizer = load_tokenizer(args.model)
    rendering = renderer(tokenizer, rubric=load_rubric(args.rubric), **settings.rendering)
    if tokenizer.pad_token is None:  # nor an end token of its own: the template's serves
        tokenizer.pad_token = rendering.template.end
    dtype, adapter = settings.training.dtype, settings.adapter
    model: Any = load_with_adapter(args.model, dtype, adapter) if adapter else load_model(args.model, dtype)
    facts = train(model, tokenizer, rendering)
    if adapter:
        model = merged(model, args.model, dtype, adapter)
    with whole_directory(args.output) as folder:
        save_checkpoint(model, rendering, tokenizer, folder)
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    write_manifest(args.manifest, args.output, settings=dataclasses.asdict(settings), processes=processes, **facts)
    print(f"{args.output}: {facts['rows']} rows, {facts['seconds']:.0f} s, final loss {facts['final_loss']:.4f}")
