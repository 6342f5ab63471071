"""Runs in which something goes wrong, in copies of the repository."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest
from broken import Call, Job, copy_of, fault_checkout, jobs_of
from checkouts import Checkout
from filelock import FileLock


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    mine = tmp_path_factory.getbasetemp()
    return mine if worker_id == "master" else mine.parent


@pytest.fixture(scope="session")
def whole(shared_folder: Path) -> Checkout:
    """A checkout in which a run has ended and nothing went wrong; copy it before changing anything."""
    folder = shared_folder / "whole"
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            made = fault_checkout(shared_folder / "unfinished-whole")
            call = Call(made)
            assert call.end() == 0, call.output()
            (made.path / "jobs.json").write_text(json.dumps([asdict(job) for job in jobs_of(call.output())]))
            call.said.unlink()
            made.path.rename(folder)
    return Checkout(folder)


@pytest.fixture(scope="session")
def jobs(whole: Checkout) -> list[Job]:
    read = json.loads((whole.path / "jobs.json").read_text())
    return [Job(one["rule"], one["log"], tuple(one["inputs"]), tuple(one["outputs"])) for one in read]


@pytest.fixture
def fresh(tmp_path: Path) -> Checkout:
    return fault_checkout(tmp_path / "checkout")


@pytest.fixture
def finished_copy(whole: Checkout, tmp_path: Path) -> Checkout:
    return copy_of(whole, tmp_path / "checkout")
