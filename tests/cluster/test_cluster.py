"""The cluster that the other tests here run on."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from slurm import GPUS, NODES, Cluster, wait_for

pytestmark = pytest.mark.cluster

ALL_GPUS = ("--gpus=4", "--nodes=1", "--output=/dev/null")


def test_both_nodes_are_idle_with_four_gpus(idle: Cluster) -> None:
    for name in NODES:
        node = idle.node(name)
        assert node["State"] == "IDLE"
        assert node["Gres"] == f"gpu:a100:{GPUS}"
        assert "gres/gpu=4" in node["CfgTRES"].split(",")


def test_a_job_sees_its_gpus(idle: Cluster, tmp_path: Path) -> None:
    comment = "kind=test State=OK|1"
    script = "echo $CUDA_VISIBLE_DEVICES $SLURM_GPUS_ON_NODE $SLURM_JOB_NUM_NODES"
    number = idle.submit("--gpus=4", "--nodes=1", f"--output={tmp_path}/out", f"--comment={comment}", "--wrap", script)
    job = idle.wait(number, "COMPLETED")
    assert (tmp_path / "out").read_text() == "0,1,2,3 4 1\n"
    assert (job["Comment"], job["StdOut"]) == (comment, f"{tmp_path}/out")
    wait_for(lambda: [r for r in idle.records() if (r["JobID"], r["State"]) == (number, "COMPLETED")], "the record")
    record = next(record for record in idle.records() if record["JobID"] == number)
    assert record["Comment"] == comment
    assert "gres/gpu=4" in record["AllocTRES"].split(",")


def test_two_jobs_fill_the_nodes_and_a_third_waits(idle: Cluster) -> None:
    first, second, third = [idle.submit(*ALL_GPUS, "--wrap", "sleep 600") for _ in range(3)]
    assert {idle.wait(number, "RUNNING", seconds=10)["NodeList"] for number in (first, second)} == set(NODES)
    wait_for(lambda: idle.job(third)["Reason"] == "Resources", "the third job to be considered", 10)
    assert idle.job(third)["JobState"] == "PENDING"
    idle.command("scancel", first)
    idle.wait(third, "RUNNING", seconds=10)
    assert idle.job(second)["JobState"] == "RUNNING"


def test_a_job_over_its_memory_is_killed(idle: Cluster, tmp_path: Path) -> None:
    greedy = f"{sys.executable} -c 'import time; data = b\"1\" * (600 << 20); time.sleep(600)'"
    enough = idle.submit("--mem=900M", f"--output={tmp_path}/enough", "--wrap", greedy)
    little = idle.submit("--mem=300M", f"--output={tmp_path}/little", "--wrap", greedy)
    assert idle.wait(little, "FAILED")["ExitCode"] == "0:9"
    assert "exceeded memory limit" in (tmp_path / "little").read_text()
    idle.wait(enough, "RUNNING")
    time.sleep(5)
    assert idle.job(enough)["JobState"] == "RUNNING"


def test_a_requeued_job_soon_runs_again(idle: Cluster) -> None:
    number = idle.submit(*ALL_GPUS, "--wrap", "sleep 600")
    idle.wait(number, "RUNNING")
    idle.command("scontrol", "requeue", number)
    idle.wait(number, "PENDING")
    assert idle.wait(number, "RUNNING", seconds=15)["Restarts"] == "1"


def stubborn_job(cluster: Cluster, ready: Path) -> None:
    number = cluster.submit(*ALL_GPUS, "--wrap", f"trap '' TERM; touch {ready}; sleep 600; sleep 600")
    cluster.wait(number, "RUNNING")
    wait_for(ready.exists, "the job to ignore SIGTERM")


def processes_of(folder: Path) -> dict[int, str]:
    """Processes, other than this one, that have the folder in their arguments, environment or open files."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            texts = [(entry / name).read_bytes().decode(errors="replace") for name in ("cmdline", "environ")]
            links = [os.readlink(link) for link in (entry / "cwd", *(entry / "fd").iterdir())]
        except OSError:
            continue
        if int(entry.name) != os.getpid() and any(str(folder) in text for text in (*texts, *links)):
            found[int(entry.name)] = texts[0]
    return found


def test_stop_leaves_no_process(slurm_folder: Path, tmp_path: Path) -> None:
    with Cluster(slurm_folder, accounting=False) as cluster:
        stubborn_job(cluster, tmp_path / "ready")
        before = processes_of(cluster.folder)
    assert {"slurmctld", "slurmd", "munged", "slurmstepd:"} <= {
        text.split("\0")[0].split()[0] for text in before.values()
    }
    assert processes_of(cluster.folder) == {}
    cluster.stop()


def test_killed_tests_leave_no_process(slurm_folder: Path) -> None:
    program = """
import sys, time
from pathlib import Path
from slurm import Cluster
cluster = Cluster(Path(sys.argv[1]), accounting=True)
cluster.start()
cluster.wait(cluster.submit("--output=/dev/null", "--wrap", "sleep 600"), "RUNNING")
print("ready", flush=True)
time.sleep(600)
"""
    argv = [sys.executable, "-c", program, str(slurm_folder)]
    with subprocess.Popen(argv, cwd=Path(__file__).parent, stdout=subprocess.PIPE, text=True) as tests:
        assert tests.stdout is not None
        assert tests.stdout.readline() == "ready\n"
        assert len(processes_of(slurm_folder)) > 8
        tests.kill()
    wait_for(lambda: not processes_of(slurm_folder), "the cluster to be taken down", 15)


def test_a_failed_start_says_why_and_leaves_no_process(slurm_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(slurm_folder, accounting=False, SlurmctldPort="nonsense")
    with pytest.raises(RuntimeError, match=r"slurmctld.* ended(.|\n)*slurmctld.log"):
        cluster.start()
    assert processes_of(cluster.folder) == {}
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(RuntimeError, match=r"apt-get install .*slurm-wlm"):
        cluster.start()
