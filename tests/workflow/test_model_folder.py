"""A model that is given as a folder: a change of what is loaded from it is noticed, and nothing else."""

import json
import os
import shutil
from pathlib import Path

import pytest
import yaml
from checkouts import Checkout

pytestmark = pytest.mark.slow

TRAINED = "results/mine/sft/checkpoint.json"
MADE_FROM_IT = {"audit": 1, "sft": 1}


def with_folder(finished: Checkout, path: Path) -> Checkout:
    """A checkout whose config has a second model, `mine`, that is given as the folder `model`."""
    checkout = finished.copy(path)
    shutil.copytree(checkout.path / "results/tiny/base", checkout.path / "model")
    (checkout.path / "model/.snakemake_timestamp").unlink(missing_ok=True)
    config = yaml.safe_load((checkout.path / "config.yaml").read_text())
    entry = {name: value for name, value in config["models"]["tiny"].items() if name in ("align", "generate")}
    resources = {"gpu": 0, "threads": 1, "mem_mb": 2000, "runtime": 60}
    entry |= {
        "path": "model",
        **{"template": "tutor", "instruction": "compact", "max_length": 4096, "allow_truncation": True},
        **{"dtype": "float32", "sft": {**config["models"]["tiny"]["sft"], "epochs": 0.2}},
        "resources": dict.fromkeys(("sft", "align", "generate"), resources),
    }
    quick = yaml.safe_load((checkout.path / "tests/config/quick.yaml").read_text())
    quick["models"]["mine"] = entry
    (checkout.path / "mine.yaml").write_text(yaml.safe_dump(quick))
    return checkout


def test_a_changed_model_folder_makes_stale_what_was_made_from_it(finished, tmp_path):
    checkout = with_folder(finished, tmp_path / "checkout")
    model, aside = checkout.path / "model", tmp_path / "aside"
    answer = checkout.forked("--cores", "1", "--", TRAINED, config="mine.yaml")
    assert answer.returncode == 0, answer.stdout + answer.stderr
    shutil.copytree(model, aside)

    def planned() -> dict[str, int]:
        return checkout.planned("--cores", "1", "--", TRAINED, config="mine.yaml")

    assert planned() == {}  # though conversations may be cut, and before the audit no one knew whether one would be
    os.utime(model / "config.json")
    for name in ("README.md", ".hidden.json", "training_args.bin", "model.bin"):
        (model / name).write_text("not loaded")
    assert planned() == {}

    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(
        json.dumps({**config, "rope_parameters": {"rope_theta": 7, "rope_type": "default"}})
    )
    assert planned() == MADE_FROM_IT
    shutil.copy2(aside / "config.json", model)
    assert planned() == {}

    weights = model / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert planned() == MADE_FROM_IT
    os.utime(weights, (1e9, 1e9))  # another folder in its place, whose files are older than the results
    assert planned() == MADE_FROM_IT
    shutil.copy2(aside / "model.safetensors", model)
    assert planned() == {}


def test_limits_that_texts_exceed_are_refused_before_a_job_starts_and_before_anything_is_removed(finished, tmp_path):
    checkout = finished.copy(tmp_path / "checkout")
    longest = json.loads((checkout.path / "results/tiny/sft/audit.json").read_text())["texts"]["sft"]["longest"]

    def change(max_length: int, beta: float) -> None:
        quick = yaml.safe_load((checkout.path / "tests/config/quick.yaml").read_text())
        quick["models"]["tiny"]["max_length"] = max_length
        quick["runs"] = [{"model": "tiny", "algorithm": "dpo", "beta": beta}]
        (checkout.path / "changed.yaml").write_text(yaml.safe_dump(quick))

    change(longest - 1, 0.2)
    before = sorted(checkout.path.glob("results/tiny/**/*"))
    target = "results/tiny/dpo-b0.2/checkpoint.json"
    answer = checkout.forked("--cores", "1", "--", target, config="changed.yaml")
    said = answer.stdout + answer.stderr
    assert answer.returncode != 0 and "Traceback" not in said
    assert (
        f"more tokens than max_length {longest - 1} (longest: " in said and "fix: set the model's max_length to" in said
    )
    assert sorted(checkout.path.glob("results/tiny/**/*")) == before
    change(longest - 1, 0.1)  # nothing is to be trained or answered
    assert checkout.planned("--cores", "1", config="changed.yaml") == {"report": 1}
