"""Training states: saved now and then while a training runs, so that one that was ended goes on where it was.

The states of a checkpoint `<path>` lie beside it in `<path>.state-<key>`. The key is a hash of all that decides the
result (settings, data, model, code, versions), which origin.json there spells out. A state counts only when the last
process has written it and whole.json lists its files, with size and sha256.
"""

import atexit
import dataclasses
import hashlib
import json
import os
import shutil
import signal
import socket
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import torch.distributed as distributed
from transformers import TrainerCallback

from pedalign.core.artifacts import read_json, sha256, sync, write_json, write_text
from pedalign.core.code_digest import digest
from pedalign.core.errors import UserError
from pedalign.core.processes import is_first_process, processes, sharded
from pedalign.core.provenance import folder_hashes

KEPT = 2  # whole states; one more lies there while it is written
_WHOLE = "whole.json"
_OWNER = "owner"
_DECIDING = ("torch", "transformers", "trl", "accelerate", "deepspeed", "peft")


def _joined() -> bool:
    """Whether this process has joined others."""
    return distributed.is_available() and distributed.is_initialized()


def wait_for_all() -> None:
    if _joined():
        distributed.barrier()


def leave_at_exit() -> Callable[[], None]:
    """Let go of the other processes in good order, as this one exits. To be called when all is done: then it ends at
    once, before threads that still listen to the others can abort it."""
    done: list[bool] = []

    def leave() -> None:
        if _joined():
            distributed.destroy_process_group()
        if done:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(0)

    atexit.register(leave)
    return lambda: done.append(True)


@dataclasses.dataclass(frozen=True)
class Origin:
    """All that decides the result of a training, and how it was spread: `sharded` states are in as many parts as
    there were `processes` and can't be put together in another number.

    `counted`: the number of processes has a say in the result. Each draws its own random numbers for dropout, and a
    loss may depend on the rows that all of them compute at a time.
    """

    decides: dict[str, Any]
    processes: int
    sharded: bool
    counted: bool

    @property
    def key(self) -> str:
        text = json.dumps(self.decides, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def differences(self, other: "Origin") -> list[str]:
        """What keeps a state of `other` from being gone on with: `name: there -> here`, one per difference."""
        there, here = dict(_flat(other.decides)), dict(_flat(self.decides))
        found = [
            f"{name}: {there.get(name)} -> {here.get(name)}"
            for name in sorted(there.keys() | here.keys())
            if there.get(name) != here.get(name)
        ]
        exact = not (self.sharded or other.sharded or self.counted)
        if self.processes != other.processes and not exact:
            found.append(f"processes: {other.processes} -> {self.processes}")
        elif self.sharded != other.sharded:
            found.append(f"sharded: {other.sharded} -> {self.sharded}")
        return found


def _flat(values: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(values, dict):
        for key, value in values.items():
            yield from _flat(value, f"{name}.{key}" if name else key)
    else:
        yield name, values


def origin(
    script: Path, settings: dict[str, Any], files: Sequence[Path], model: str | Path, at_a_time: bool = False
) -> Origin:
    """What decides the result of `script`: its settings, input files, model, code and the packages that compute.

    `at_a_time`: the loss depends on the rows that all processes compute at a time.
    """
    adapter, trainer = settings.get("adapter"), settings.get("training", {}).get("trainer", {})
    drawn = bool(adapter and adapter["dropout"]) or trainer.get("neftune_noise_alpha") is not None
    counted = at_a_time or drawn  # each process draws its own random numbers
    decides = {
        "settings": settings,
        "data": {file.name: sha256(file) for file in files},
        "model": _model_fingerprint(model),
        "code": digest(script),
        "versions": {package: version(package) for package in _DECIDING},
    }
    return Origin(decides, processes(), sharded(), counted)


def _model_fingerprint(model: str | Path) -> str:
    """From the manifest that lies beside a checkpoint of ours; else from what is known without reading gigabytes."""
    folder, manifest = Path(model), Path(f"{str(model).rstrip('/')}.json")
    if manifest.is_file():
        known: Any = read_json(manifest)["files"]
    elif folder.is_dir():
        known = [(file.name, file.stat().st_size, file.stat().st_mtime) for file in sorted(folder.iterdir())]
    else:
        known = str(model)
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()


class TrainingStates(TrainerCallback):
    """Saves states as it is called back by the trainer, and finds the one to go on from.

    A state is saved every `minutes`, every `steps` optimizer steps (0: not by that measure), and at the next step once
    the process got SIGTERM, whereupon the training stops. It stops too where another process has taken the training
    over: a cluster that lost sight of a node starts its job elsewhere, while here it may still run.
    """

    def __init__(self, checkpoint: Path, origin: Origin, minutes: float, steps: int) -> None:
        self.folder = checkpoint.with_name(f"{checkpoint.name}.state-{origin.key}")
        self.checkpoint = checkpoint
        self.origin = origin
        self.minutes = minutes
        self.steps = steps
        self.terminated = False  # got SIGTERM
        self.interrupted = False  # stopped for it before the last step
        self.me = f"{socket.gethostname()}, process {os.getpid()} ({uuid.uuid4()})"
        self.saved = time.monotonic()

    def __enter__(self) -> "TrainingStates":
        self.handler = signal.signal(signal.SIGTERM, self._terminate)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})  # blocked by the launcher until now
        return self

    def __exit__(self, *_: Any) -> None:
        # What was done counts: another SIGTERM does not spoil the exit status.
        signal.signal(signal.SIGTERM, signal.SIG_IGN if self.terminated else self.handler)

    def _terminate(self, *_: Any) -> None:
        self.terminated = True

    def newest(self) -> Path | None:
        """The newest whole state that this training may go on from, the same for all its processes.

        States of other settings, data, code or processes are named, and removed: the training starts over.
        """
        chosen: list[Path | None] = [None]
        if is_first_process():
            for folder in sorted(self.checkpoint.parent.glob(f"{self.checkpoint.name}.state-*")):
                self._refuse_foreign(folder)
            chosen = [self._newest_whole()]
            self.folder.mkdir(parents=True, exist_ok=True)
            write_json(self.folder / "origin.json", dataclasses.asdict(self.origin))
            write_text(self.folder / _OWNER, self.me)
        if _joined():
            distributed.broadcast_object_list(chosen)
        return chosen[0]

    def _refuse_foreign(self, folder: Path) -> None:
        try:
            differences = self.origin.differences(Origin(**read_json(folder / "origin.json")))
        except (UserError, TypeError):
            differences = ["it does not say of which"]
        if differences:
            listed = "; ".join(differences[:5]) + ("; ..." if len(differences) > 5 else "")
            print(f"{folder}: a training state of another training, starting over ({listed})", flush=True)
            shutil.rmtree(folder)

    def _newest_whole(self) -> Path | None:
        """Removes newer states that are not as they were written."""
        for state in sorted(self.folder.glob("checkpoint-*"), key=_step, reverse=True):
            defect = _defect(state)
            if defect is None:
                print(f"going on from step {_step(state)} ({state})", flush=True)
                return state
            print(f"{state}: {defect}, removed", flush=True)
            shutil.rmtree(state)
        return None

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        due = self.minutes > 0 and time.monotonic() - self.saved >= 60 * self.minutes
        due = due or (self.steps > 0 and state.global_step % self.steps == 0)
        ousted = is_first_process() and not self._is_mine()
        wishes = torch.tensor([float(due), float(self.terminated), float(ousted)], device=args.device)
        if _joined():
            distributed.all_reduce(wishes, op=distributed.ReduceOp.MAX)
        due, terminated, ousted = (bool(wish) for wish in wishes.tolist())
        if ousted:
            self.refuse_if_ousted()
        if state.global_step >= state.max_steps:
            return
        if terminated:
            self.interrupted = control.should_training_stop = True
        control.should_save = due or terminated

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Called in each process when it has written its part."""
        wait_for_all()
        self.saved = time.monotonic()
        if is_first_process():
            folder = self.folder / f"checkpoint-{state.global_step}"
            sync(folder)
            write_json(folder / _WHOLE, folder_hashes(folder))
            for old in sorted(self.folder.glob("checkpoint-*"), key=_step)[:-KEPT]:
                shutil.rmtree(old)

    def _is_mine(self) -> bool:
        owner = self.folder / _OWNER
        return owner.is_file() and owner.read_text() == self.me

    def refuse_if_ousted(self) -> None:
        """Raises UserError where another process has taken this training over."""
        if not self._is_mine():
            owner = self.folder / _OWNER
            other = owner.read_text() if owner.is_file() else "one that has finished"
            raise UserError(
                f"{self.checkpoint}: another process has taken this training over: {other}",
                "nothing is lost: it goes on",
            )

    def remove(self) -> None:
        """When the checkpoint and its manifest are there."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _step(state: Path) -> int:
    return int(state.name.rpartition("-")[2])


def _defect(state: Path) -> str | None:
    file = state / _WHOLE
    if not file.is_file():
        return "not written to its end"
    found = folder_hashes(state)
    del found[_WHOLE]
    try:
        return None if read_json(file) == found else "not as it was written"
    except UserError:
        return "not as it was written"
