"""Writes the curves of a training, for TensorBoard or Weights & Biases."""

import importlib.util
import math
import os
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from pedalign.core.errors import UserError, nearest

TRACKERS = ("tensorboard", "wandb")


def trackers(names: Sequence[str], folder: Path, epochs: float) -> list[TrainerCallback]:
    """Trainer callbacks for these trackers; `folder`: for TensorBoard's files.

    `epochs`: of the training; the trainer counts all of them as one.

    Raises UserError for an unknown name, or if its package is not installed.
    """
    for name in names:
        if name not in TRACKERS:
            raise UserError(f"--trackers: '{name}' is not known", nearest(name, TRACKERS))
        if importlib.util.find_spec(name) is None:
            raise UserError(
                f"trackers: '{name}' is not installed",
                f"pip install {name} (without it: take '{name}' out of 'trackers' in config.yaml)",
            )
    made = {"tensorboard": _tensorboard, "wandb": _wandb}
    return [_Guarded(name, made[name], folder, epochs) for name in names]


class _Guarded(TrainerCallback):
    """Drops a tracker once it fails, for example on a full disk or without a network: this must not end a training."""

    def __init__(self, name: str, make: Callable[[Path], TrainerCallback], folder: Path, epochs: float) -> None:
        self.name = name
        self.epochs = epochs
        self.tracker: TrainerCallback | None = make(folder)

    def _tell(self, event: str, *given: Any, **named: Any) -> None:
        try:
            if self.tracker:
                getattr(self.tracker, event)(*given, **named)
        except Exception as error:  # its package may raise anything
            self.tracker = None
            print(f"{self.name}: failed, and is no longer used: {type(error).__name__}: {error}", flush=True)

    def on_train_begin(self, *given: Any, **named: Any) -> None:
        self._tell("on_train_begin", *given, **named)

    def on_log(self, *given: Any, logs: dict[str, Any], **named: Any) -> None:
        # TRL logs figures that it does not compute as nan.
        known = {name: value for name, value in logs.items() if not (isinstance(value, float) and math.isnan(value))}
        if "epoch" in known:
            known["epoch"] *= self.epochs
        self._tell("on_log", *given, logs=known, **named)

    def on_save(self, *given: Any, **named: Any) -> None:
        self._tell("on_save", *given, **named)

    def on_train_end(self, *given: Any, **named: Any) -> None:
        self._tell("on_train_end", *given, **named)


def _tensorboard(folder: Path) -> TrainerCallback:
    from torch.utils.tensorboard import SummaryWriter
    from transformers.integrations import TensorBoardCallback

    class TensorBoard(TensorBoardCallback):
        """Hides what was written of steps later than the one resumed from, or by an earlier training."""

        def __init__(self) -> None:
            super().__init__()
            self.logging_dir = str(folder)

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.is_world_process_zero:
                self.tb_writer = SummaryWriter(str(folder), purge_step=state.global_step + 1)
            super().on_train_begin(args, state, control, **kwargs)

    return TensorBoard()


def _wandb(folder: Path) -> TrainerCallback:
    from transformers.integrations import WandbCallback

    class WeightsAndBiases(WandbCallback):
        """A resumed training continues its run; one that starts over gets a new run."""

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.is_world_process_zero:
                note = folder.parent / "wandb" / f"{folder.name}.run"
                if state.global_step == 0 or not note.is_file():
                    note.parent.mkdir(parents=True, exist_ok=True)
                    note.write_text(uuid.uuid4().hex)
                os.environ.setdefault("WANDB_RUN_ID", note.read_text())
                os.environ.setdefault("WANDB_RESUME", "allow")
            super().on_train_begin(args, state, control, **kwargs)

    os.environ.setdefault("WANDB_DIR", str(folder.parent))
    os.environ.setdefault("WANDB_PROJECT", "pedalign")
    os.environ.setdefault("WANDB_NAME", "/".join(folder.parts[-2:]))
    return WeightsAndBiases()
