"""Writes the curves of a training: TensorBoard's files, or Weights & Biases."""

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
    """The trainers' callbacks of those names; TensorBoard's files lie in `folder`.

    `epochs` are those of the training; the trainer counts all of them as one.

    Raises UserError for another name, or one whose package is not installed.
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
    """A tracker that is told no more once it fails, as on a full disk or without the net: no training ends by it."""

    def __init__(self, name: str, make: Callable[[Path], TrainerCallback], folder: Path, epochs: float) -> None:
        self.name = name
        self.epochs = epochs
        self.tracker: TrainerCallback | None = make(folder)

    def _tell(self, event: str, *given: Any, **named: Any) -> None:
        try:
            if self.tracker:
                getattr(self.tracker, event)(*given, **named)
        except Exception as error:  # whatever its package raises
            self.tracker = None
            print(f"{self.name}: fails, and is told no more: {type(error).__name__}: {error}", flush=True)

    def on_train_begin(self, *given: Any, **named: Any) -> None:
        self._tell("on_train_begin", *given, **named)

    def on_log(self, *given: Any, logs: dict[str, Any], **named: Any) -> None:
        # TRL logs what it does not compute as not a number.
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
        """What was written of later steps than the one gone on from, or by an earlier training, is shown no more."""

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
        """A training that goes on from a state goes on with its run; one that starts over has another."""

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
