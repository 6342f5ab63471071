"""The processes of one training: their number and ranks, and how they end together."""

import ctypes
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from pedalign.core.errors import UserError

INTERRUPTED = 75  # exit status of a training that SIGTERM ended and that can be resumed (sysexits.h: EX_TEMPFAIL)
INTERRUPTION_NOTE = "PEDALIGN_INTERRUPTION_NOTE"  # names a file that exists after an interruption
LAUNCHER = "PEDALIGN_LAUNCHER"  # the launcher's process id
# Seconds in which a second SIGINT belongs to the same Ctrl-C: the terminal sends one, a program in between the other.
SAME_PRESS = 1.0

_PR_SET_PDEATHSIG = 1


def processes() -> int:
    """The number of processes of this training, on all nodes (the launcher sets it)."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def local_rank() -> int:
    """The number of this process on its node, from 0: the GPU that it uses."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def sharded() -> bool:
    """Whether each process holds a part of the model (ZeRO-3)."""
    return os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true"


def is_first_process() -> bool:
    return os.environ.get("RANK", "0") == "0"


def everywhere(true: bool) -> bool:
    """Whether a condition is true in all processes of this training, so that all take the same branch."""
    if processes() == 1:
        return true
    from torch import distributed, int32, tensor

    device = f"cuda:{local_rank()}" if distributed.get_backend() == "nccl" else "cpu"
    votes = tensor(true, dtype=int32, device=device)
    distributed.all_reduce(votes, distributed.ReduceOp.MIN)
    return bool(votes)


def accumulation(global_batch_size: int, device_batch_size: int, processes: int) -> int:
    """Batches per optimizer step on each device. Raises UserError if that is not a whole number."""
    at_a_time = device_batch_size * processes
    if global_batch_size % at_a_time:
        raise UserError(
            f"global_batch_size {global_batch_size} is not a multiple of device_batch_size {device_batch_size} x "
            f"{processes} processes = {at_a_time}",
            "change one of the two, or the number of GPUs, in the model's entry of config.yaml",
        )
    return global_batch_size // at_a_time


def children(process: int) -> list[int]:
    """The child processes of a process of this machine that it has not waited for yet (Linux)."""
    found: list[int] = []
    with suppress(FileNotFoundError, ProcessLookupError):  # the process or the thread has ended
        for thread in Path(f"/proc/{process}/task").iterdir():
            with suppress(FileNotFoundError, ProcessLookupError):
                found += map(int, (thread / "children").read_text().split())
    return found


def end_interrupted() -> NoReturn:
    """End with exit status INTERRUPTED; under a launcher, through a note, as several processes have no one status."""
    if note := os.environ.get(INTERRUPTION_NOTE):
        Path(note).touch()
        sys.exit(0)
    sys.exit(INTERRUPTED)


def die_with_parent() -> None:
    """Let the death of the parent process kill this process too (Linux)."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def die_with_launcher() -> None:
    """Let this process die with its launcher: accelerate dies with the launcher, and this process with accelerate.

    Ends at once if the launcher died while this process started.
    """
    die_with_parent()
    if (launcher := os.environ.get(LAUNCHER)) and not Path("/proc", launcher).exists():
        sys.exit("the launcher has died")
