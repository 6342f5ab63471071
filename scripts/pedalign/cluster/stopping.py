"""Handles Ctrl-C and SIGTERM in a call of Snakemake that runs its jobs on this machine.

Snakemake waits at SIGTERM until its running jobs have finished, and Ctrl-C ends them without saving. Here both let
trainings save their state and end, as a Slurm cluster does before the time limit.
"""

import logging
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread

from pedalign.core.processes import SAME_PRESS, children

_PAUSE = 0.2  # seconds between checks for newly started jobs
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stop:
    """Signal handling of this call of Snakemake. `by`: the signal that stopped it, None before."""

    def __init__(self) -> None:
        self.by: signal.Signals | None = None
        # A handler may interrupt code that holds a lock, such as Snakemake's scheduler. So it only puts the signal into
        # this queue, whose put may even be interrupted by another put.
        self.received: SimpleQueue[int] = SimpleQueue()

    def at_once(self) -> None:
        """Let Ctrl-C and SIGTERM end the call at once, for as long as no job runs. They raise SystemExit: Snakemake
        removes its locks, and no traceback is printed."""
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, lambda received, _: sys.exit(128 + received))

    def saving(self, start_no_more: Callable[[], object]) -> None:
        """Let the first signal end all jobs by SIGTERM, at which trainings save their state; a second Ctrl-C kills the
        jobs. `start_no_more` keeps Snakemake from starting others."""
        for number in _SIGNALS:
            if signal.getsignal(number) != signal.SIG_IGN:  # set by a shell for its background jobs, or by nohup
                signal.signal(number, lambda number, _: self.received.put(number))
        Thread(target=self._stop, args=[start_no_more], daemon=True).start()

    def _stop(self, start_no_more: Callable[[], object]) -> None:
        self.by = signal.Signals(self.received.get())
        first = time.monotonic()
        _say(
            f"{_name(self.by)}: trainings save their state and end, other jobs are ended. "
            "Ctrl-C again ends all at once: what a training did since its last saved state is lost."
        )
        logging.getLogger("snakemake.logging").addFilter(_is_no_end_of_a_job)
        start_no_more()
        told: set[int] = set()
        while True:
            for process in set(_job_processes()) - told:
                _send(process, signal.SIGTERM)
                told.add(process)
            with suppress(Empty):
                again = self.received.get(timeout=_PAUSE)
                if again == signal.SIGINT and time.monotonic() - first > SAME_PRESS:
                    break
        _say("Ctrl-C again: all jobs are ended at once.")
        while True:
            for process in set(_job_processes()):
                _send(process, signal.SIGKILL)
            time.sleep(_PAUSE)

    def end_if_stopped(self) -> None:
        """End this process if a signal stopped the call, and say how to go on."""
        if self.by:
            _say(
                f"Stopped by {_name(self.by)}. Start the same command again: what is finished stays, and trainings go "
                "on from their last saved state."
            )
            sys.exit(128 + self.by)


def _name(number: signal.Signals) -> str:
    return {signal.SIGINT: "Ctrl-C", signal.SIGHUP: "SIGHUP (the terminal is gone)"}.get(number, number.name)


def _is_no_end_of_a_job(record: logging.LogRecord) -> bool:
    """Filters Snakemake's messages: the end of a job that was stopped on purpose is not an error."""
    ended = r"returned non-zero exit status (75|129|130|137|143)\.|died with <Signals\.SIG(HUP|INT|KILL|TERM)"
    return str(getattr(record, "event", None)) != "job_error" and not re.search(ended, record.getMessage())


def _say(text: str) -> None:
    with suppress(OSError):  # the terminal is gone
        print(f"\n{text}", file=sys.stderr, flush=True)


def _job_processes() -> Iterator[int]:
    """The processes to end, of each running job: the launcher, or what its shell runs. Not `tee` and `grep`, which
    write the log to its end and print it."""
    for job in children(os.getpid()):
        yield from _commands(job)


def _commands(process: int) -> Iterator[int]:
    name = ""
    with suppress(OSError):
        name = Path(f"/proc/{process}/comm").read_text().strip()
    started = children(process) if name in ("bash", "sh") else []
    if started:
        for child in started:
            yield from _commands(child)
    elif name not in ("tee", "grep"):
        yield process


def _send(process: int, number: int) -> None:
    with suppress(ProcessLookupError):  # ended just now
        os.kill(process, number)
