"""What a killed call of Snakemake had locked is told from what a living one has locked."""

import subprocess
import sys

import pytest

from pedalign.calls import LIVING, LOCKS, locked_by_the_dead

CALL = "import sys; from pedalign.calls import live; live(); print('lives', flush=True); sys.stdin.read()"


@pytest.fixture(autouse=True)
def locked(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    LOCKS.mkdir(parents=True)
    (LOCKS / "0.input.lock").write_text("a file")


@pytest.fixture
def call(locked):
    with subprocess.Popen([sys.executable, "-c", CALL], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"lives\n"
        yield process
        process.kill()


def test_the_locks_of_a_living_call_are_not_taken_for_a_dead_ones(call, refused) -> None:
    with refused("another call of Snakemake works in this folder"):
        locked_by_the_dead()
    call.kill()
    call.wait()
    assert locked_by_the_dead()


def test_a_second_call_that_ended_says_nothing_of_the_first(call, refused) -> None:
    subprocess.run([sys.executable, "-c", CALL], input=b"", check=True, capture_output=True)
    with refused("another call of Snakemake works in this folder"):
        locked_by_the_dead()


def test_what_a_call_on_another_machine_locked_is_left_alone(call, refused) -> None:
    call.kill()
    call.wait()
    with LIVING.open("a") as file:
        file.write("elsewhere\n")
    with refused("may live on elsewhere", "snakemake --unlock"):
        locked_by_the_dead()


def test_without_locks_nothing_is_unlocked() -> None:
    (LOCKS / "0.input.lock").unlink()
    assert not locked_by_the_dead()
    assert not LIVING.exists()
