"""What changes decides what reruns, and nothing else does."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

pytestmark = pytest.mark.slow

SHOWING = {"summarize": 1, "card": 2, "report": 1}
SCORING = {"score": 2, "compare": 1, **SHOWING}
ALIGNING = {"optimize": 1, "respond": 1, "perplexity": 1, "score": 1, "compare": 1, **SHOWING, "card": 1}
FINETUNING = {"finetune": 1, "pair": 1, "reference": 1, "optimize": 1, "respond": 3, "perplexity": 2, **SCORING}
EVERYTHING = {"split": 1, "base": 1, "audit": 1, **FINETUNING}


def comment(module: str) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        with (path / "scripts" / "pedalign" / module).open("a") as file:
            file.write("# one more comment\n")

    return change


def setting(*keys: str, value: object) -> Callable[[Path], None]:
    """Change one setting of the quick run."""

    def change(path: Path) -> None:
        file = path / "tests/config/quick.yaml"
        config = yaml.safe_load(file.read_text())
        place = config
        for key in keys[:-1]:
            place = place.setdefault(key, {})
        place[keys[-1]] = value
        file.write_text(yaml.safe_dump(config))

    return change


def touched_readme(path: Path) -> None:
    os.utime(path / "README.md")


def reordered_config(path: Path) -> None:
    def backwards(value: object) -> object:
        return {key: backwards(value[key]) for key in reversed(value)} if isinstance(value, dict) else value

    file = path / "config.yaml"
    file.write_text(yaml.safe_dump(backwards(yaml.safe_load(file.read_text())), sort_keys=False))


def rewritten_dataset(path: Path) -> None:
    file = path / "datasets/simulated/bio-dataset-1.json"
    content = file.read_bytes()
    file.unlink()
    file.write_bytes(content)


def changed_dataset(path: Path) -> None:
    file = path / "datasets/simulated/bio-dataset-1.json"
    records = json.loads(file.read_text())
    records[0]["conversations"][0]["value"] += " Thank you."
    file.write_text(json.dumps(records))


def deleted(artifact: str) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        place = path / "results" / artifact
        if place.is_dir():
            shutil.rmtree(place)
        else:
            place.unlink()

    return change


TABLE = {
    "nothing": (lambda path: None, {}),
    "a touched README": (touched_readme, {}),
    "the order of keys in the config": (reordered_config, {}),
    "a dataset file written anew with equal bytes": (rewritten_dataset, {}),
    "threads and GPUs of a model": (setting("models", "tiny", "resources", "sft", value={"threads": 2, "gpu": 4}), {}),
    "minutes, memory and nodes of a model": (
        setting("models", "tiny", "resources", "sft", value={"threads": 1, "runtime": 9, "mem_mb": 9000, "nodes": 2}),
        {},
    ),
    "where the curves are to be seen": (setting("trackers", value=[]), {}),
    "how often states are saved": (setting("training_state", value={"minutes": 1, "steps": 7}), {}),
    "how jobs are launched": (comment("launching.py"), {}),
    "how GPUs are leased": (comment("leases.py"), {}),
    "a comment in a module of two stages": (comment("metrics.py"), SCORING),
    "a metric's code": (comment("statistics.py"), {"perplexity": 2, **SCORING}),
    "the perplexity's code": (comment("perplexity.py"), {"perplexity": 2, **SHOWING}),
    "the code that builds pairs": (comment("preferences.py"), {"pair": 1, "reference": 1, **ALIGNING}),
    "the summary's code": (comment("summary.py"), SHOWING),  # cards tell no more than it does
    "how the table is printed": (comment("table.py"), {}),
    "how the report is drawn": (comment("charts.py"), {"report": 1}),
    "an algorithm's code": (comment("alignment.py"), ALIGNING),
    "resamples of the bootstrap": (setting("evaluation", "resamples", value=300), {"perplexity": 2, **SCORING}),
    "most pairs of one prompt": (
        setting("preferences", value={"per_prompt": 2}),
        {"pair": 1, "reference": 1, **ALIGNING},
    ),
    "samples of each prompt": (
        setting("preferences", value={"samples": 2, "temperature": 1.0}),
        {"respond": 2, "pair": 1, "reference": 1, "optimize": 1, "perplexity": 1, **SCORING, "score": 1, "card": 1},
    ),
    "beta": (setting("runs", value=[{"model": "tiny", "algorithm": "dpo", "beta": 0.2}]), ALIGNING),
    "learning rate of the alignment": (setting("models", "tiny", "alignment", "learning_rate", value=1e-3), ALIGNING),
    "learning rate of SFT": (setting("models", "tiny", "sft", "learning_rate", value=1e-3), FINETUNING),
    "length of the replies": (
        setting("models", "tiny", "generation", "max_new_tokens", value=25),
        {"respond": 3, "pair": 1, "reference": 1, "optimize": 1, "perplexity": 1, **SCORING},
    ),
    "a larger max_length, where nothing is cut": (setting("models", "tiny", "max_length", value=8000), {"report": 1}),
    "a smaller max_length, where nothing is cut": (setting("models", "tiny", "max_length", value=2000), {"report": 1}),
    "that conversations may be cut, where none is": (
        setting("models", "tiny", "allow_truncation", value=True),
        {"report": 1},
    ),
    "the share of tokens to be trained": (setting("checks", "trained_share", value=[0.1, 0.9]), {"report": 1}),
    "a max_length that cuts": (
        lambda path: (
            setting("models", "tiny", "allow_truncation", value=True)(path),
            setting("models", "tiny", "max_length", value=600)(path),
        ),
        FINETUNING,
    ),
    "a setting of another algorithm": (setting("preferences", "label_noise", value=0.2), {"report": 1}),
    "the paper's rules": (setting("paper_rules", value=True), EVERYTHING),
    "a split size": (setting("splits", "test", value=5), EVERYTHING),
    "the way of drawing": (setting("splits", "method", value="leak_free"), EVERYTHING),
    "a dataset file's bytes": (changed_dataset, EVERYTHING),
    "deleted metrics": (deleted("tiny/sft/test/metrics.json"), {"score": 1, **SHOWING, "card": 1}),
    "a deleted aligned checkpoint": (deleted("tiny/dpo-b0.1/checkpoint"), ALIGNING),
    "deleted log-probabilities of the reference": (
        deleted("tiny/sft/reference.json"),
        {"reference": 1, **ALIGNING},
    ),
    "deleted preferences": (deleted("tiny/preferences.json"), {"pair": 1, "reference": 1, **ALIGNING}),
}


@pytest.mark.parametrize("what", TABLE)
def test_a_change_reruns_exactly_what_depends_on_it(what, finished, tmp_path):
    change, expected = TABLE[what]
    checkout = finished.copy(tmp_path / "checkout")
    change(checkout.path)
    assert checkout.planned("--cores", "2") == expected


@pytest.mark.parametrize("cores", ["1", "8"])
def test_the_number_of_cores_reruns_nothing(cores, finished):
    assert finished.planned("--cores", cores) == {}


def test_a_finished_run_started_again_does_nothing(finished):
    answer = finished.snakemake("--cores", "2")
    assert answer.returncode == 0
    assert "Nothing to be done" in answer.stdout + answer.stderr


def test_a_run_with_another_beta_keeps_the_first_ones_artifacts(finished, tmp_path):
    checkout = finished.copy(tmp_path / "checkout")
    setting("runs", value=[{"model": "tiny", "algorithm": "dpo", "beta": beta} for beta in (0.1, 0.2)])(checkout.path)
    assert checkout.planned("--cores", "2") == ALIGNING
