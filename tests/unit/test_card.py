"""A tutor's model card: its figures are those that were measured, and its example runs."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard
from small import TALKS
from tutors import RENDERING, RUBRIC, script, trained

from pedalign.core.artifacts import write_json, write_records, write_text
from pedalign.core.provenance import verified
from pedalign.data.rubric import load_rubric
from pedalign.reporting.card_metadata import metadata

pytestmark = pytest.mark.slow

DECODING = {"max_new_tokens": 40, "min_new_tokens": 2, "temperature": 0, "repetition_penalty": 1.0, "seed": 1}


@pytest.fixture(scope="module")
def checkpoint(shared_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """That of a tutor that has been measured, and has its card."""
    folder = trained(shared_folder)[1].parent
    results = tmp_path_factory.mktemp("card")
    commit = results / "hub/models--someone--some-model/refs/main"  # of a base model that was loaded from the hub
    write_text(commit, "0" * 40)
    write_text(commit.parents[1] / "snapshots" / ("0" * 40) / "README.md", "---\nlicense: mit\n---\n")
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
        ("generate", results / "rows.json", "--model", own / "checkpoint", "--output", test / "responses.csv",
         "--settings", asking),
        ("score", results / "rows.json", test / "responses.csv", "--output", test / "metrics.json",
         "--settings", scoring),
        ("card", own / "checkpoint.json", "--metrics", test / "metrics.json", "--splits", results / "splits.json",
         "--dataset", "talks", "--source", "simulated", "--origin", "someone/some-model",
         "--rows", "conversations", "--valid-format", 0.9, "--output", own / "README.md"),
    ):  # fmt: skip
        hub = {"HF_HUB_CACHE": str(results / "hub")} if name == "card" else {}
        answer = script(name, *arguments, *common, **hub)
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
    assert "fine-tuned from someone/some-model." in card
    assert "tested on are simulated" in card
    for label in ("focus", "probing", "telling", "generic"):
        assert f"`{label}`" in card


def test_the_hub_reads_of_the_card_what_the_tutor_is_and_the_figures_that_were_measured(checkpoint):
    card = ModelCard.load(checkpoint / "README.md")
    metrics = json.loads((checkpoint.parent / "test/metrics.json").read_text())
    (field,) = load_rubric(RUBRIC).label_fields
    assert (card.data.language, card.data.base_model, card.data.license) == ("en", "someone/some-model", "mit")
    found = {one.metric_name: one for one in card.data.eval_results}
    wanted = {
        f"{field.name}, accuracy": metrics[field.key]["accuracy"],
        f"{field.name}, macro F1": metrics[field.key]["macro_f1"],
    }
    assert {name: one.metric_value for name, one in found.items()} == {"replies in valid format": 1.0, **wanted}
    assert card.data.tags == ["education", "tutoring", "sft"]  # by what trained it, whatever its folder is called
    assert {one.dataset_name for one in found.values()} == {"talks (simulated conversations)"}
    again = yaml.safe_load(card.data.to_yaml())
    assert again == yaml.safe_load((checkpoint / "README.md").read_text().split("---\n")[1])
    assert "Needs transformers 4.50 or newer." in card.text


def test_a_licence_that_is_not_known_is_left_out_and_that_of_a_base_models_folder_is_taken_over(tmp_path, rubric):
    measured = {"valid_format": 1.0, **{one.key: {"accuracy": 0.5, "macro_f1": 0.4} for one in rubric.label_fields}}

    def found() -> dict:
        text = metadata("a", str(tmp_path), False, "own", "data/own", False, measured, rubric)
        return yaml.safe_load(text)

    assert not {"license", "language", "base_model", "datasets"} & found().keys()
    for broken in ("no front matter", "---\nlicense: [\n---\n", "---\nlicense: [mit]\n---\n", "---\nmit\n---\n"):
        (tmp_path / "README.md").write_text(broken)
        assert "license" not in found()
    (tmp_path / "README.md").write_text("---\nlicense: other\nlicense_name: gemma\n---\n# A model\n")
    assert (found()["license"], found()["license_name"]) == ("other", "gemma")


def test_a_card_in_the_folder_does_not_make_it_another_checkpoint(checkpoint):
    assert (checkpoint / "README.md").read_bytes() == (checkpoint.parent / "README.md").read_bytes()
    verified(checkpoint)
