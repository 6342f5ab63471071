"""A raw file is the first node of the workflow: `import:` names it, and what it gives is counted and drawn."""

import json
import shutil
from pathlib import Path

import forked
import pytest
import yaml
from checkouts import Checkout, fresh_checkout

from pedalign.data.rubric import load_rubric

pytestmark = pytest.mark.slow

TARGET = "results/data/splits.json"
STAGES = {"import_conversations", "split", "sft", "pair", "align", "generate", "score", "report"}


def chats(folder: Path) -> list[dict]:
    """Chats as they are found, made of simulated conversations: a system turn, a greeting, objects for replies."""
    rubric = load_rubric(folder / "datasets/rubrics/class.yaml")
    rows = []
    for at, talk in enumerate(json.loads((folder / "datasets/simulated/bio-dataset-1.json").read_text())[:40]):
        turns = [{"role": "system", "content": "Be kind."}, {"role": "assistant", "content": "Hello!"}]
        for turn in talk["conversations"]:
            if turn["from"] == "human":
                turns.append({"role": "user", "content": turn["value"]})
                continue
            values = rubric.parse(turn["value"]).values
            turns.append({"role": "assistant", "content": {f.name: values.get(f.key) for f in rubric.fields}})
        rows.append({"problem": at // 2, "messages": turns})
    return rows


def write(path: Path, rows: list[dict]) -> None:
    path.write_text("\n\n".join(map(json.dumps, rows)))


def settings(folder: Path, **changes: object) -> str:
    quick = yaml.safe_load((folder / "tests/config/quick.yaml").read_text())
    split = {"sft": 10, "dpo": 8, "test": 8, "method": "leak_free"}
    config = {**quick, "dataset": "chats", "split": split, "import": {"format": "messages", "files": "raw.jsonl"}}
    (folder / "chats.yaml").write_text(yaml.safe_dump({**config, **changes}))
    return "chats.yaml"


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """With the splits of an imported file; copy it before changing anything."""
    checkout = fresh_checkout(tmp_path_factory.mktemp("imported") / "checkout")
    write(checkout.path / "raw.jsonl", chats(checkout.path))
    assert checkout.planned("--cores", "1", config=settings(checkout.path)).keys() > STAGES
    answer = checkout.forked("--cores", "1", "split", config="chats.yaml")
    assert answer.returncode == 0, answer.stdout + answer.stderr
    said = answer.stdout + answer.stderr
    assert "results/data/imported/chats-dataset-1.json done in" in said
    assert "40 conversations; rows rejected: none; cut short: none; changed: 40 a reply" in said
    return checkout


def test_what_was_imported_is_split_by_its_problems_and_the_report_counts_what_was_changed(imported):
    report = json.loads((imported.path / TARGET).read_text())
    assert report["imported"] == json.loads((imported.path / "results/data/imported.json").read_text())
    (file,) = report["imported"]["files"]
    assert (file["file"], file["rows"], file["conversations"], file["rejected"]) == ("raw.jsonl", 40, 40, {})
    assert file["changed"] == {
        "a reply that was an object written as text": 40,
        "a system turn dropped": 40,
        "an id made of the row's number": 40,
        "the tutor's words before the student's first turn dropped": 40,
    }
    assert report["simulated"] == 0 and report["leaks"]["test_shares_problem_with_sft"]["conversations"] == 0
    drawn = json.loads((imported.path / "results/data/chats-test.json").read_text())
    assert all(int(talk["id"].partition("row-")[2]) - 1 in (2 * int(talk["problem"]), 2 * int(talk["problem"]) + 1)
               for talk in drawn)  # fmt: skip
    assert "raw.jsonl" in imported.provenance("results/data/chats-test.json")


@pytest.mark.parametrize(
    ("modules", "jobs"),
    [(("mathdial", "importers"), {}), (("chats",), {"import_conversations": 1, "split": 1})],
)
def test_the_code_of_the_format_in_use_reruns_the_import_and_that_of_others_does_not(imported, tmp_path, modules, jobs):
    checkout = imported.copy(tmp_path / "checkout")
    for module in modules:
        with (checkout.path / f"scripts/pedalign/data/sources/{module}.py").open("a") as file:
            file.write("\n_ONE_MORE = 1\n")
    assert checkout.planned("--cores", "1", TARGET, config="chats.yaml") == jobs


def test_another_raw_file_or_format_reruns_the_import_and_the_same_bytes_do_not(imported, tmp_path):
    checkout = imported.copy(tmp_path / "checkout")
    raw = checkout.path / "raw.jsonl"
    raw.write_bytes(raw.read_bytes())
    assert checkout.planned("--cores", "1", TARGET, config="chats.yaml") == {}
    other = settings(checkout.path, **{"import": {"format": "sharegpt", "files": "raw.jsonl"}})
    assert checkout.planned("--cores", "1", TARGET, config=other) == {"import_conversations": 1, "split": 1}
    write(raw, chats(checkout.path)[1:])
    assert checkout.planned("--cores", "1", TARGET, config=settings(checkout.path)) == {
        "import_conversations": 1,
        "split": 1,
    }


def test_the_wrong_file_ends_in_two_lines_that_name_its_format_before_anything_else_runs(imported, tmp_path):
    checkout = imported.copy(tmp_path / "checkout")
    shutil.rmtree(checkout.path / "results")
    row = {"qid": 1, "question": "q", "student_incorrect_solution": "s", "conversation": "Teacher: (focus) x"}
    write(checkout.path / "raw.jsonl", [row])
    answer = checkout.forked("--cores", "1", config="chats.yaml")
    said = answer.stdout + answer.stderr
    assert answer.returncode != 0
    assert "error: raw.jsonl: no usable row" in said
    assert "it looks like rows of MathDial\n  fix: the format is mathdial, not messages" in said
    assert "Traceback" not in said and not list((checkout.path / "results").glob("data/*"))


def test_a_problem_bank_is_imported_as_simulated_conversations_with_pairs(imported, tmp_path):
    checkout = imported.copy(tmp_path / "checkout")
    bank = checkout.path / "mine.yaml"
    shutil.copy(checkout.path / "datasets/bio-problems.yaml", bank)
    changes = {"import": {"format": "class", "files": ["mine.yaml"]}, "results": "out"}
    changes |= {"simulation": {"files": 2, "conversations": 40, "pairs": 4}}
    config = settings(checkout.path, **changes)
    assert checkout.planned("--cores", "1", config=config)["perplexity"] == 2
    wanted = ("out/data/splits.json", "out/data/imported/chats-dataset-ppl.json")
    answer = checkout.forked("--cores", "1", *wanted, config=config)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert "80 simulated conversations about" in answer.stdout + answer.stderr
    report = json.loads((checkout.path / "out/data/splits.json").read_text())
    assert report["simulated"] == 2 * (10 + 8 + 8) and report["imported"]["usable"] > 9
    bank.write_text(bank.read_text() + "\n# A comment.\n")
    assert checkout.planned("--cores", "1", wanted[0], config=config) == {"import_bank": 1, "split": 1}


def test_raw_files_are_named_from_the_folder_of_the_call_or_of_its_option(imported, tmp_path):
    folder = tmp_path / "mein Ordner"
    folder.mkdir()
    shutil.copy(imported.path / "raw.jsonl", folder)
    call = ("--snakefile", str(imported.path / "Snakefile"), "--configfile", str(imported.path / "chats.yaml"))
    answer = forked.snakemake(tmp_path, "--cores", "1", "split", "--directory", str(folder), *call)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    for name in ("imported/chats-dataset-1.json", "chats-sft.json", "splits.json"):
        assert (folder / "results/data" / name).read_bytes() == (imported.path / "results/data" / name).read_bytes()
    answer = forked.snakemake(tmp_path, "--cores", "1", "split", *call)
    assert answer.returncode != 0 and "import.files: raw.jsonl: no such file" in answer.stdout + answer.stderr


def test_a_preflight_before_the_import_says_that_a_job_makes_the_conversations(imported, tmp_path):
    checkout = imported.copy(tmp_path / "checkout")
    shutil.rmtree(checkout.path / "results")
    answer = checkout.forked("--cores", "1", "preflight", config="chats.yaml")
    said = answer.stdout + answer.stderr
    assert "results/data/imported/chats-dataset-1.json is not there yet; a first job" in said, said
