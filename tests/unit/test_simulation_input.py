"""A bank, a script or a rubric that the simulator cannot use is refused in two lines, and never hangs it."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pedalign.core.errors import UserError
from pedalign.data.conversations import Reader, clean, read_conversations
from pedalign.data.sources.problem_bank import read_problems
from pedalign.data.sources.simulation import Simulator, load_script

ROOT = Path(__file__).parents[2]
ONE = {"Question": "Q {x}?", "Answer": "Yes.", "Hint": "{H}", "Incorrect Response": "No.", "Feedback": "F."}


def bank(folder: Path, *rows: list[str]) -> Path:
    with (folder / "bank.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["section", "problems"], *rows])
    return folder / "bank.csv"


def simulate(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    command = [
        sys.executable,
        "scripts/simulate.py",
        "datasets/bio-problems.yaml",
        "--dataset",
        "x",
        "--output",
        str(folder),
    ]
    command += ["--conversations", "3", "--pairs", "3", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=10)


def test_a_row_without_a_problem_is_counted_and_the_others_are_used(tmp_path) -> None:
    usable = json.dumps({"Problem": "P", "SubProblems": [ONE, ONE]})
    problems, rejected = read_problems(bank(tmp_path, ["1"], ["2", usable], ["3", ""]))
    assert (len(problems), sum(rejected.values())) == (1, 2)


def test_a_bank_without_the_column_is_refused(tmp_path, refused) -> None:
    (tmp_path / "bank.csv").write_text("a,b\n1,2\n")
    with refused("bank.csv", "no column 'problems'"):
        read_problems(tmp_path / "bank.csv")


def test_braces_in_a_bank_are_only_text(tmp_path, rubric) -> None:
    text = json.dumps({"Problem": "{p} {0}", "SubProblems": [ONE, ONE]})
    script = load_script(ROOT / "datasets/simulation.yaml", rubric)
    problems, _ = read_problems(bank(tmp_path, ["1", text]))
    (record,) = Simulator(script, rubric, 0).conversations(problems, 1, "s")
    assert "{p} {0}" in record["conversations"][0]["value"]
    assert "Q {x}?" in record["conversations"][1]["value"]


def test_three_hundred_conversations_hold_every_label_and_about_the_share_of_flaws_asked_for(tmp_path, rubric) -> None:
    problems, _ = read_problems(ROOT / "datasets/bio-problems.yaml")
    simulator = Simulator(load_script(ROOT / "datasets/simulation.yaml", rubric), rubric, 0.3)
    records = list(simulator.conversations(problems, 300, "s"))
    assert json.dumps(records) == json.dumps(list(simulator.conversations(problems, 300, "s")))
    replies = [rubric.parse(entry["value"]) for record in records for entry in record["conversations"][1::2]]
    defects = [reply.defect for reply in replies if reply.defect]
    assert 0.27 < len(defects) / len(replies) < 0.33
    assert set(defects) == {"unparseable", "incomplete", "unknown_label"}
    assert all(defects.count(defect) > 0.25 * len(defects) for defect in set(defects))
    for field in rubric.label_fields:
        assert {reply.values[field.key] for reply in replies if not reply.defect} == set(field.labels)
    (tmp_path / "x.json").write_text(json.dumps(records))
    assert any(clean(raw, Reader(rubric))[1] for raw in read_conversations(tmp_path / "x.json"))


@pytest.mark.parametrize("spoil", ["moves: [", "moves: {}", "tell_after: 1", "replies: {}"])
def test_a_script_that_cannot_be_played_is_refused(tmp_path, spoil: str) -> None:
    text = (ROOT / "datasets/simulation.yaml").read_text(encoding="utf-8")
    changed = spoil if spoil.endswith("[") else yaml.safe_dump({**yaml.safe_load(text), **yaml.safe_load(spoil)})
    (tmp_path / "script.yaml").write_text(changed, encoding="utf-8")
    answer = simulate(tmp_path, "--script", str(tmp_path / "script.yaml"))
    assert answer.returncode == 1
    assert len(answer.stderr.strip().splitlines()) == 2, answer.stderr
    assert "script.yaml" in answer.stderr


def test_a_rubric_that_the_script_has_no_labels_for_is_refused(tmp_path) -> None:
    answer = simulate(tmp_path, "--rubric", "datasets/rubrics/mathdial.yaml")
    assert answer.returncode == 1
    assert len(answer.stderr.strip().splitlines()) == 2, answer.stderr


TEXT = st.sampled_from(["a", "b", "", " ", "\0", "=1"]) | st.text(max_size=3)
SUBPROBLEM = st.fixed_dictionaries(
    dict.fromkeys(("Question", "Answer", "Hint", "Incorrect Response", "Feedback"), TEXT)
)
ENTRY = st.fixed_dictionaries({"Problem": TEXT | st.integers(), "SubProblems": st.lists(SUBPROBLEM | TEXT, max_size=3)})


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(entries=st.lists(ENTRY | TEXT, min_size=1, max_size=4))
def test_each_row_of_a_bank_is_a_problem_or_counted_with_its_reason(tmp_path, entries) -> None:
    path = bank(tmp_path, *(["1", json.dumps(entry)] for entry in entries))
    try:
        problems, rejected = read_problems(path)
    except UserError as error:
        assert "no usable problem" in str(error)
        return
    assert len(problems) + sum(rejected.values()) == len(entries)
    for problem in problems:
        for one in problem.subproblems:
            assert all(text.strip() for text in vars(one).values()) and one.answer != one.incorrect_response
