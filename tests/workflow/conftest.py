"""Real Snakemake runs in copies of the repository."""

from pathlib import Path

import pytest
from checkouts import Checkout, fresh_checkout
from filelock import FileLock


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return fresh_checkout(tmp_path / "checkout")


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Checkout:
    """A checkout in which the quick run has finished; copy it before changing anything."""
    mine = tmp_path_factory.getbasetemp()
    folder = (mine if worker_id == "master" else mine.parent) / "finished"  # one for all processes of pytest-xdist
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            made = fresh_checkout(mine / "unfinished")
            answer = made.snakemake("--cores", "2")
            assert answer.returncode == 0, answer.stdout + answer.stderr
            made.path.rename(folder)
    return Checkout(folder)
