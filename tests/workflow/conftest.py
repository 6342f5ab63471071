"""Real Snakemake runs in copies of the repository."""

from pathlib import Path

import pytest
from checkouts import Checkout, fresh_checkout


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return fresh_checkout(tmp_path / "checkout")


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A checkout in which the quick run has finished; copy it before changing anything."""
    made = fresh_checkout(tmp_path_factory.mktemp("finished") / "checkout")
    answer = made.snakemake("--cores", "2")
    assert answer.returncode == 0, answer.stdout + answer.stderr
    return made
