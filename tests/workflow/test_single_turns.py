"""Conversations of one question and one reply go through the whole workflow."""

import json

import pytest
import yaml

pytestmark = pytest.mark.slow


def test_conversations_of_one_reply_are_trained_on_paired_and_scored(checkout):
    talks = json.loads((checkout.path / "datasets/simulated/bio-dataset-1.json").read_text())[:60]
    folder = checkout.path / "my-data"
    folder.mkdir()
    single = [{**talk, "conversations": talk["conversations"][:2]} for talk in talks]
    (folder / "ask-dataset-1.json").write_text(json.dumps(single))
    quick = yaml.safe_load((checkout.path / "tests/config/quick.yaml").read_text())
    config = {**quick, "source": "my-data", "dataset": "ask", "split": {"sft": 20, "dpo": 20, "test": 20}}
    file = checkout.path / "single.yaml"
    file.write_text(yaml.safe_dump(config))
    answer = checkout.forked("--cores", "2", "--until", "split", config="single.yaml")
    assert answer.returncode != 0
    said = answer.stdout + answer.stderr
    assert "0 have more than two turns" in said and "60 of one reply count with min_turns: 1" in said

    config["split"]["min_turns"], config["score"]["first_turn"] = 1, True
    file.write_text(yaml.safe_dump(config))
    answer = checkout.forked("--cores", "2", config="single.yaml")
    assert answer.returncode == 0, answer.stdout + answer.stderr
    results = checkout.path / "results"
    splits = json.loads((results / "data/splits.json").read_text())
    rows = json.loads((results / "data/ask-test_formatted.json").read_text())
    assert len(rows) == splits["splits"]["test"]["conversations"] and {row["turn"] for row in rows} == {0}
    for policy in ("sft", "dpo-b0.1"):
        metrics = json.loads((results / f"tiny/{policy}/test/metrics.json").read_text())
        assert metrics["n_rows"] == metrics["n_conversations"] == len(rows)
    assert json.loads((results / "tiny/preferences.json").read_text())["prompt"]
    steps = (results / "charts").rglob("steps*.csv")
    assert all("a single tutor turn" not in path.read_text() for path in steps)
