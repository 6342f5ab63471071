"""Shows the progress of long work: a bar on the terminal, and now and then a line, which the log keeps."""

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

TERMINAL = "PEDALIGN_TERMINAL"  # names the terminal of the Snakemake call that started this job
# After a line, the next one waits EVERY seconds, and until SHARE of the work is done or AT_LEAST seconds have passed.
EVERY, SHARE, AT_LEAST = 60, 0.1, 600
# A rate needs FEW_ITEMS and FEW_SECONDS after the first ones, which include loading and compiling. It is the rate of
# about the last WINDOW seconds, so that it follows items that become slower or faster.
FEW_ITEMS, FEW_SECONDS, WINDOW = 3, 10, 300


class _Terminal:
    """The terminal of a bar. The cursor is left at the start of the line, so that other output overwrites the bar.

    Jobs of a workflow that run at the same time share one line, so only one draws its bar: the first one until it is
    done, then another.
    """

    def __init__(self, file: TextIO, shared: bool) -> None:
        self.file, self.shared = file, shared

    def write(self, text: str) -> None:
        if self.shared:
            try:
                fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:  # another job draws its bar
                return
            except OSError:  # this terminal has no locks
                pass
        self.file.write(text + "\r")

    def close(self) -> None:
        if self.shared:
            self.file.close()

    def flush(self) -> None:
        self.file.flush()

    def fileno(self) -> int:  # tqdm asks for the terminal's width
        return self.file.fileno()


def _terminal() -> _Terminal | None:
    """The terminal that this job was started from: its own, or that of its workflow; None without one."""
    try:
        if path := os.environ.get(TERMINAL):
            signal.signal(signal.SIGTTOU, signal.SIG_IGN)  # else `stty tostop` stops a background job that writes
            return _Terminal(open(path, "w", encoding="utf-8"), shared=True)
    except OSError:  # closed meanwhile
        return None
    return _Terminal(sys.stderr, shared=False) if sys.stderr.isatty() else None


class Progress(tqdm):
    """A tqdm whose bar is drawn on a terminal only, and which prints a plain line now and then.

    `with Progress("generate", total, "replies") as progress: progress.update(3)`. `initial`: items that another
    process did before; they do not count for the rate.
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
            disable=disable,  # TQDM_DISABLE is for other libraries' bars
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
        """Recent items per second; None while too few are done."""
        since, before = self.marks[0] if self.marks else (0.0, 0.0)
        elapsed, done = time.monotonic() - since, self.n - before
        return done / elapsed if self.marks and done >= FEW_ITEMS and elapsed >= FEW_SECONDS else None

    @property
    def format_dict(self) -> dict[str, Any]:
        """The values that the bar shows. For a rate of 0, tqdm shows rate and remaining time as unknown."""
        return {**super().format_dict, "rate": self.rate() or 0}

    def line(self) -> str:
        """The plain line, such as `generate: 120 of 480 replies (25%), 12.1 per second, 00:30 left`."""
        n, total = (self.format_sizeof(one) if self.unit_scale else one for one in (self.n, self.total))
        said = f"{self.desc}: {n} of {total}{self.unit} ({self.n / max(self.total, 1):.0%})"
        if rate := self.rate():
            number = self.format_sizeof(rate) if self.unit_scale else f"{rate:.1f}"
            speed = f"{number} per second" if rate >= 1 else f"{1 / rate:.1f} s each"
            said += f", {speed}, {self.format_interval((self.total - self.n) / rate)} left"
        return f"{said}, {self.postfix}" if self.postfix else said


def download_bar(name: str) -> type[tqdm]:
    """A bar for `snapshot_download(..., tqdm_class=...)`, which makes several: only that of all bytes is drawn."""

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
            pass  # the rate, which the bar shows

    return Download
