"""The settings that decide the result of a training script, and the script's arguments."""

import argparse
import dataclasses
import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import get_scheduler

from pedalign.core.errors import UserError
from pedalign.core.processes import (
    accumulation,
    processes,
    sharded,
)
from pedalign.core.settings import read_settings
from pedalign.models.adapters import AdapterSettings


@dataclass(frozen=True)
class TrainingSettings:
    """The settings that decide the result of a training; all are in config.yaml.

    `warmup`: share of the steps. `global_batch_size`: rows (conversations or pairs) per optimizer step, over all
    devices. `device_batch_size`: rows that one device computes at a time. `max_length`: in tokens; None: no cuts.
    `trainer`: further arguments of TRL's config, none of those that `trainer_arguments` sets.
    """

    epochs: float
    learning_rate: float
    scheduler: str
    warmup: float
    weight_decay: float
    global_batch_size: int
    device_batch_size: int
    max_length: int | None
    dtype: str
    gradient_checkpointing: bool
    seed: int
    trainer: dict[str, Any] = dataclasses.field(default_factory=dict)

    def trainer_arguments(self) -> dict[str, Any]:
        """The arguments that SFTConfig and DPOConfig share; rows come in the order of `training_order`."""
        on_gpu = torch.cuda.is_available()
        return {
            "output_dir": tempfile.gettempdir(),  # nothing is saved there; TrainingStates has its own folder
            "num_train_epochs": 1,  # training_order holds all epochs
            "learning_rate": self.learning_rate,
            "lr_scheduler_type": self.scheduler,
            "warmup_steps": self.warmup,
            "weight_decay": self.weight_decay,
            "per_device_train_batch_size": self.device_batch_size,
            "gradient_accumulation_steps": accumulation(self.global_batch_size, self.device_batch_size, processes()),
            "max_length": self.max_length,
            "bf16": self.dtype == "bfloat16",
            "tf32": True if on_gpu else None,
            "activation_checkpointing": self.gradient_checkpointing,  # new name in transformers 5
            "train_sampling_strategy": "sequential",
            "seed": self.seed,
            "use_cpu": not on_gpu and not sharded(),  # with it, DeepSpeed would not be used
            "dataloader_pin_memory": on_gpu,
            "ddp_backend": "gloo" if processes() > 1 and not on_gpu else None,
            "save_strategy": "no",  # TrainingStates decides when to save
            "report_to": "none",
            "logging_steps": 1,
            "logging_nan_inf_filter": False,  # else a nan loss would be logged as the mean of the others
            "disable_tqdm": True,
        }

    def config(self, kind: Callable[..., Any], **arguments: Any) -> Any:
        """TRL's config of a `kind`: with the arguments of all trainings, of this one, and those of `trainer`.

        Raises UserError if TRL refuses one.
        """
        return made(kind, **{**self.trainer_arguments(), **arguments, **self.trainer})

    def expect_optimizer(self, trainer: Any) -> None:
        """Raises UserError if a trainer's optimizer or schedule can't be made of the settings."""
        one = torch.nn.Parameter(torch.zeros(1))
        arguments = {"num_warmup_steps": 1, "num_training_steps": 100}
        try:
            trainer.get_optimizer_cls_and_kwargs(trainer.args, trainer.model)
            kwargs = trainer.args.lr_scheduler_kwargs
            optimizer = torch.optim.SGD([one])
            get_scheduler(self.scheduler, optimizer, **arguments, scheduler_specific_kwargs=kwargs)
        except (ValueError, TypeError, ImportError, RuntimeError) as error:
            raise _refused(error) from None


def made(kind: Callable[..., Any], **arguments: Any) -> Any:
    """TRL's config or trainer of a `kind`. Raises UserError if TRL refuses an argument."""
    try:
        return kind(**arguments)
    except (ValueError, TypeError, ImportError, NotImplementedError) as error:
        raise _refused(error) from None


def _refused(error: Exception) -> UserError:
    words = (str(error).splitlines() or [type(error).__name__])[0]
    return UserError(f"TRL refuses the settings of the training: {words}", "change 'trainer' or 'scheduler'")


@dataclass(frozen=True)
class StageSettings:
    """All settings of a training script."""

    rendering: dict[str, str]  # template and instruction
    training: TrainingSettings
    adapter: AdapterSettings | None = None  # None: all weights are trained
    alignment: dict[str, Any] | None = None  # AlignmentSettings; None for SFT
    attn_implementation: str | None = None  # None: transformers decides

    @classmethod
    def read(cls, given: str) -> "StageSettings":
        settings = read_settings(cls, given)
        training = read_settings(TrainingSettings, json.dumps(settings.training), "--settings: training")
        adapter = settings.adapter and read_settings(
            AdapterSettings, json.dumps(settings.adapter), "--settings: adapter"
        )
        return dataclasses.replace(settings, training=training, adapter=adapter)

    def given(self) -> dict[str, Any]:
        """As they are recorded: without what may be left out, and is."""
        found = dataclasses.asdict(self)
        for values, names in ((found["training"], ("trainer",)), (found, ("attn_implementation",))):
            for name in names:
                if not values[name]:
                    del values[name]
        return found


def add_training_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", required=True, help="folder or hub id of the model to start from")
    parser.add_argument("--rubric", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True, help="the checkpoint folder")
    parser.add_argument("--manifest", type=Path, required=True, help="the checkpoint's manifest, written last")
    parser.add_argument(
        "--settings",
        required=True,
        help="a file (YAML, JSON) or JSON: rendering, training, and for preference optimization alignment",
    )
    parser.add_argument("--save-minutes", type=float, default=15, help="between training states (0: not by time)")
    parser.add_argument("--save-steps", type=int, default=0, help="between training states (0: not by steps)")
    parser.add_argument("--trackers", default="none", help="where to write curves: tensorboard,wandb or none")
    parser.add_argument("--tensorboard", type=Path, default=Path("runs"), help="the folder for TensorBoard's files")
    parser.add_argument(
        "--unlearned",
        choices=("mark", "stop"),
        default="mark",
        help="what to do if the loss did not fall or the reward margin did not rise",
    )
