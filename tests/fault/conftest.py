"""Runs in which something goes wrong, in copies of the repository."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest
from broken import Call, Job, copy_of, fault_checkout, jobs_of
from checkouts import Checkout, made_once


@pytest.fixture(scope="session")
def whole(shared_folder: Path) -> Checkout:
    """A checkout in which a run has ended and nothing went wrong; copy it before changing anything."""

    def run(path: Path) -> None:
        call = Call(fault_checkout(path))
        assert call.end() == 0, call.output()
        (path / "jobs.json").write_text(json.dumps([asdict(job) for job in jobs_of(call.output())]))
        call.said.unlink()

    return made_once(shared_folder / "whole", run)


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
