"""What the tests share."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

# As the workflow has it for its jobs (rules/common.smk): threads that share cores do not wait in vain.
os.environ.setdefault("GOMP_SPINCOUNT", "5000")

import pytest

from pedalign.core.errors import UserError
from pedalign.data.rubric import Rubric, load_rubric

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """One for all processes of pytest-xdist."""
    mine = tmp_path_factory.getbasetemp()
    return mine if worker_id == "master" else mine.parent


@pytest.fixture(scope="session")
def rubric() -> Rubric:
    return load_rubric(ROOT / "datasets/rubrics/class.yaml")


@pytest.fixture(scope="session")
def mathdial() -> Rubric:
    return load_rubric(ROOT / "datasets/rubrics/mathdial.yaml")


@pytest.fixture(scope="session")
def refused() -> Callable:
    """`with refused("a", "b"):` asserts that the block ends in a UserError of two lines that hold these words."""

    @contextmanager
    def check(*words: str) -> Iterator[None]:
        with pytest.raises(UserError) as caught:
            yield
        message = str(caught.value)
        assert len(message.splitlines()) == 2, message
        for word in words:
            assert word in message

    return check
