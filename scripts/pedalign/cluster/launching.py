"""Starts a script: in one process, or by accelerate in several processes, on one or more nodes."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, BinaryIO

from pedalign.core.processes import (
    INTERRUPTED,
    INTERRUPTION_NOTE,
    LAUNCHER,
    SAME_PRESS,
    accumulation,
    children,
    die_with_parent,
)
from pedalign.core.told import SHORT, is_routine

_PROFILES = Path(__file__).parents[3] / "profiles" / "accelerate"
# On the CPU, each step frees memory that the next one needs. To get it from the kernel again takes about 4% of a
# training's time. So blocks up to glibc's limit come from a heap that keeps 1 GiB of free memory.
_KEPT_MEMORY = {
    "MALLOC_MMAP_THRESHOLD_": str(32 * 2**20),
    "MALLOC_TRIM_THRESHOLD_": str(2**30),
    "MALLOC_TOP_PAD_": str(64 * 2**20),
}
_NO_WARNING = {"DS_ACCELERATOR": "cpu"}  # of DeepSpeed, that it found no GPU
# Rows of a batch have similar lengths, so nearly every batch has a new length. cuDNN's attention, PyTorch's first
# choice on Hopper and Blackwell, makes a plan for each new length (on an H200 a step took 0.7 s at first, and 0.14 s
# once lengths were repeated).
_ANY_LENGTH = {"TORCH_CUDNN_SDPA_DEPRIORITIZED": "1"}
_REMINDER = 5  # seconds between repetitions of SIGTERM: a process may not have been ready for the first one


@dataclass(frozen=True)
class Nodes:
    """The nodes of a job, the number of this one (from 0), and the address at which the first one listens."""

    count: int = 1
    rank: int = 0
    address: str = "127.0.0.1"
    port: int = 0


def command(script: Sequence[str], processes: int, settings: dict[str, Any], threads: int, nodes: Nodes) -> list[str]:
    """The command that runs `script` (its path and arguments) in `processes` processes over all `nodes`.

    One process is plain Python. Several train all weights by ZeRO-3, which shards them, or an adapter by plain data
    parallelism; without GPUs they communicate over gloo. `threads`: per node.
    Raises UserError if the batch of the `settings` can't be divided over so many processes.
    """
    if processes <= 1:
        return [sys.executable, *script]
    training = settings["training"]
    accumulation(training["global_batch_size"], training["device_batch_size"], processes)
    profile = "ddp.yaml" if settings.get("adapter") else "zero3.yaml"
    options = {
        "config_file": _PROFILES / profile,
        "num_processes": processes,
        "num_machines": nodes.count,
        "machine_rank": nodes.rank,
        "main_process_ip": nodes.address,
        "main_process_port": nodes.port or free_port(),
        "mixed_precision": "bf16" if training["dtype"] == "bfloat16" else "no",
        "num_cpu_threads_per_process": max(1, threads * nodes.count // processes),
        "log_dir": os.devnull,  # else torch leaves an empty folder behind
    }
    launcher = [sys.executable, "-m", "accelerate.commands.launch"]
    return [*launcher, *(f"--{name}={value}" for name, value in options.items()), *script]


def environment(devices: Sequence[str], processes: int) -> dict[str, str]:
    """The script's environment variables: its GPUs, and settings that suit these or, without one, the CPU. They also
    silence a deprecation warning about PyTorch's own code, which each of several processes prints hundreds of times."""
    suiting = _ANY_LENGTH if devices else {**_KEPT_MEMORY, **_NO_WARNING}
    told = {**suiting, **os.environ, "CUDA_VISIBLE_DEVICES": ",".join(devices)}
    if processes > 1:
        quiet = "ignore::FutureWarning:torch.distributed.c10d_logger"
        told["PYTHONWARNINGS"] = ",".join(filter(None, [told.get("PYTHONWARNINGS"), quiet]))
    return told


def srun(launcher: Sequence[str], nodes: int, gpus: int, threads: int) -> list[str]:
    """The command that runs `launcher` once on each node of the surrounding Slurm job; `gpus`: over all nodes."""
    step = ["srun", f"--nodes={nodes}", f"--ntasks={nodes}", "--ntasks-per-node=1", f"--cpus-per-task={threads}"]
    return [*step, f"--gpus-per-node={gpus // nodes}", "--kill-on-bad-exit=1", sys.executable, *launcher]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]


class Output:
    """Writes to stdout and to a log file. One that fails is dropped, so that a full disk does not end a training.

    If the call of Snakemake itself reports what was made (`artifact`), routine lines go to the log alone.
    """

    def __init__(self, log: Path | None, artifact: str | None = None) -> None:
        self.targets: dict[str, BinaryIO] = {"stdout": sys.stdout.buffer}
        self.artifact = artifact
        self.short = SHORT in os.environ
        self.line = b""  # the beginning of a line, which goes to stdout when it is complete
        if log:
            try:
                log.parent.mkdir(parents=True, exist_ok=True)
                # O_APPEND, because another process may still write to it.
                new = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o666)
                self.targets[str(log)] = open(new, "wb", buffering=0)  # noqa: SIM115
            except OSError as error:
                self.say(f"no log: {error}")

    def write(self, text: bytes, only_log: bool = False) -> None:
        for name in list(self.targets):
            if name == "stdout" and len(self.targets) > 1:
                self._put(name, b"" if only_log else self._shown(text))
            else:
                self._put(name, text)

    def _put(self, name: str, text: bytes) -> None:
        try:
            self.targets[name].write(text)
            self.targets[name].flush()
        except OSError as error:
            del self.targets[name]
            self.say(f"{name} is not written any more: {error}")

    def _shown(self, text: bytes) -> bytes:
        """The part of the text that is for stdout, up to its last complete line."""
        if not self.short:
            return text
        *lines, self.line = (self.line + text).split(b"\n")
        whole = (line + b"\n" for line in lines)
        return b"".join(line for line in whole if not is_routine(line.decode(errors="replace"), self.artifact))

    def end(self) -> None:
        """Write the last line, which may have no line end."""
        if self.line and "stdout" in self.targets:
            self._put("stdout", self.line + b"\n")

    def say(self, line: str) -> None:
        self.write(f"launch: {line}\n".encode())

    def note(self, line: str) -> None:
        """Write to the log; to stdout if there is none."""
        self.write(f"launch: {line}\n".encode(), only_log=True)


class Acts(Enum):
    """Who reacts to SIGTERM."""

    COMMAND = "the command itself"
    PROCESSES = "the processes that the command started"
    NOBODY = "Slurm signals what srun started, and srun would end it at once"


def supervise(command: Sequence[str], environment: dict[str, str], output: Output, terminates: Acts) -> int:
    """Run `command` until it ends. Returns its exit status, or INTERRUPTED.

    SIGTERM, SIGHUP and Ctrl-C end it (a training saves its state). If this process dies, in whatever way, the command
    dies too.
    """
    with tempfile.TemporaryDirectory() as folder:
        note = Path(folder, "interrupted")
        process = subprocess.Popen(
            command,
            env={**environment, INTERRUPTION_NOTE: str(note), LAUNCHER: str(os.getpid())},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            process_group=0,
            preexec_fn=lambda: _prepare(terminates),
        )
        handler = _PassOn(process, terminates)
        signal.signal(signal.SIGTERM, handler)
        for number in (signal.SIGINT, signal.SIGHUP):
            if signal.getsignal(number) != signal.SIG_IGN:  # set by a shell for its background jobs, or by nohup
                signal.signal(number, handler)
        assert process.stdout is not None
        while chunk := os.read(process.stdout.fileno(), 65536):
            output.write(chunk)
        status = process.wait()
        if note.exists():
            return INTERRUPTED
    return status if status >= 0 else 128 - status


def _prepare(terminates: Acts) -> None:
    """Set up signals in the new process, before it becomes the command.

    Accelerate would kill its processes half a minute after SIGTERM, and at once at a second one. So it ignores SIGTERM.
    Its processes inherit that, until they are ready for the signal (`TrainingStates`).
    """
    die_with_parent()
    signal.signal(signal.SIGTERM, signal.SIG_DFL if terminates == Acts.COMMAND else signal.SIG_IGN)
    if terminates == Acts.PROCESSES:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})


class _PassOn:
    """The launcher's signal handler: the first signal ends the command by SIGTERM, so that a training saves its state;
    a second Ctrl-C interrupts it. What srun started is ended by Slurm."""

    def __init__(self, process: subprocess.Popen, terminates: Acts) -> None:
        self.process = process
        self.terminates = terminates
        self.first: float | None = None

    def __call__(self, number: int, _: Any) -> None:
        if self.terminates == Acts.NOBODY:
            if number != signal.SIGTERM:
                self._send_to_group(number)
        elif self.first is None:
            self.first = time.monotonic()
            threading.Thread(target=self._terminate, daemon=True).start()
        elif number == signal.SIGINT and time.monotonic() - self.first > SAME_PRESS:
            self._send_to_group(number)

    def _terminate(self) -> None:
        """Repeat SIGTERM: a process that was still loading its model was not ready for the first one."""
        while self.process.poll() is None:
            if self.terminates == Acts.PROCESSES:  # each process has a process group of its own
                for child in children(self.process.pid):
                    with suppress(ProcessLookupError):
                        os.kill(child, signal.SIGTERM)
            else:
                self._send_to_group(signal.SIGTERM)
            time.sleep(_REMINDER)

    def _send_to_group(self, number: int) -> None:
        with suppress(ProcessLookupError):  # ended just now
            os.killpg(self.process.pid, number)
