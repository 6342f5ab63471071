"""Clusters for the tests."""

from collections.abc import Iterator

import pytest
from slurm import Cluster


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster with accounting, which all tests share."""
    with Cluster(tmp_path_factory.mktemp("slurm"), accounting=True) as made:
        yield made


@pytest.fixture
def idle(cluster: Cluster) -> Iterator[Cluster]:
    """The shared cluster, without jobs of other tests."""
    cluster.reset()
    yield cluster
    cluster.reset()


@pytest.fixture(scope="module")
def plain_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster without accounting."""
    with Cluster(tmp_path_factory.mktemp("slurm"), accounting=False) as made:
        yield made
