"""GPUs of one machine: pretended ones, named by CUDA_VISIBLE_DEVICES. Trainings run on the CPU, as there are none."""

import shutil
from pathlib import Path

import pytest
from checkouts import QUICK, Checkout

pytestmark = pytest.mark.slow


def with_gpus(checkout: Checkout, sft: object, align: object, generate: object) -> str:
    stages = f"{{sft: {{gpu: {sft}}}, align: {{gpu: {align}}}, generate: {{gpu: {generate}}}}}"
    runs = "runs: [{model: tiny, algorithm: [dpo, ipo], beta: 0.1}]"
    quick = (checkout.path / QUICK).read_text().rpartition("    resources:")[0]  # else merged with these
    text = f"{quick}    resources: {stages}\n{runs}\n"
    (checkout.path / "gpus.yaml").write_text(text)
    return "gpus.yaml"


def logs(checkout: Checkout, pattern: str) -> list[str]:
    return [file.read_text() for file in sorted(Path(checkout.path, "results/logs/tiny").glob(pattern))]


def test_more_gpus_than_the_machine_has_are_refused_before_anything_starts(checkout, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2")
    answer = checkout.forked("--cores", "2", config=with_gpus(checkout, 4, 0, 0))
    assert answer.returncode == 1
    *_, problem, remedy = answer.stderr.strip().splitlines()
    assert problem == "error: sft asks for 4 GPUs, this machine has 3"
    assert "snakemake --profile slurm" in remedy and "gpu: up to 4" in remedy
    assert "Traceback" not in answer.stderr and not (checkout.path / "results").exists()


def test_several_nodes_are_refused_where_jobs_run_on_this_machine(checkout, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")
    answer = checkout.forked("--cores", "2", config=with_gpus(checkout, "4, nodes: 2", 0, 0))
    assert answer.returncode == 1
    assert "error: sft asks for 2 nodes, and jobs run on this machine" in answer.stderr


def test_up_to_so_many_is_what_the_machine_has_and_jobs_share_it_one_at_a_time(finished, tmp_path, monkeypatch):
    checkout = finished.copy(tmp_path / "checkout")
    shutil.rmtree(checkout.path / "results/tiny/dpo-b0.1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5")
    monkeypatch.setenv("PEDALIGN_LEASES", str(checkout.path / "leases"))
    answer = checkout.forked("--cores", "8", "--until", "align", config=with_gpus(checkout, "up to 4", "up to 2", 1))
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert "sft results/" not in answer.stderr and "align results/" in answer.stderr
    trainings = logs(checkout, "*-b0.1/checkpoint.log")
    assert len(trainings) == 2 and all("leased 1 GPU of this machine: 5" in log for log in trainings)
    assert any("waiting for 1 GPU" in log for log in trainings)  # two alignments at a time, and one GPU


def test_without_a_gpu_up_to_so_many_runs_on_the_cpu(finished, tmp_path, monkeypatch):
    checkout = finished.copy(tmp_path / "checkout")
    made = ("results/tiny/sft/checkpoint.json", "results/tiny/sft/test/responses.csv")
    for name in made:
        (checkout.path / name).unlink()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    answer = checkout.forked("--cores", "2", *made, config=with_gpus(checkout, "up to 4", 0, "up to 1"))
    assert answer.returncode == 0, answer.stdout + answer.stderr
    for name in ("sft/checkpoint.log", "sft/test/responses.log"):
        (log,) = logs(checkout, name)
        assert "the CPU" in log
