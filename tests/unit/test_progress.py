"""How far a stage is: a bar where somebody looks on, lines in a log."""

import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import termios
from contextlib import ExitStack

import pytest
from checkouts import ROOT

from pedalign.core import progress
from pedalign.core.progress import TERMINAL, Progress

WORK = """
import sys; sys.path.insert(0, "scripts")
from types import SimpleNamespace
from pedalign.core import progress
from pedalign.core.progress import Progress

clock = 0.0
progress.time = SimpleNamespace(monotonic=lambda: clock)
with Progress("generate", 40, "replies") as bar:
    for done in range(1, 41):
        clock += 4
        bar.update_to(done)
        bar.refresh()
"""


def pseudo_terminal() -> tuple[int, int]:
    """Where a terminal of 80 columns is read, and its end that programs write to."""
    terminal, end = pty.openpty()
    fcntl.ioctl(end, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    os.set_blocking(terminal, False)
    return terminal, end


def seen(standard_error_too: bool) -> tuple[str, str]:
    """What the work writes on the terminal, and what into its log."""
    terminal, end = pseudo_terminal()
    named = {} if standard_error_too else {TERMINAL: os.ttyname(end)}
    answer = subprocess.Popen(
        [sys.executable, "-c", WORK],
        cwd=ROOT,
        env={**os.environ, **named, "TQDM_DISABLE": "1"},
        stdout=subprocess.PIPE,
        stderr=end if standard_error_too else subprocess.DEVNULL,
        text=True,
    )
    log, _ = answer.communicate(timeout=60)
    os.close(end)
    drawn = b""
    try:
        while part := os.read(terminal, 65536):
            drawn += part
    except OSError:
        pass
    assert answer.returncode == 0
    return drawn.decode(), log


def test_a_bar_is_drawn_on_the_terminal_of_the_workflow_and_leaves_its_line_to_others() -> None:
    for own in (True, False):
        drawn, log = seen(standard_error_too=own)
        assert "generate:  50%|" in drawn and "20/40" in drawn and "replies/s" in drawn
        assert all(bar.endswith("\r") for bar in drawn.split("\r\r") if "|" in bar) or drawn.endswith("\r")
        assert "\n" not in drawn and "|" not in log


TURNS = """
import sys; sys.path.insert(0, "scripts")
from pedalign.core.progress import Progress
for stage in ("loads", "answers"):
    with Progress(f"{sys.argv[1]} {stage}", 9, "replies") as progress:
        sys.stdin.readline()
        progress.refresh()
        print("drawn", flush=True)
"""


def test_of_jobs_that_go_on_at_once_one_draws_its_bar_and_another_when_that_one_ends() -> None:
    terminal, end = pseudo_terminal()
    with ExitStack() as running:
        running.callback(os.close, terminal)
        running.callback(os.close, end)

        def start(name: str) -> subprocess.Popen[str]:
            named, pipe = {**os.environ, TERMINAL: os.ttyname(end)}, subprocess.PIPE
            job = [sys.executable, "-c", TURNS, name]
            return running.enter_context(subprocess.Popen(job, cwd=ROOT, env=named, stdin=pipe, stdout=pipe, text=True))

        def drawn_after_a_turn_of(job: subprocess.Popen[str]) -> str:
            assert job.stdin and job.stdout
            job.stdin.write("\n")
            job.stdin.flush()
            assert job.stdout.readline() == "drawn\n"
            return os.read(terminal, 65536).decode() if select.select([terminal], [], [], 0.5)[0] else ""

        first = start("first")
        assert "first loads" in drawn_after_a_turn_of(first)
        second = start("second")
        assert "second" not in drawn_after_a_turn_of(second)
        assert "first answers" in drawn_after_a_turn_of(first)
        assert first.wait(timeout=60) == 0
        assert "second answers" in drawn_after_a_turn_of(second)
        assert second.wait(timeout=60) == 0


def test_a_log_has_a_line_every_minute_with_rate_and_time_left() -> None:
    lines = seen(standard_error_too=False)[1].splitlines()
    assert lines == [
        "generate: 15 of 40 replies (38%), 4.0 s each, 01:40 left",
        "generate: 30 of 40 replies (75%), 4.0 s each, 00:40 left",
    ]


class Clock:
    """Seconds that a test lets go by."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(progress, "time", made)
    return made


def test_no_time_left_is_told_before_a_few_are_done_nor_from_the_first_that_waits_for_loading(clock) -> None:
    """The first of 504 replies took 410 s, the others 2 s each."""
    with Progress("generate", 504, "replies") as bar:
        clock.now += 410
        bar.update_to(1)
        assert bar.line() == "generate: 1 of 504 replies (0%)" and "?" in str(bar)
        for done in range(2, 6):
            clock.now += 2
            bar.update_to(done)
            assert "left" not in bar.line() and bar.format_dict["rate"] == 0
        clock.now += 2
        bar.update_to(6)
        assert bar.line() == "generate: 6 of 504 replies (1%), 2.0 s each, 16:36 left"
        assert "[" in str(bar) and "16:36" in str(bar)


def test_the_time_left_follows_items_that_become_slower_and_work_that_stands_still(clock) -> None:
    with Progress("generate", 1000, "replies") as bar:
        for done in range(1, 501):
            clock.now += 1
            bar.update_to(done)
        assert bar.line().endswith("1.0 per second, 08:20 left")
        for done in range(501, 541):
            clock.now += 10
            bar.update_to(done)
        assert bar.line().endswith("10.0 s each, 1:16:40 left")
        clock.now += 3000
        assert float(bar.line().partition("%), ")[2].split()[0]) > 80
        bar.update_to(541)
        assert "left" in bar.line()


def test_updates_of_many_at_once_that_are_far_apart_give_a_rate_too(clock) -> None:
    with Progress("generate", 1000, "replies") as bar:
        for done in range(100, 700, 100):
            clock.now += 1000
            bar.update_to(done)
        assert bar.line() == "generate: 600 of 1000 replies (60%), 10.0 s each, 1:06:40 left"


@pytest.mark.parametrize(
    ("seconds", "lines"),
    [(50, 0), (600, 10), (3600, 10), (86400, 142)],
    ids=["less than a minute", "ten minutes", "an hour", "a day"],
)
def test_a_line_comes_each_minute_or_where_that_is_later_each_tenth_or_ten_minutes(
    clock, capsys, seconds, lines
) -> None:
    with Progress("sft", 2000, "steps") as bar:
        for done in range(1, 2001):
            clock.now = seconds * done / 2000
            bar.update_to(done)
    assert abs(len(capsys.readouterr().out.splitlines()) - lines) <= 1


def test_nothing_is_drawn_where_nobody_looks_on(capfd, monkeypatch) -> None:
    monkeypatch.setenv(TERMINAL, "/dev/pts/gone")
    with Progress("generate", 2, "replies") as progress:
        progress.update_to(2)
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""
