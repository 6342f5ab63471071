"""What changes decides what reruns, and nothing else does."""

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

pytestmark = pytest.mark.slow

SHOWING = {"summarize": 1, "card": 2, "report": 1}
SCORING = {"score": 2, "compare": 1, **SHOWING}
ALIGNING = {"align": 1, "generate": 1, "perplexity": 1, "score": 1, "compare": 1, **SHOWING, "card": 1}
FINETUNING = {"sft": 1, "pair": 1, "reference": 1, "align": 1, "generate": 3, "perplexity": 2, **SCORING}
EVERYTHING = {"split": 1, "base": 1, "audit": 1, **FINETUNING}


def other(module: str) -> Callable[[Path], None]:
    """One more statement in a module."""

    def change(path: Path) -> None:
        with (path / "scripts" / "pedalign" / module).open("a") as file:
            file.write("\n_ONE_MORE = 1\n")

    return change


def replaced(file: str, old: str, new: str) -> Callable[[Path], None]:
    """Other words in a file of scripts/pedalign."""

    def change(path: Path) -> None:
        place = path / "scripts/pedalign" / file
        text = place.read_text()
        assert old in text
        place.write_text(text.replace(old, new, 1))

    return change


def commented_everywhere(path: Path) -> None:
    for file in path.rglob("scripts/**/*.py"):
        file.write_text(f"# {file.name}\n{file.read_text()}\n# the end\n")


def moved(path: Path) -> None:
    """metrics.py into a package, with another name."""
    library = path / "scripts/pedalign"
    (library / "room").mkdir()
    (library / "room/__init__.py").touch()
    (library / "evaluation/metrics.py").rename(library / "room/measures.py")
    for file in path.rglob("scripts/**/*.py"):
        file.write_text(file.read_text().replace("pedalign.evaluation.metrics", "pedalign.room.measures"))


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
    "a comment in every script and module": (commented_everywhere, {}),
    "a docstring": (replaced("training/alignment.py", '"""', '"""In other words: '), {}),
    "a message": (replaced("models/templates.py", "is not known", "is none of ours"), {}),
    "what the progress looks like": (other("core/progress.py"), {}),
    "how jobs are launched": (other("cluster/launching.py"), {}),
    "how GPUs are leased": (other("cluster/gpu_locks.py"), {}),
    "a module that is moved and renamed": (moved, {}),
    "a module of two stages": (other("evaluation/metrics.py"), SCORING),
    "a metric's code": (other("evaluation/label_metrics.py"), SCORING),
    "the code of intervals": (other("evaluation/statistics.py"), {"perplexity": 2, **SCORING}),
    "the perplexity's code": (other("evaluation/perplexity.py"), {"perplexity": 2, **SHOWING}),
    "the code that builds pairs": (other("data/preferences.py"), {"pair": 1, "reference": 1, **ALIGNING}),
    "the summary's code": (other("reporting/summary.py"), SHOWING),  # cards tell no more than it does
    "how the table is printed": (other("reporting/table.py"), {}),
    "how the report is drawn": (other("reporting/charts.py"), {"report": 1}),
    "the report's wording": (replaced("reporting/report.html", "<p", "<p "), {"report": 1}),
    "the formula of a loss": (
        replaced("training/algorithms.py", '_loss_type("sigmoid")', '_loss_type("hinge")'),
        ALIGNING,
    ),
    "resamples of the bootstrap": (setting("score", "resamples", value=300), {"perplexity": 2, **SCORING}),
    "most pairs of one prompt": (
        setting("pair", value={"per_prompt": 2}),
        {"pair": 1, "reference": 1, **ALIGNING},
    ),
    "samples of each prompt": (
        setting("pair", value={"samples": 2, "temperature": 1.0}),
        {"generate": 2, "pair": 1, "reference": 1, "align": 1, "perplexity": 1, **SCORING, "score": 1, "card": 1},
    ),
    "beta": (setting("runs", value=[{"model": "tiny", "algorithm": "dpo", "beta": 0.2}]), ALIGNING),
    "learning rate of the alignment": (setting("models", "tiny", "align", "learning_rate", value=1e-3), ALIGNING),
    "learning rate of SFT": (setting("models", "tiny", "sft", "learning_rate", value=1e-3), FINETUNING),
    "length of the replies": (
        setting("models", "tiny", "generate", "max_new_tokens", value=25),
        {"generate": 3, "pair": 1, "reference": 1, "align": 1, "perplexity": 1, **SCORING},
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
    "a setting of another algorithm": (setting("pair", "label_noise", value=0.2), {"report": 1}),
    "the paper's rules": (setting("paper_rules", value=True), EVERYTHING),
    "a split size": (setting("split", "test", value=5), EVERYTHING),
    "the way of drawing": (setting("split", "method", value="leak_free"), EVERYTHING),
    "a dataset file's bytes": (changed_dataset, EVERYTHING),
    "deleted metrics": (deleted("tiny/sft/test/metrics.json"), {"score": 1, **SHOWING, "card": 1}),
    "a deleted aligned checkpoint": (deleted("tiny/dpo-b0.1/checkpoint"), ALIGNING),
    "deleted log-probabilities of the reference": (
        deleted("tiny/sft/reference.json"),
        {"reference": 1, **ALIGNING},
    ),
    "deleted preferences": (deleted("tiny/preferences.json"), {"pair": 1, "reference": 1, **ALIGNING}),
}


NOTHING = [what for what, (_, expected) in TABLE.items() if not expected]


@pytest.mark.parametrize("what", [what for what in TABLE if what not in NOTHING])
def test_a_change_reruns_exactly_what_depends_on_it(what, finished, tmp_path):
    change, expected = TABLE[what]
    checkout = finished.copy(tmp_path / "checkout")
    change(checkout.path)
    assert checkout.planned("--cores", "2") == expected


@pytest.mark.parametrize("half", [NOTHING[::2], NOTHING[1::2]], ids=["one half", "other half"])
def test_changes_that_nothing_depends_on_rerun_nothing_together(half, finished, tmp_path):
    """In halves, as neighbours in the table change the same."""
    checkout = finished.copy(tmp_path / "checkout")
    for what in half:
        TABLE[what][0](checkout.path)
    assert len(half) > 5 and checkout.planned("--cores", "2") == {}


def test_a_dry_run_says_which_code_changed(finished, tmp_path):
    checkout = finished.copy(tmp_path / "checkout")
    other("data/preferences.py")(checkout.path)
    told = checkout.forked("--dry-run", "--cores", "2")
    reasons = dict(re.findall(r"^ *(\w+) results/\S+.*\((.*)\)$", told.stdout + told.stderr, re.MULTILINE))
    assert reasons["pair"] == "code changed: pedalign/data/preferences.py"
    assert "after results/tiny/preferences.json" in reasons["reference"]
    assert "--touch in place of -n" in told.stdout + told.stderr


def test_new_code_that_makes_the_same_is_accepted_and_on_record(finished, tmp_path):
    checkout = finished.copy(tmp_path / "checkout")
    before = (checkout.path / "results/tiny/dpo-b0.1/checkpoint/model.safetensors").read_bytes()
    other("training/alignment.py")(checkout.path)
    assert checkout.planned("--cores", "2") == ALIGNING
    answer = checkout.forked("--cores", "2", "--touch")
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert checkout.planned("--cores", "2") == {}
    assert (checkout.path / "results/tiny/dpo-b0.1/checkpoint/model.safetensors").read_bytes() == before
    told = checkout.provenance("results/tiny/dpo-b0.1/checkpoint.json")
    assert re.search(r"accepted \d{4}-.*, though stale: code changed: pedalign/training/alignment.py", told)
    assert "other code" not in told and "PROBLEM" not in told
    assert "accepted" not in checkout.provenance("results/tiny/sft/checkpoint.json")


def test_what_is_not_as_it_was_made_is_not_accepted(finished, tmp_path):
    checkout = finished.copy(tmp_path / "checkout")
    other("evaluation/metrics.py")(checkout.path)
    metrics = checkout.path / "results/tiny/sft/test/metrics.json"
    metrics.write_text(metrics.read_text().replace("0", "1"))
    answer = checkout.forked("--cores", "2", "--touch")
    assert answer.returncode != 0 and "metrics.json: is not as it was made" in answer.stdout + answer.stderr


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
