"""Data that no one here wrote, by the commands of docs/how-to/problem-bank.md and docs/how-to/mathdial.md."""

import csv
import json
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

pytestmark = pytest.mark.slow

DATA = Path(__file__).parents[3] / "shared" / "data"


def real(name: str) -> Path:
    path = DATA / name
    if not path.exists():
        pytest.skip(f"{path} is not there")
    return path


def run(checkout, *command: str) -> None:
    answer = subprocess.run(command, cwd=checkout.path, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stdout + answer.stderr


def metrics(checkout, policy: str) -> dict:
    return json.loads((checkout.path / "results/tiny" / policy / "test/metrics.json").read_text())


def test_published_problems_are_simulated_and_train_a_tutor_that_is_measured_and_makes_pairs(checkout):
    bank = real("class-biology-problems.csv")
    command = ["python", "scripts/simulate.py", str(bank), "--dataset", "class", "--output", "my-data"]
    run(checkout, *command, "--conversations", "40", "--report", "my-data/report.json")
    report = json.loads((checkout.path / "my-data/report.json").read_text())
    with bank.open(newline="", encoding="utf-8") as file:
        rows = len(list(csv.DictReader(file)))
    assert report["usable"] + sum(report["rejected"].values()) == rows
    assert report["rejected"]["not JSON"] > 0

    wanted = (
        "results/tiny/sft/test/metrics.json",
        "results/tiny/sft/test/perplexity.json",
        "results/tiny/preferences.json",
    )
    answer = checkout.forked("--cores", "2", "--config", "source=my-data", "dataset=class", "--", *wanted)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert json.loads((checkout.path / "results/data/splits.json").read_text())["simulated"]
    assert set(metrics(checkout, "sft")) > {"evaluation", "action", "state"}
    assert json.loads((checkout.path / "results/tiny/preferences.json").read_text())["prompt"]


def test_mathdial_is_imported_and_goes_through_the_whole_workflow_with_its_rubric(checkout):
    lines = real("mathdial-400.jsonl")
    shutil.copy(lines, checkout.path / "mathdial.jsonl")
    example = (checkout.path / "examples/mathdial.yaml").read_text()
    quick = yaml.safe_load((checkout.path / "tests/config/quick.yaml").read_text())
    runs = [{"model": "tiny", "algorithm": "dpo", "beta": 0.1}]
    config = {**yaml.safe_load(example), **quick, "results": "results", "runs": runs}
    (checkout.path / "mathdial.yaml").write_text(yaml.safe_dump(config))
    answer = checkout.forked("--cores", "2", config="mathdial.yaml")
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert "simulated" not in answer.stdout + answer.stderr
    for policy in ("sft", "dpo-b0.1"):
        measured = metrics(checkout, policy)
        assert "move" in measured
        assert "action" not in measured
