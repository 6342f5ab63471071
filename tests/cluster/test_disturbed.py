"""What clusters do to jobs: the workflow goes on and ends with the same bytes, or says what happened and what to do."""

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from calls import LONG, TUNED, Call, weights
from checkouts import Checkout
from slurm import Cluster, wait_for

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

Start = Callable[..., Call]


def resumed(checkout: Checkout) -> bool:
    log = checkout.path / "results/logs/tiny/sft/checkpoint.log"
    return log.is_file() and "going on from step" in log.read_text()


def processes(checkout: Checkout) -> dict[int, list[bytes]]:
    """The ids and the commands of those that work in it."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (process / "cwd").readlink() == checkout.path:
                found[int(process.name)] = (process / "cmdline").read_bytes().split(b"\0")
    return found


def trainings(checkout: Checkout) -> list[int]:
    return [process for process, argv in processes(checkout).items() if argv[1:2] == [b"scripts/sft.py"]]


def test_a_cancelled_training_is_submitted_again_and_goes_on(checkout, call: Start, idle: Cluster, undisturbed):
    running = call(checkout)
    idle.command("scancel", running.running()["JobId"])
    running.succeed()
    first, second = running.jobs("sft")
    assert (first["JobState"], second["JobState"]) == ("CANCELLED", "COMPLETED")
    assert f"Slurm job {first['JobId']} ended as CANCELLED: it was cancelled" in running.said
    assert "ended by SIGTERM after step" in Path(checkout.path, first["StdOut"]).read_text()
    assert resumed(checkout) and weights(checkout) == undisturbed


def test_a_requeued_training_keeps_its_job_and_goes_on(checkout, call: Start, idle: Cluster, undisturbed):
    running = call(checkout)
    idle.command("scontrol", "requeue", running.running()["JobId"])
    running.succeed()
    (job,) = running.jobs("sft")
    assert (job["JobState"], job["Restarts"]) == ("COMPLETED", "1")
    assert resumed(checkout) and weights(checkout) == undisturbed


@pytest.mark.long
def test_a_training_that_reaches_its_time_limit_saves_in_time_and_gets_more(checkout, call, undisturbed):
    """It stands still until it is warned (Slurm wakes what it signals): the shortest limit, a minute, is longer than
    the training takes. Slurm warns up to a minute early, which may end another of its jobs."""
    signal_early = "sft:slurm_extra='--open-mode=append --signal=TERM@20'"
    (checkout.path / "limit.yaml").write_text("models: {tiny: {resources: {sft: {runtime: 1, max_runtime: 3}}}}")
    running = call(checkout, "--set-resources", signal_early, config=(*LONG, "limit.yaml"))
    running.running()
    (training,) = trainings(checkout)
    os.kill(training, signal.SIGSTOP)
    running.succeed()
    *ended, last = running.jobs("sft")
    limits = [job["TimeLimit"] for job in (*ended, last)]
    assert ended and limits == ["00:01:00", "00:02:00", "00:03:00"][: len(limits)]
    assert any("ended by SIGTERM after step" in Path(checkout.path, job["StdOut"]).read_text() for job in ended)
    assert last["JobState"] == "COMPLETED"
    assert resumed(checkout) and weights(checkout) == undisturbed


def test_a_training_whose_node_is_set_down_goes_on_elsewhere(checkout, call: Start, idle: Cluster, undisturbed):
    running = call(checkout)
    node = running.running()["NodeList"]
    idle.down(node)
    running.succeed()
    (job,) = running.jobs("sft")
    assert job["JobState"] == "COMPLETED" and job["NodeList"] != node
    assert resumed(checkout) and weights(checkout) == undisturbed


@pytest.mark.long
def test_a_training_whose_node_is_lost_goes_on_elsewhere(checkout, call: Start, idle: Cluster, undisturbed):
    """The lost node's processes live on, unseen by Slurm, stuck until all is done; they leave the result alone."""
    running = call(checkout)
    node = running.running()["NodeList"]
    (old,) = trainings(checkout)
    os.kill(old, signal.SIGSTOP)
    idle.kill_slurmd(node)
    wait_for(lambda: resumed(checkout), "the training to go on", 120)
    running.succeed()
    os.kill(old, signal.SIGCONT)
    wait_for(lambda: not processes(checkout), "the lost job to end")
    (job,) = running.jobs("sft")
    assert job["JobState"] == "COMPLETED" and job["NodeList"] != node
    assert weights(checkout) == undisturbed


def test_too_little_memory_is_said_by_name(checkout, call: Start):
    (checkout.path / "memory.yaml").write_text("models: {tiny: {resources: {sft: {mem_mb: 200}}}}")
    running = call(checkout, "--retries", "0", config=(*LONG, "memory.yaml"))
    assert running.finish() == 1
    (job,) = running.jobs("sft")
    assert f"Slurm job {job['JobId']} ended as" in running.said and "raise mem_mb" in running.said
    assert "sft results/tiny/sft/checkpoint failed" in running.said and job["StdOut"] in running.said


def test_a_full_disk_for_logs_does_not_end_a_training(checkout, call: Start, small_disk: Path, undisturbed):
    (small_disk / "ballast").write_bytes(b"0" * 16384)
    (checkout.path / "results/logs").rename(small_disk.parent / "logs")
    (checkout.path / "results/logs").symlink_to(small_disk)
    running = call(checkout)
    running.succeed()
    assert weights(checkout) == undisturbed


@pytest.mark.long
def test_a_full_disk_for_slurms_own_logs_does_not_end_a_training(checkout, call: Start, small_disk: Path, undisturbed):
    (small_disk / "ballast").write_bytes(b"0" * 16384)
    running = call(checkout, "--slurm-steady-logdir", str(small_disk))
    running.succeed()
    assert weights(checkout) == undisturbed


def test_a_job_that_can_never_start_is_cancelled_and_named(checkout, call: Start, idle: Cluster):
    (checkout.path / "many.yaml").write_text("models: {tiny: {resources: {sft: {runtime: 100}}}}")
    idle.command("scontrol", "update", "partitionname=gpu", "maxtime=60")
    try:
        running = call(checkout, "--retries", "0", config=(*LONG, "many.yaml"))
        assert running.finish(120) == 1
    finally:
        idle.command("scontrol", "update", "partitionname=gpu", "maxtime=infinite")
    assert (
        "more time than the partition gives" in running.said
        and "sft results/tiny/sft/checkpoint failed" in running.said
    )
    assert not any(job["JobState"] == "PENDING" for job in running.jobs("sft"))


@pytest.mark.parametrize("meanwhile", ["runs", pytest.param("finishes", marks=pytest.mark.long)])
def test_a_killed_snakemake_takes_its_jobs_up_when_started_again(checkout, call: Start, undisturbed, meanwhile):
    killed = call(checkout)
    job = killed.running()
    killed.kill()
    if meanwhile == "finishes":
        wait_for(lambda: killed.jobs("sft")[0]["JobState"] == "COMPLETED", "the training to end", 120)
    local = checkout.snakemake("--cores", "1", "--unlock", config=LONG[0])
    assert local.returncode == 0, local.stderr
    again = call(checkout)
    again.succeed()
    assert [one["JobId"] for one in again.jobs("sft")] == [job["JobId"]]
    assert f"Slurm job {job['JobId']} of an earlier call: taken up" in again.said
    assert weights(checkout) == undisturbed
    # All that decides when it is stale was booked: nothing to do, unless a setting changes.
    call(checkout).succeed()
    assert len(again.jobs("sft")) == 1
    (checkout.path / "other.yaml").write_text("models: {tiny: {sft: {learning_rate: 0.001}}}")
    plan = ["snakemake", "--profile", "slurm", "-n", "--configfile", *LONG, "other.yaml", "--", TUNED]
    answer = subprocess.run(plan, cwd=checkout.path, capture_output=True, text=True)
    assert "1 job: sft\n" in answer.stdout


def test_what_an_earlier_call_submitted_with_other_settings_is_ended_and_not_taken_up(checkout, call: Start):
    killed = call(checkout)
    job = killed.running(saved=20)
    killed.kill()
    checkout.snakemake("--cores", "1", "--unlock")
    (checkout.path / "other.yaml").write_text("models: {tiny: {sft: {epochs: 2}}}")
    again = call(checkout, config=(*LONG, "other.yaml"))
    again.succeed()
    assert [one["JobState"] for one in again.jobs("sft")] == ["CANCELLED", "COMPLETED"]
    assert "taken up" not in again.said and job["JobId"] != again.jobs("sft")[-1]["JobId"]
    manifest = json.loads((checkout.path / TUNED).read_text())
    assert manifest["settings"]["training"]["epochs"] == 2


def test_jobs_here_do_not_start_beside_those_of_a_killed_call_on_the_cluster(checkout, call: Start):
    killed = call(checkout)
    job = killed.running(saved=20)
    killed.kill()
    checkout.snakemake("--cores", "1", "--unlock")
    command = ["snakemake", "--cores", "1", "--rerun-incomplete", "--configfile", *LONG, "--", TUNED]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "0"}
    answer = subprocess.run(command, cwd=checkout.path, env=environment, capture_output=True, text=True)
    assert answer.returncode == 1
    assert f"Slurm jobs of an earlier call may still run: {job['JobId']}" in answer.stderr


@pytest.mark.long
def test_without_accounts_sacct_is_refused_and_squeue_serves(prepared, tmp_path, plain_cluster: Cluster, undisturbed):
    checkout = prepared.copy(tmp_path / "checkout")
    refused = Call(checkout, plain_cluster)
    assert refused.finish(60) == 1
    assert "sacct gives no answer: Slurm accounting storage is disabled" in refused.said
    assert "slurm-steady-status-command: squeue in profiles/slurm/profile.yaml" in refused.said
    assert not plain_cluster.jobs()
    served = Call(checkout, plain_cluster, "--slurm-steady-status-command", "squeue")
    served.succeed()
    assert weights(checkout) == undisturbed


@pytest.mark.long
def test_a_silent_slurm_ends_the_workflow_with_a_message_and_its_jobs_are_taken_up(checkout, slurm_folder, undisturbed):
    with Cluster(slurm_folder, accounting=True) as own:
        running = Call(checkout, own, "--slurm-steady-unanswered-minutes", "1")
        job = running.running(saved=20)
        own.daemons["slurmctld"].send_signal(signal.SIGSTOP)
        assert running.finish(240) == 1
        assert "has given no answer for 1 minutes" in running.said and job["JobId"] in running.said
        own.daemons["slurmctld"].send_signal(signal.SIGCONT)
        again = Call(checkout, own)
        again.succeed()
        assert len(again.jobs("sft")) == 1
        assert weights(checkout) == undisturbed
