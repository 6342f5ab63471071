"""A tutor's model card: its figures are those that were measured, and its example runs."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from small import TALKS
from tutors import RENDERING, RUBRIC, script, trained

from pedalign.artifacts import write_json, write_records
from pedalign.provenance import verified

pytestmark = pytest.mark.slow

DECODING = {"max_new_tokens": 40, "min_new_tokens": 2, "temperature": 0, "repetition_penalty": 1.0, "seed": 1}


@pytest.fixture(scope="module")
def checkpoint(shared_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """That of a tutor that has been measured, and has its card."""
    folder = trained(shared_folder)[1].parent
    results = tmp_path_factory.mktemp("card")
    own = results / "tiny/dpo-b0.1"
    own.parent.mkdir()
    subprocess.run(["cp", "-r", folder, own], check=True)
    rows = [
        {"conversation_id": talk.id, "turn": turn, "prompt": talk.messages[: 2 * turn + 1], "chosen": [reply]}
        for talk in TALKS
        for turn, reply in enumerate(talk.messages[1::2])
    ]
    write_records(results / "rows.json", rows)
    split = {"conversations": 16}
    write_json(results / "splits.json", {"splits": {"sft": split, "dpo": split}, "simulated": 3, "method": "random"})
    asking = json.dumps(
        {
            "rendering": RENDERING,
            "dtype": "float32",
            "generation": {**DECODING, "max_batch_tokens": None},
            "samples": 1,
        }
    )
    scoring = json.dumps({"first_turn": True, "resamples": 200, "seed": 1})
    test, common = own / "test", ("--rubric", RUBRIC)
    for name, *arguments in (
        ("respond", results / "rows.json", "--model", own / "checkpoint", "--output", test / "responses.csv",
         "--settings", asking),
        ("score", results / "rows.json", test / "responses.csv", "--output", test / "metrics.json",
         "--settings", scoring),
        ("card", own / "checkpoint.json", "--metrics", test / "metrics.json", "--splits", results / "splits.json",
         "--dataset", "talks", "--origin", "someone/some-model", "--valid-format", 0.9, "--output", own / "README.md"),
    ):  # fmt: skip
        answer = script(name, *arguments, *common)
        assert answer.returncode == 0, answer.stderr
    return own / "checkpoint"


def test_the_example_of_the_card_runs_and_prints_what_the_tutor_says(checkpoint):
    (code,) = re.findall(r"```python\n(.*?)```", (checkpoint / "README.md").read_text(), re.DOTALL)
    code = code.replace("path/to/this/folder", str(checkpoint)).replace("Q. ...", TALKS[3].messages[0]["content"])
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert answer.stdout == "Look.\n", answer.stderr


def test_the_figures_of_the_card_are_those_that_were_measured_and_simulated_data_is_called_so(checkpoint):
    card = (checkpoint.parent / "README.md").read_text()
    metrics = json.loads((checkpoint.parent / "test/metrics.json").read_text())
    (field,) = [name for name in metrics if isinstance(metrics[name], dict) and "accuracy_ci95" in metrics[name]]
    low, high = (f"{100 * end:.1f}" for end in metrics[field]["accuracy_ci95"])
    assert f"| {100 * metrics[field]['accuracy']:.1f} | {low} to {high} |" in card
    assert "On 32 replies of 16 test conversations;\n100.0% of its replies are in valid format" in card
    assert "Asked with always the likeliest token, at most 40 tokens." in card
    assert "fine-tuned from someone/some-model." in card and "\nbase_model: someone/some-model\n---\n" in card
    assert "tested on are simulated" in card
    for label in ("focus", "probing", "telling", "generic"):
        assert f"`{label}`" in card


def test_a_card_in_the_folder_does_not_make_it_another_checkpoint(checkpoint):
    assert (checkpoint / "README.md").read_bytes() == (checkpoint.parent / "README.md").read_bytes()
    verified(checkpoint)
