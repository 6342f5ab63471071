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


def spread(number: int, sample: int) -> list:
    """The trials; all but every `sample`-th one belong to the long part."""
    return [pytest.param(at, marks=[] if at % sample == 0 else pytest.mark.long) for at in range(number)]


def broken_off(checkout: Checkout, whole: Checkout, jobs: list[Job], trial: int, number: signal.Signals, group: bool):
    """A call that was ended while a job ran: the jobs in turn, the moment in the job by chance."""
    job, draw = jobs[trial % len(jobs)], random.Random(trial)
    call = Call(checkout)
    assert call.wait_for(f"    log: {job.log}"), call.output()
    time.sleep(draw.random() * seconds_of(job, whole))
    call.signal(number, group)
    return call


@pytest.mark.parametrize("trial", spread(50, 17))
def test_a_killed_run_is_gone_on_with(trial, fresh, whole, jobs):
    broken_off(fresh, whole, jobs, trial, signal.SIGKILL, group=True).end()
    if trial % 2:  # by hand, with the command that Snakemake names
        refused = command(fresh, "snakemake --cores 1")
        if refused.returncode:
            assert "--unlock" in refused.stderr
            assert command(fresh, "snakemake --unlock").returncode == 0
        finish(fresh, "snakemake --cores 1")
    else:
        finish(fresh)
    expect_same(fresh, whole)


@pytest.mark.parametrize("trial", spread(10, 10))
def test_a_run_whose_jobs_outlive_it_is_gone_on_with(trial, fresh, whole, jobs):
    broken_off(fresh, whole, jobs, 2 * trial, signal.SIGKILL, group=False).end()
    finish(fresh)
    expect_same(fresh, whole)


@pytest.mark.parametrize("trial", spread(20, 20))
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_asked_to_end_does_and_leaves_no_lock(number, trial, fresh, whole, jobs):
    """SIGINT as a terminal sends it: to the whole group."""
    call = broken_off(fresh, whole, jobs, trial, number, group=number == signal.SIGINT)
    call.end()
    finish(fresh, "snakemake --cores 1")
    expect_same(fresh, whole)


def test_a_second_call_is_refused_and_disturbs_nothing(fresh, whole, jobs):
    first = Call(fresh)
    for job in (jobs[0], jobs[len(jobs) // 2]):
        assert first.wait_for(f"    log: {job.log}")
        beside = command(fresh, "snakemake --cores 1")
        assert beside.returncode != 0 and "lock" in beside.stderr
        beside = command(fresh, "python scripts/unlock.py && snakemake --cores 1")
        assert beside.returncode == 1
        assert beside.stderr.startswith("error: another call of Snakemake works in this folder\n  mend: ")
    assert first.end() == 0, first.output()
    expect_same(fresh, whole)


@pytest.mark.parametrize("at_once", [2, pytest.param(6, marks=pytest.mark.long)])
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
