"""Clusters for the tests, and checkouts whose workflows run on them."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from checkouts import QUICK, Checkout, fresh_checkout
from slurm import Cluster, wait_for

LONG = (QUICK, "tests/config/cluster.yaml")
QUICKLY = ("--slurm-steady-init-seconds-before-status-checks", "1", "--seconds-between-status-checks", "1")
TUNED = "results/tiny/sft/checkpoint.json"


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


class Call:
    """`snakemake --profile slurm`, running in a checkout."""

    def __init__(
        self,
        checkout: Checkout,
        cluster: Cluster,
        *options: str,
        config: tuple[str, ...] = LONG,
        target: str = TUNED,
    ) -> None:
        self.checkout = checkout
        self.cluster = cluster
        self.output = checkout.path / "call.log"
        command = ["snakemake", "--profile", "slurm", *QUICKLY, *options, "--configfile", *config, "--", target]
        with self.output.open("w") as output:
            self.process = subprocess.Popen(
                command, cwd=checkout.path, env=cluster.environment, stdout=output, stderr=subprocess.STDOUT
            )

    @property
    def said(self) -> str:
        return self.output.read_text()

    def finish(self, seconds: float = 300) -> int:
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    def succeed(self, seconds: float = 300) -> None:
        status = self.finish(seconds)
        assert status == 0, self.said[-5000:]

    def kill(self) -> None:
        """As a power cut does: nothing is tidied up."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def jobs(self, rule: str) -> list[dict[str, str]]:
        """This checkout's Slurm jobs of a rule, in the order of their submission."""
        ours = [job for job in self.cluster.jobs() if job["WorkDir"] == str(self.checkout.path)]
        named = [job for job in ours if job.get("Comment", "").split("_wildcards_")[0] == f"rule_{rule}"]
        return sorted(named, key=lambda job: int(job["JobId"]))

    def running(self, rule: str = "finetune", saved: int = 40) -> dict[str, str]:
        """The Slurm job of the rule, once it has saved the state of so many steps."""

        def states() -> list[int]:
            files = self.checkout.path.glob("results/tiny/*/checkpoint.state-*/checkpoint-*/whole.json")
            return [int(file.parent.name.rpartition("-")[2]) for file in files]

        def ready() -> bool:
            assert self.process.poll() is None, self.said[-5000:]
            return max(states(), default=0) >= saved

        wait_for(ready, f"a state of step {saved}", 120)
        return next(job for job in self.jobs(rule) if job["JobState"] == "RUNNING")


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


def trained_here(checkout: Checkout, config: tuple[str, ...]) -> str:
    command = ["snakemake", "--cores", "2", "--configfile", *config, "--", TUNED]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "0", "PEDALIGN_LEASES": str(checkout.path / "leases")}
    subprocess.run(command, cwd=checkout.path, env=environment, check=True, capture_output=True)
    return weights(checkout)


def weights(checkout: Checkout, tutor: str = "tiny/sft") -> str:
    """Their hash, which the manifest agrees with."""
    folder = checkout.path / "results" / tutor
    found = hashlib.sha256((folder / "checkpoint/model.safetensors").read_bytes()).hexdigest()
    assert json.loads((folder / "checkpoint.json").read_text())["files"]["model.safetensors"]["sha256"] == found
    assert not list(folder.glob("checkpoint.state-*"))
    return found


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system with next to no room (needs root)."""
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", folder], check=True)
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)
    shutil.rmtree(folder, ignore_errors=True)
