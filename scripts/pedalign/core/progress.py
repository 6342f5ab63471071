"""Shows how far long work is: a bar on the terminal, and now and then a line in the log, which a call prints too."""

import fcntl
import io
import os
import signal
import sys
import time
from collections import deque
from typing import Any, TextIO

from tqdm import tqdm

from pedalign.core.processes import local_rank

TERMINAL = "PEDALIGN_TERMINAL"  # names the terminal of the call of Snakemake that this job belongs to
# A line comes once so many seconds have gone by since the last one, and so much of the work or so many seconds more.
EVERY, SHARE, AT_LEAST = 60, 0.1, 600
# A rate is told once so many items are done, and seconds gone by, since the first ones: these also wait for what is
# loaded and compiled. It looks back so many seconds, so that it follows when items become slower or faster.
FEW_ITEMS, FEW_SECONDS, WINDOW = 3, 10, 300


class _Terminal:
    """Leaves the cursor where its line begins, so that what others write next does not stand behind the bar.

    Of the jobs of a workflow that go on at the same time, one draws its bar, for they all have the same line: the first
    one until it is done, then another.
    """

    def __init__(self, file: TextIO, shared: bool) -> None:
        self.file, self.shared = file, shared

    def write(self, text: str) -> None:
        if self.shared:
            try:
                fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:  # another job has it
                return
            except OSError:  # a terminal that has no locks
                pass
        self.file.write(text + "\r")

    def close(self) -> None:
        if self.shared:
            self.file.close()

    def flush(self) -> None:
        self.file.flush()

    def fileno(self) -> int:  # its width is asked for
        return self.file.fileno()


def _terminal() -> _Terminal | None:
    """The terminal that this job was started from: its own, or that of its workflow; None where nobody looks on."""
    try:
        if path := os.environ.get(TERMINAL):
            signal.signal(signal.SIGTTOU, signal.SIG_IGN)  # else `stty tostop` stops who writes from the background
            return _Terminal(open(path, "w", encoding="utf-8"), shared=True)
    except OSError:  # closed since
        return None
    return _Terminal(sys.stderr, shared=False) if sys.stderr.isatty() else None


class Progress(tqdm):
    """tqdm, whose bar is drawn where a terminal is, and which prints a plain line now and then.

    `with Progress("generate", total, "replies") as progress: progress.update(3)`. `initial`: what was done before, by
    another process; it does not count for the rate.
    """

    def __init__(
        self,
        name: str,
        total: int,
        unit: str,
        initial: int = 0,
        unit_scale: bool = False,
        disable: bool = False,
        **_: Any,
    ) -> None:
        terminal = _terminal()
        self.said, self.said_at = time.monotonic(), float(initial)
        self.marks: deque[tuple[float, float]] = deque()  # seconds, items done by then
        self.file = terminal or io.StringIO()
        super().__init__(
            desc=name,
            total=total,
            unit=f" {unit}",
            initial=initial,
            unit_scale=unit_scale,
            file=self.file,
            disable=disable,  # TQDM_DISABLE is for the bars of others
            dynamic_ncols=True,
            leave=False,
            mininterval=0.2 if terminal else 60,
        )

    def update_to(self, done: int) -> None:
        self.update(done - self.n)

    def update(self, n: float | None = 1) -> bool | None:
        shown = super().update(n)
        now = time.monotonic()
        self._mark(now)
        if not self.disable and self._worth_a_line(now - self.said):
            self.said, self.said_at = now, self.n
            self.clear()
            print(self.line(), flush=True)
        return shown

    def close(self) -> None:
        super().close()
        self.file.close()

    def _worth_a_line(self, seconds: float) -> bool:
        return seconds >= EVERY and (seconds >= AT_LEAST or self.n - self.said_at >= SHARE * (self.total or 0))

    def _mark(self, now: float) -> None:
        if not self.marks or now - self.marks[-1][0] >= 1:
            self.marks.append((now, self.n))
        while len(self.marks) > 2 and now - self.marks[1][0] > WINDOW and self.n - self.marks[1][1] >= FEW_ITEMS:
            self.marks.popleft()

    def rate(self) -> float | None:
        """Items per second of late; None as long as too few are done to tell."""
        since, before = self.marks[0] if self.marks else (0.0, 0.0)
        elapsed, done = time.monotonic() - since, self.n - before
        return done / elapsed if self.marks and done >= FEW_ITEMS and elapsed >= FEW_SECONDS else None

    @property
    def format_dict(self) -> dict[str, Any]:
        """What the bar is drawn from; tqdm draws a rate of 0 as unknown, and the time left too."""
        return {**super().format_dict, "rate": self.rate() or 0}

    def line(self) -> str:
        """`generate: 120 of 480 replies (25%), 12.1 per second, 00:30 left`"""
        n, total = (self.format_sizeof(one) if self.unit_scale else one for one in (self.n, self.total))
        said = f"{self.desc}: {n} of {total}{self.unit} ({self.n / max(self.total, 1):.0%})"
        if rate := self.rate():
            number = self.format_sizeof(rate) if self.unit_scale else f"{rate:.1f}"
            speed = f"{number} per second" if rate >= 1 else f"{1 / rate:.1f} s each"
            said += f", {speed}, {self.format_interval((self.total - self.n) / rate)} left"
        return f"{said}, {self.postfix}" if self.postfix else said


def download_bar(name: str) -> type[tqdm]:
    """For `snapshot_download(..., tqdm_class=...)`, which makes several: seen is the one of all files' bytes."""

    class Download(Progress):
        def __init__(self, *, desc: str, total: int | None = None, **_: Any) -> None:
            seen = desc.startswith("Reconstructing") and local_rank() == 0
            super().__init__(name, total or 0, "bytes", unit_scale=True, disable=not seen)

        def update(self, n: float | None = 1) -> bool | None:
            with self.get_lock():  # files are downloaded by several threads
                return super().update(n)

        def set_description(self, *_: Any, **__: Any) -> None:
            pass  # the name stays

        def set_postfix_str(self, *_: Any, **__: Any) -> None:
            pass  # the rate, which the bar has

    return Download
