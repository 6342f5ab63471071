"""Runs that are ended in their middle, at moments that are drawn from seeds, go on and end as if nothing had been."""

import random
import signal
import subprocess
import time
from dataclasses import dataclass
from itertools import count

import pytest
from broken import Call, Job, command, expect_same, fault_checkout, finish, seconds_of
from checkouts import Checkout

pytestmark = pytest.mark.fault


def runs(few: int, whole: int) -> list:
    """The seeds of runs that are ended again and again, and in how many of their jobs: a few in CI, else in all."""
    long = [pytest.param(seed, None, marks=pytest.mark.long, id=f"all-{seed}") for seed in range(1, whole + 1)]
    return [pytest.param(0, few, id=f"{few}-0"), *long]


@dataclass
class Broken:
    """A run that is ended in each of the jobs `left` once, at a moment that is drawn by chance, and started again."""

    checkout: Checkout
    whole: Checkout
    left: list[Job]
    draw: random.Random
    times: int = 0

    def ended(self, number: signal.Signals, group: bool) -> bool:
        """Whether a call was ended in one of the jobs that are left; else it did all there is to do."""
        call = Call(self.checkout)
        line = call.wait_for(*(job.line for job in self.left))
        if line:
            job = next(job for job in self.left if job.line == line)
            self.left.remove(job)
            time.sleep(self.draw.random() * seconds_of(job, self.whole))
        if call.process.poll() is not None:
            assert call.end() == 0, call.output()
            return False
        call.signal(number, group)
        call.end()
        self.times += 1
        return True


@pytest.fixture
def broken(fresh, whole, jobs, seed, few) -> Broken:
    draw = random.Random(seed)
    return Broken(fresh, whole, draw.sample(jobs, few or len(jobs)), draw)


@pytest.mark.parametrize(("seed", "few"), runs(few=4, whole=4))
def test_a_killed_run_is_gone_on_with(broken, fresh, whole, record_property):
    while broken.ended(signal.SIGKILL, group=True):
        if broken.times % 2:
            assert command(fresh, "python scripts/unlock.py").returncode == 0
        else:  # by hand, with the command that Snakemake names
            refused = command(fresh, "snakemake --cores 1")
            assert refused.returncode and "--unlock" in refused.stderr
            assert command(fresh, "snakemake --unlock").returncode == 0
    record_property("times", broken.times)
    expect_same(fresh, whole)


@pytest.mark.parametrize(("seed", "few"), runs(few=2, whole=1))
def test_a_run_whose_jobs_outlive_it_is_gone_on_with(broken, fresh, whole, record_property):
    while broken.ended(signal.SIGKILL, group=False):
        assert command(fresh, "python scripts/unlock.py").returncode == 0
    record_property("times", broken.times)
    expect_same(fresh, whole)


@pytest.mark.parametrize(("seed", "few"), runs(few=2, whole=2))
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_asked_to_end_does_and_leaves_no_lock(number, broken, fresh, whole, record_property):
    """SIGINT as a terminal sends it: to the whole group."""
    while broken.ended(number, group=number == signal.SIGINT):
        pass
    record_property("times", broken.times)
    expect_same(fresh, whole)


def test_a_second_call_is_refused_and_disturbs_nothing(fresh, whole, jobs):
    first = Call(fresh)
    for job in (jobs[0], jobs[len(jobs) // 2]):
        assert first.wait_for(job.line)
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
