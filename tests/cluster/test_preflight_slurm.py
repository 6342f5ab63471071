"""`snakemake --profile slurm preflight`: what the cluster can run, without a job."""

import subprocess
from collections.abc import Callable

import pytest
import yaml
from calls import QUICKLY
from checkouts import Checkout, fresh_checkout
from slurm import Cluster

pytestmark = pytest.mark.cluster

Preflight = Callable[..., tuple[int, str]]


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    return fresh_checkout(tmp_path_factory.mktemp("preflight") / "checkout")


@pytest.fixture
def preflight(idle: Cluster, fresh: Checkout) -> Preflight:
    """Calls it with more options and settings for the small model's jobs; exit status and output."""

    def call(*options: str, cluster: Cluster = idle, **resources: object) -> tuple[int, str]:
        asked = {"gpu": 1, "threads": 1, "mem_mb": 4000, "runtime": 5, **resources}
        config = fresh.path / "asked.yaml"
        config.write_text(yaml.safe_dump({"models": {"tiny": {"resources": {"sft": asked}}}}))
        before = len(cluster.jobs())
        command = [
            "snakemake",
            "--profile",
            "slurm",
            *QUICKLY,
            *options,
            "--configfile",
            str(config),
            "--",
            "preflight",
        ]
        answer = subprocess.run(command, cwd=fresh.path, env=cluster.environment, capture_output=True, text=True)
        assert len(cluster.jobs()) == before
        assert not (fresh.path / "results/data").exists()
        return answer.returncode, answer.stdout + answer.stderr

    return call


def limit(cluster: Cluster, minutes: str) -> None:
    cluster.command("scontrol", "update", "PartitionName=gpu", f"MaxTime={minutes}")


@pytest.fixture
def an_hour(idle: Cluster):
    """The partition gives an hour at most."""
    limit(idle, "60")
    yield
    limit(idle, "UNLIMITED")


def test_the_default_run_fits(preflight: Preflight):
    status, said = preflight()
    assert status == 0, said
    for stage, asked in (("alignment", "2 CPUs, 4000 MB"), ("fine-tuning", "1 CPUs, 4000 MB, 1 GPUs")):
        assert f"tiny {stage}" in said
        assert f"partition gpu: 2 of 2 nodes have {asked}" in said
    assert "no problem found" in said and "visible" not in said  # the GPUs of this machine do not matter


@pytest.mark.parametrize(
    ("options", "resources", "problem", "remedy"),
    [
        ((), {"gpu": 8}, "partition gpu does not have 8 GPUs (the most of a node: 4)", "spread the GPUs: nodes"),
        ((), {"threads": 9}, "partition gpu does not have 9 CPUs (the most of a node: 8)", "ask for less"),
        ((), {"runtime": 61}, "61 minutes asked for, partition gpu gives 60 at most", "set runtime to 60 or less"),
        (("slurm_partition=gpus",), {}, "partition 'gpus' is not there", "did you mean 'gpu'?"),
        (("gpu_model=h100",), {}, "does not have 1 h100 GPUs (the most of a node: 0)", "ask for less"),
        (("constraint=fast",), {}, "sbatch failed: allocation failure: Invalid feature specification", "sbatch"),
    ],
)
def test_what_the_cluster_cannot_run_is_a_problem(options, resources, problem, remedy, an_hour, preflight):
    defaults = ("--default-resources", "tasks_per_gpu=0", "mem_mb=2000", "runtime=30", *options)
    status, said = preflight(*(defaults if options else ()), **resources)
    assert status != 0
    lines = said.splitlines()
    at = next(at for at, line in enumerate(lines) if line.startswith("problem: Slurm tiny fine-tuning: "))
    assert problem in lines[at], said
    assert remedy in lines[at + 1]
    assert lines.count(lines[at]) == 2  # once more at the end; not tried again


def test_a_longest_runtime_beyond_the_partitions_is_a_warning(an_hour, preflight: Preflight):
    status, said = preflight(max_runtime=120)
    assert status == 0
    assert "warning: Slurm tiny fine-tuning" in said and "max_runtime 120 is beyond the 60 minutes" in said


def test_nodes_that_are_down_now_are_a_warning(idle: Cluster, preflight: Preflight):
    idle.down("n1")
    idle.down("n2")
    status, said = preflight()
    assert status == 0
    assert "2 of 2 nodes have 1 CPUs" in said and "but 0 of them work now" in said


def test_a_cluster_without_accounts_is_told_with_the_setting_that_mends_it(
    plain_cluster: Cluster, preflight: Preflight
):
    status, said = preflight(cluster=plain_cluster)
    assert status != 0
    assert "Slurm's sacct gives no answer" in said and "slurm-steady-status-command: squeue" in said
    status, said = preflight("--slurm-steady-status-command", "squeue", cluster=plain_cluster)
    assert status == 0, said
    assert "Slurm squeue" in said
