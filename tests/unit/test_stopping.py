"""Ctrl-C and SIGTERM end a call of Snakemake within seconds, whatever it runs, and a job that failed is still told."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from waiting import until

from pedalign.core.processes import SAME_PRESS

SNAKEFILE = """
from pedalign.cluster.stopping import Stop

STOP = Stop()
STOP.at_once()

onstart:
    if config.get("slow"):
        import time
        STOP.at_once()
        print("locked", flush=True)
        time.sleep(60)
    STOP.saving(workflow.scheduler.exit_gracefully)

onerror:
    STOP.end_if_stopped()

rule all:
    input: "made", "also"

rule first:
    output: "made"
    shell: "python {config[job]} {output} 2>&1 | tee log"

rule second:
    input: "made"
    output: "also"
    shell: "touch {output}"
"""
SLEEPS = "open(sys.argv[1], 'w').close(); print('ready', flush=True); time.sleep(60)"


class Call:
    """A call of Snakemake in a process group of its own, whose first job runs these lines."""

    def __init__(self, folder: Path, job: str, *options: str, ignored: tuple[signal.Signals, ...] = ()) -> None:
        (folder / "Snakefile").write_text(SNAKEFILE)
        (folder / "job.py").write_text(f"import os, signal, sys, time\n{job}\n")
        self.folder = folder

        def prepare() -> None:
            for number in (signal.SIGINT, signal.SIGHUP):
                signal.signal(number, signal.SIG_IGN if number in ignored else signal.SIG_DFL)

        with (folder / "said").open("wb") as said:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "snakemake", "--cores", "1", "--config", "job=job.py", *options],
                cwd=folder,
                stdout=said,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=prepare,
            )

    @property
    def said(self) -> str:
        return (self.folder / "said").read_text()

    def says(self, text: str) -> bool:
        return until(lambda: text in self.said or self.process.poll() is not None, 60) and text in self.said

    def all_get(self, number: signal.Signals) -> None:
        """As from a terminal."""
        os.killpg(self.process.pid, number)

    def left(self) -> set[str]:
        """What lies there besides what the test has put there."""
        locks = {path.name for path in self.folder.glob(".snakemake/locks/*")}
        return locks | {path.name for path in self.folder.iterdir()} & {"made", "also"}


@pytest.fixture
def call(tmp_path) -> Iterator:
    calls = []

    def start(*arguments, **options) -> Call:
        calls.append(Call(tmp_path, *arguments, **options))
        return calls[-1]

    yield start
    for one in calls:
        if one.process.poll() is None:
            one.all_get(signal.SIGKILL)
        one.process.wait()


@pytest.mark.parametrize(
    ("number", "group", "name"),
    [
        (signal.SIGTERM, False, "SIGTERM"),
        (signal.SIGINT, True, "Ctrl-C"),
        (signal.SIGHUP, True, "SIGHUP"),
    ],
)
def test_a_signal_ends_a_call_and_its_job_and_says_how_to_go_on(call, number, group, name):
    running = call(SLEEPS)
    assert running.says("ready")
    running.all_get(number) if group else running.process.send_signal(number)
    assert running.process.wait(20) == 128 + number
    assert running.said.splitlines()[-1].startswith(f"Stopped by {name}")
    assert "Start the same command again" in running.said.splitlines()[-1]
    assert "Error" not in running.said
    assert running.left() == set()  # no lock, and no output that was begun


def test_a_job_that_ends_in_its_own_time_counts_and_its_log_is_whole(call):
    lines = """
def end(*_):
    print("the last words", flush=True)
    open(sys.argv[1], "w").close()
    sys.exit()
signal.signal(signal.SIGTERM, end)
print("ready", flush=True)
time.sleep(60)
"""
    running = call(lines)
    assert running.says("ready")
    running.process.terminate()
    assert running.process.wait(20) == 143
    assert "the last words\n" in (running.folder / "log").read_text()
    assert running.left() == {"made"}  # and the job after it was not started


def test_a_job_that_failed_of_its_own_while_a_call_stops_is_told(call):
    running = call("signal.signal(signal.SIGTERM, lambda *_: sys.exit(3)); print('ready', flush=True); time.sleep(60)")
    assert running.says("ready")
    running.process.terminate()
    assert running.process.wait(20) == 143
    assert "returned non-zero exit status 3" in running.said


STUBBORN = "[signal.signal(n, signal.SIG_IGN) for n in (2, 15)]; print('ready', flush=True); time.sleep(60)"


def test_a_second_ctrl_c_kills_jobs_and_one_that_comes_twice_does_not(call):
    running = call(STUBBORN)
    assert running.says("ready")
    for _ in range(2):  # from the terminal, and passed on by a program between
        running.process.send_signal(signal.SIGINT)
        time.sleep(SAME_PRESS / 4)
    for _ in range(3):  # as a supervisor that asks again and again
        running.process.terminate()
    with pytest.raises(subprocess.TimeoutExpired):
        running.process.wait(3)
    running.process.send_signal(signal.SIGINT)
    assert running.process.wait(20) == 130
    assert running.left() == set()


def test_what_nohup_or_a_shell_has_ignored_ends_nothing(call):
    ignored = (signal.SIGINT, signal.SIGHUP)
    running = call("print('ready', flush=True); time.sleep(2); open(sys.argv[1], 'w').close()", ignored=ignored)
    assert running.says("ready")
    for number in ignored:
        running.all_get(number)
    assert running.process.wait(20) == 0
    assert running.left() == {"made", "also"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_before_its_first_job_a_call_is_ended_at_once_without_a_trace(call, number):
    running = call(SLEEPS, "slow=1")
    assert running.says("locked")
    running.process.send_signal(number)
    assert running.process.wait(5) == 128 + number
    assert "Traceback" not in running.said
    assert running.left() == set()
