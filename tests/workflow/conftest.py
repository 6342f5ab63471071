"""Real Snakemake runs in copies of the repository."""

from pathlib import Path

import pytest
from checkouts import Checkout, fresh_checkout, made_once


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return fresh_checkout(tmp_path / "checkout")


@pytest.fixture(scope="session")
def finished(shared_folder: Path) -> Checkout:
    """A checkout in which the quick run has finished; copy it before changing anything.

    test_run.py holds it against a run whose jobs all start by themselves.
    """

    def run(path: Path) -> None:
        answer = fresh_checkout(path).forked("--cores", "2")
        assert answer.returncode == 0, answer.stdout + answer.stderr

    return made_once(shared_folder / "finished", run)
