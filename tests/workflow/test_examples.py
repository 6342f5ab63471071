"""The files in examples/: each is planned as its comment says, and one of them runs."""

import json
import re
import shutil

import forked
import pytest
import yaml
from checkouts import QUICK, ROOT, fresh_checkout

pytestmark = pytest.mark.slow

EXAMPLES = sorted(path.name for path in (ROOT / "examples").iterdir())
MOVES = ("focus", "probing", "telling", "generic")


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """With the data that the examples name; dry runs leave it as it is."""
    made = fresh_checkout(tmp_path_factory.mktemp("examples") / "checkout")
    (made.path / "my-data").mkdir()
    simulated = json.loads((made.path / "datasets/simulated/bio-dataset-1.json").read_text())
    (made.path / "my-data/lessons-dataset-1.json").write_text(json.dumps(simulated[:200]))
    talk = "|EOM|".join(f"Teacher: ({move})Look at it.|EOM|Student: I see." for move in MOVES)
    row = {"question": "How many?", "student_incorrect_solution": "Five.", "conversation": talk}
    (made.path / "mathdial.jsonl").write_text("".join(json.dumps({"qid": at, **row}) + "\n" for at in range(400)))
    shutil.copy(made.path / "mathdial.jsonl", made.path / "phys300.json")  # a dry run does not read it
    return made


# Example → jobs of some rules that a dry run plans. own-data.yaml runs below.
PLANNED = {
    "mathdial.yaml": {"import_conversations": 1, "split": 1, "sft": 1, "align": 1, "generate": 4, "score": 3},
    "one-gpu-lora.yaml": {"split": 1, "sft": 1, "align": 1, "perplexity": 2},
    "smollm2.yaml": {"import_bank": 1, "adopt": 1, "split": 1, "sft": 1, "align": 2, "generate": 5, "score": 4},
    "physics.yaml": {"import_conversations": 1, "split": 1, "sft": 1, "align": 1, "generate": 4, "score": 3},
    "paper.yaml": {"download": 4, "split": 1, "sft": 1, "align": 1, "generate": 3},
    "slurm-try-out.yaml": {"split": 1, "sft": 1, "align": 1, "generate": 3},
    "sweep.yaml": {"sft": 2, "pair": 2, "reference": 2, "align": 34, "generate": 38, "compare": 34},
}


def test_every_example_is_tested():
    assert [*sorted(PLANNED), "own-data.yaml"] == sorted(EXAMPLES, key=lambda name: (name == "own-data.yaml", name))


@pytest.mark.parametrize("name", PLANNED)
def test_an_example_is_planned(name, checkout):
    jobs = checkout.planned("--cores", "8", config=f"examples/{name}")
    assert {rule: jobs.get(rule) for rule in PLANNED[name]} == PLANNED[name]
    assert "simulate" not in jobs


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_says_what_it_is_for_and_how_it_is_called(name):
    text = (ROOT / "examples" / name).read_text(encoding="utf-8")
    purpose, call = text.splitlines()[:2]
    assert re.fullmatch(r"# .{20,}\((docs/[\w/-]+\.md)\)\.", purpose)
    assert re.fullmatch(rf"# snakemake .*--configfile examples/{name}", call)
    page = ROOT / re.search(r"docs/[\w/-]+\.md", purpose)[0]
    assert f"examples/{name}" in page.read_text(encoding="utf-8"), "the page names the example"


def test_the_example_of_own_data_trains_a_tutor_on_it(checkout, tmp_path):
    shutil.copytree(checkout.path, tmp_path / "checkout", symlinks=True)
    quick = yaml.safe_load((checkout.path / QUICK).read_text())
    wanted = ("--cores", "2", "results-lessons/tiny/sft/checkpoint.json")
    answer = forked.snakemake(tmp_path / "checkout", *wanted, "--configfile", "examples/own-data.yaml", QUICK)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    results = tmp_path / "checkout/results-lessons"
    trained = json.loads((results / "data/lessons-sft.json").read_text())
    given = json.loads((checkout.path / "my-data/lessons-dataset-1.json").read_text())
    assert len(trained) == quick["split"]["sft"]
    assert {talk["id"].removeprefix("1:") for talk in trained} <= {talk["id"] for talk in given}
    assert (results / "tiny/sft/checkpoint/model.safetensors").is_file()
