"""Runs that are ended in their middle, at moments that are drawn from seeds, go on and end as if nothing had been."""

import random
import signal
import subprocess
import time
from itertools import count

import pytest
from broken import Call, Job, command, expect_same, fault_checkout, finish, seconds_of
from checkouts import Checkout

pytestmark = pytest.mark.fault


# How a call is ended: the signal, and whether its jobs get it too, as from a terminal or where a machine goes down.
WAYS = {
    "killed": (signal.SIGKILL, True),
    "killed alone": (signal.SIGKILL, False),
    "terminated": (signal.SIGTERM, False),
    "interrupted": (signal.SIGINT, True),
}
# Of the long part: how many runs, and in how many of a run's 16 jobs it is ended.
RUNS = {"killed": (4, 16), "killed alone": (1, 10), "terminated": (2, 10), "interrupted": (2, 10)}


def trials() -> list:
    """The ways of a run, in how many jobs it is ended, and the seed of the moments; in CI one run, all ways in turn."""
    long = [
        pytest.param([way], number, seed, marks=pytest.mark.long, id=f"{way}-{seed}")
        for way, (runs, number) in RUNS.items()
        for seed in range(1, runs + 1)
    ]
    return [pytest.param(list(WAYS), 6, 0, id="all ways"), *long]


@pytest.mark.parametrize(("ways", "number", "seed"), trials())
def test_a_run_that_is_ended_again_and_again_is_gone_on_with(ways, number, seed, fresh, whole, jobs, record_property):
    draw = random.Random(seed)
    left = draw.sample(jobs, number)
    times = 0
    while ended(fresh, left, draw, whole, *WAYS[ways[times % len(ways)]]):
        if WAYS[ways[times % len(ways)]][0] != signal.SIGKILL:
            pass  # no lock stays
        elif draw.random() < 0.5:
            assert command(fresh, "python scripts/unlock.py").returncode == 0
        else:  # by hand, with the command that Snakemake names
            refused = command(fresh, "snakemake --cores 1")
            assert refused.returncode and "--unlock" in refused.stderr
            assert command(fresh, "snakemake --unlock").returncode == 0
        times += 1
    record_property("times", times)
    expect_same(fresh, whole)


def ended(checkout: Checkout, left: list[Job], draw: random.Random, whole: Checkout, number: int, group: bool) -> bool:
    """Whether a call was ended while it did one of the jobs that are left, at some moment; else it did all there is."""
    call = Call(checkout, cores=draw.choice([1, 2]))  # of two jobs at once, the other is ended too
    line = call.wait_for(*(job.line for job in left))
    if line:
        job = next(job for job in left if job.line == line)
        left.remove(job)
        time.sleep(draw.random() * seconds_of(job, whole))
    if call.process.poll() is not None:
        assert call.end() == 0, call.output()
        return False
    call.signal(signal.Signals(number), group)
    status = call.end()
    assert status != 0 or "steps (100%) done" in call.output(), call.output()
    return True


def test_a_second_call_is_refused_and_disturbs_nothing(fresh, whole, jobs):
    first = Call(fresh)
    for job in (jobs[0], jobs[len(jobs) // 2]):
        assert first.wait_for(job.line)
        beside = command(fresh, "snakemake --cores 1")
        assert beside.returncode != 0 and "lock" in beside.stderr
        beside = command(fresh, "python scripts/unlock.py && snakemake --cores 1")
        assert beside.returncode == 1
        assert beside.stderr.startswith("error: another call of Snakemake works in this folder\n  fix: ")
    assert first.end() == 0, first.output()
    expect_same(fresh, whole)


@pytest.mark.long
@pytest.mark.parametrize("at_once", [2, 6])
def test_calls_that_start_at_once_end_in_one_good_run(at_once, tmp_path, whole):
    checkout = fault_checkout(tmp_path / "checkout")
    calls = [Call(checkout) for _ in range(at_once)]
    statuses = [call.end() for call in calls]
    finish(checkout)
    assert statuses.count(0) >= 1, [call.output() for call in calls]
    expect_same(checkout, whole)


@pytest.mark.long
def test_a_run_is_killed_again_and_again_until_it_ends(fresh, whole):
    """Each call lives a little longer than the one before it."""
    status = None
    for seconds in count(10, 10):
        assert command(fresh, "python scripts/unlock.py").returncode == 0
        call = Call(fresh)
        try:
            status = call.process.wait(seconds)
            break
        except subprocess.TimeoutExpired:
            call.signal(signal.SIGKILL, group=True)
            call.end()
    assert status == 0, call.output()
    expect_same(fresh, whole)
