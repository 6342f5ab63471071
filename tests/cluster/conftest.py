"""Clusters for the tests, and checkouts whose workflows run on them."""

import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from calls import LONG, Call, trained_here
from checkouts import Checkout, fresh_checkout
from slurm import Cluster


@contextmanager
def short_folder() -> Iterator[Path]:
    """A new folder whose path is short enough for sockets in it, as pytest's own may not be."""
    with tempfile.TemporaryDirectory(prefix="slurm-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@pytest.fixture
def slurm_folder() -> Iterator[Path]:
    with short_folder() as folder:
        yield folder


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A cluster with accounting, which all tests share; it shows what their jobs were to the end."""
    with short_folder() as folder, Cluster(folder, accounting=True, MinJobAge=7200) as made:
        yield made


@pytest.fixture
def idle(cluster: Cluster) -> Iterator[Cluster]:
    """The shared cluster, without jobs of other tests."""
    cluster.reset()
    yield cluster
    cluster.reset()


@pytest.fixture(scope="module")
def plain_cluster() -> Iterator[Cluster]:
    """A cluster without accounting."""
    with short_folder() as folder, Cluster(folder, accounting=False) as made:
        yield made


@pytest.fixture
def call(idle: Cluster) -> Iterator[Callable[..., Call]]:
    """Starts calls on the shared cluster, and ends those that a test left."""
    calls: list[Call] = []

    def start(checkout: Checkout, *options: str, **more: Any) -> Call:
        calls.append(Call(checkout, idle, *options, **more))
        return calls[-1]

    yield start
    for one in calls:
        if one.process.poll() is None:
            one.kill()


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A checkout in which all is there that the fine-tuning needs."""
    made = fresh_checkout(tmp_path_factory.mktemp("prepared") / "checkout")
    answer = made.snakemake("--cores", "2", "results/tiny/sft/audit.json")
    assert answer.returncode == 0, answer.stdout + answer.stderr
    return made


@pytest.fixture
def checkout(prepared: Checkout, tmp_path: Path) -> Checkout:
    return prepared.copy(tmp_path / "checkout")


@pytest.fixture(scope="session")
def undisturbed(prepared: Checkout, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The weights of the fine-tuning that nothing happens to, on this machine."""
    return trained_here(prepared.copy(tmp_path_factory.mktemp("undisturbed") / "checkout"), LONG)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system with next to no room (needs root)."""
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", folder], check=True)
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)
    shutil.rmtree(folder, ignore_errors=True)
