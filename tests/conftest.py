"""What the tests share."""

from pathlib import Path

import pytest

from pedalign.rubric import Rubric, load_rubric

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def rubric() -> Rubric:
    return load_rubric(ROOT / "datasets/rubrics/class.yaml")


@pytest.fixture(scope="session")
def mathdial() -> Rubric:
    return load_rubric(ROOT / "datasets/rubrics/mathdial.yaml")


@pytest.fixture(scope="session")
def mathdial_rubric(mathdial: Rubric) -> Rubric:
    return mathdial
