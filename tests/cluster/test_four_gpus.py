"""Whole runs on the cluster, with the GPUs of the large models."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from calls import QUICKLY, Call
from checkouts import QUICK, ROOT, Checkout, fresh_checkout
from safetensors.torch import load_file
from slurm import Cluster

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

Start = Callable[..., Call]
FOUR = (QUICK, "tests/config/four.yaml")

# Of four ranks against one: parts of a batch are summed in another order, in float32, in each step of both trainings.
WEIGHTS = 1e-4
PERPLEXITY = 1e-3  # relative
ACCURACY = 0.02  # a reply in fifty may come out otherwise


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """The same run on this machine, in one process."""
    checkout = fresh_checkout(tmp_path_factory.mktemp("alone") / "checkout")
    one = "models: {tiny: {resources: {sft: {gpu: 0}, align: {gpu: 0}, generate: {gpu: 0}}}}"
    (checkout.path / "one.yaml").write_text(one)
    command = ["snakemake", "--cores", "2", "--configfile", *FOUR, "one.yaml"]
    answer = subprocess.run(command, cwd=checkout.path, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    return checkout


@pytest.fixture(scope="module")
def spread(tmp_path_factory: pytest.TempPathFactory, cluster: Cluster) -> Call:
    """On the cluster, four ranks for each training."""
    checkout = fresh_checkout(tmp_path_factory.mktemp("spread") / "checkout")
    running = Call(checkout, cluster, config=FOUR, target="all")
    running.succeed(600)
    return running


def read(checkout: Checkout, path: str) -> dict:
    return json.loads((checkout.path / "results/tiny" / path).read_text())


def test_trainings_got_four_gpus_on_one_node_and_generation_one(spread: Call):
    for rule, gpus, jobs in (("sft", 4, 1), ("align", 4, 1), ("generate", 1, 3), ("perplexity", 1, 2)):
        found = spread.jobs(rule)
        assert len(found) == jobs
        for job in found:
            assert job["JobState"] == "COMPLETED" and job["NumNodes"] == "1"
            assert f"gres/gpu={gpus}" in job["TRES"]
    assert not spread.jobs("summarize")  # seconds: not worth a place in the queue


def test_the_accounts_say_the_same(spread: Call, cluster: Cluster):
    trained = [record for record in cluster.records() if record["JobID"] == spread.jobs("sft")[0]["JobId"]]
    assert [record["State"] for record in trained] == ["COMPLETED"]
    assert "gres/gpu=4" in trained[0]["AllocTRES"] and "node=1" in trained[0]["AllocTRES"]


@pytest.mark.parametrize("tutor", ["sft", "dpo-b0.1"])
def test_four_ranks_trained_what_one_process_trains(spread: Call, alone: Checkout, tutor: str):
    manifests = [read(checkout, f"{tutor}/checkpoint.json") for checkout in (spread.checkout, alone)]
    assert [manifest["processes"] for manifest in manifests] == [4, 1]
    losses = [[step["loss"] for step in manifest["history"]] for manifest in manifests]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    folders = [checkout.path / f"results/tiny/{tutor}/checkpoint" for checkout in (spread.checkout, alone)]
    ours, theirs = (load_file(folder / "model.safetensors") for folder in folders)
    assert all(torch.allclose(ours[name], theirs[name], atol=WEIGHTS) for name in theirs)
    log = (spread.checkout.path / f"results/logs/tiny/{tutor}/checkpoint.log").read_text()
    assert "4 processes on 1 nodes" in log and "GPUs 0,1,2,3" in log


@pytest.mark.parametrize("tutor", ["sft", "dpo-b0.1"])
def test_its_metrics_are_those_of_one_process(spread: Call, alone: Checkout, tutor: str):
    ours, theirs = (read(checkout, f"{tutor}/test/perplexity.json") for checkout in (spread.checkout, alone))
    for group in theirs["groups"]:
        figures = [one["groups"][group]["perplexity"] for one in (ours, theirs)]
        assert figures[0] == pytest.approx(figures[1], rel=PERPLEXITY)
    ours, theirs = (read(checkout, f"{tutor}/test/metrics.json") for checkout in (spread.checkout, alone))
    for field in ("evaluation", "action", "state"):
        assert ours[field]["accuracy"] == pytest.approx(theirs[field]["accuracy"], abs=ACCURACY)


@pytest.mark.long
def test_in_a_sweep_two_trainings_run_side_by_side_and_never_two_on_one_nodes_gpus(spread: Call, cluster: Cluster):
    runs = "runs: [{model: tiny, algorithm: [dpo, ipo], beta: [0.2, 0.5]}]"
    (spread.checkout.path / "sweep.yaml").write_text(runs)
    running = Call(spread.checkout, cluster, config=(*FOUR, "sweep.yaml"), target="align")
    running.succeed(600)
    jobs = [job for job in running.jobs("align") if "dpo-b0.1" not in job["Comment"]]
    assert all("gres/gpu=4" in job["TRES"] for job in jobs)
    assert len({job["Comment"] for job in jobs if job["JobState"] == "COMPLETED"}) == 4
    together = [
        (one, other)
        for at, one in enumerate(jobs)
        for other in jobs[at + 1 :]
        if one["StartTime"] < other["EndTime"] and other["StartTime"] < one["EndTime"]
    ]
    assert together and all(one["NodeList"] != other["NodeList"] for one, other in together)
    assert "sft results/" not in running.said


@pytest.mark.long
def test_the_gpu_model_of_the_profile_is_asked_for_by_jobs_with_gpus_and_by_no_others(tmp_path: Path, call: Start):
    checkout = fresh_checkout(tmp_path / "checkout")
    profile = checkout.path / "profiles/slurm/profile.yaml"
    profile.write_text(profile.read_text().replace("# - gpu_model=a100", "- gpu_model=a100"))
    running = call(checkout)
    running.succeed()
    assert [job["TresPerJob"] for job in running.jobs("sft")] == ["gres:gpu:a100:1"]
    assert "gpu" not in running.jobs("split")[0]["TRES"]


def test_a_training_over_two_nodes_is_that_of_one(prepared: Checkout, tmp_path: Path, call: Start):
    made = []
    for nodes in (1, 2):
        checkout = prepared.copy(tmp_path / f"nodes{nodes}")
        resources = f"{{gpu: 2, nodes: {nodes}, threads: 1}}"
        sft = "{epochs: 2, global_batch_size: 4, device_batch_size: 1}"
        (checkout.path / "nodes.yaml").write_text(f"models: {{tiny: {{sft: {sft}, resources: {{sft: {resources}}}}}}}")
        running = call(checkout, config=(QUICK, "nodes.yaml"))
        running.succeed()
        (job,) = running.jobs("sft")
        assert job["NumNodes"] == str(nodes) and "gres/gpu=2" in job["TRES"]
        manifest = read(checkout, "sft/checkpoint.json")
        assert manifest["processes"] == 2
        made.append((manifest, load_file(checkout.path / "results/tiny/sft/checkpoint/model.safetensors")))
    (one, ours), (two, theirs) = made
    assert [step["loss"] for step in one["history"]] == pytest.approx([step["loss"] for step in two["history"]])
    assert all(torch.allclose(ours[name], theirs[name], atol=1e-6) for name in theirs)


@pytest.mark.long
@pytest.mark.parametrize(
    "config", [pytest.param((), id="the default run"), pytest.param(("--configfile", QUICK), id="quick")]
)
def test_a_clean_clone_is_built(config: tuple[str, ...], tmp_path: Path, idle: Cluster):
    subprocess.run(["git", "clone", "--quiet", str(ROOT), tmp_path / "clone"], check=True)
    # One at a time: the cluster has more cores than the machine, where threads of two jobs would wait for each other.
    command = ["snakemake", "--profile", "slurm", "--jobs", "1", *QUICKLY, *config]
    answer = subprocess.run(command, cwd=tmp_path / "clone", env=idle.environment, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert "(19 of 19)\n" in answer.stdout + answer.stderr
    rows = (tmp_path / "clone/results/summary.csv").read_text().splitlines()
    assert len(rows) > 2
