"""Tutors that were trained elsewhere are evaluated like our own."""

import json
import shutil

import pytest
import yaml

pytestmark = pytest.mark.slow


@pytest.fixture
def theirs(finished, tmp_path):
    """A checkout whose config names the checkpoints of a finished run as someone else's."""
    checkout = finished.copy(tmp_path / "checkout")
    elsewhere = tmp_path / "elsewhere"
    for policy in ("sft", "dpo-b0.1"):
        shutil.copytree(checkout.path / f"results/tiny/{policy}/checkpoint", elsewhere / policy)
    entry = {
        "sft": str(elsewhere / "sft"),
        "aligned": {"dpo-b0.1": str(elsewhere / "dpo-b0.1")},
        "template": "tutor",
        "instruction": "compact",
        "dtype": "float32",
        "generate": yaml.safe_load((checkout.path / "config.yaml").read_text())["models"]["tiny"]["generate"],
        "resources": {"generate": {"gpu": 0, "threads": 1, "mem_mb": 1000, "runtime": 10}},
    }
    entry["generate"]["max_new_tokens"] = 24
    quick = yaml.safe_load((checkout.path / "tests/config/quick.yaml").read_text())
    quick["runs"] = [{"model": "theirs", "algorithm": "dpo", "beta": 0.1}]
    quick["models"]["theirs"] = entry
    (checkout.path / "theirs.yaml").write_text(yaml.safe_dump(quick))
    return checkout, elsewhere


def test_given_checkpoints_are_evaluated_without_training(theirs):
    checkout, elsewhere = theirs
    assert checkout.planned("--cores", "2", config="theirs.yaml") == {
        "adopt": 2,
        "generate": 2,
        "perplexity": 2,
        "score": 2,
        "compare": 1,
        "summarize": 1,
        "card": 2,
        "report": 1,
    }
    answer = checkout.forked("--cores", "2", config="theirs.yaml")
    assert answer.returncode == 0, answer.stdout + answer.stderr
    for artifact in ("sft/test/metrics.json", "dpo-b0.1/test/metrics.json", "dpo-b0.1/test/comparison.json"):
        one, other = (
            json.loads((checkout.path / "results" / model / artifact).read_text()) for model in ("tiny", "theirs")
        )
        hashes, others = (sorted(report.pop("computed_from").values()) for report in (one, other))
        assert one == other and hashes == others
    assert checkout.planned("--cores", "2", config="theirs.yaml") == {}
    (elsewhere / "sft/model.safetensors").write_bytes((elsewhere / "dpo-b0.1/model.safetensors").read_bytes())
    assert checkout.planned("--cores", "2", config="theirs.yaml")["adopt"] == 1  # other weights, other answers


def test_a_checkpoint_that_is_not_whole_is_refused_in_two_lines(theirs):
    """As by the script, which test_bad_input.py gives many that can't be used."""
    checkout, elsewhere = theirs
    (elsewhere / "sft/model.safetensors").unlink()
    answer = checkout.forked("--cores", "2", "--", "results/theirs/sft/checkpoint.json", config="theirs.yaml")
    assert answer.returncode != 0
    said = answer.stdout + answer.stderr
    assert "Traceback" not in said
    (error,) = {line for line in said.splitlines() if line.startswith("error:")}
    assert str(elsewhere / "sft") in error
    assert "without weights" in error and "save_pretrained" in said
    assert not (checkout.path / "results/theirs/sft/checkpoint.json").exists()


def test_the_benchmark_of_a_tutor_that_is_not_trained_here_is_refused_in_two_lines(theirs):
    checkout, _ = theirs
    answer = checkout.forked("--cores", "2", "--", "benchmark", config="theirs.yaml")
    assert answer.returncode != 0 and "Traceback" not in answer.stderr
    said = (answer.stdout + answer.stderr).splitlines()
    at = next(at for at, line in enumerate(said) if line.startswith("error:"))
    assert said[at] == "error: benchmark: theirs is not trained here" and "'runs'" in said[at + 1]
