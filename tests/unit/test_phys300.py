"""The conversations in physics, whose tutor goes through states, become conversations that the workflow accepts."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pedalign.core.artifacts import write_records
from pedalign.data.conversations import Reader, clean, read_conversations
from pedalign.data.rubric import load_rubric
from pedalign.data.sources.phys300 import conversations
from pedalign.data.splits import SplitSettings, draw

ROOT = Path(__file__).parents[2]
RUBRIC = load_rubric(ROOT / "datasets/rubrics/physics.yaml")
REAL = ROOT.parent / "shared/data/phys300-200.json"

OPENING = {
    "Thoughts of Tutorbot": "Nothing to judge yet.",
    "Evaluation of Student Response": "g) N/A",
    "Action Based on Evaluation": "12) N/A",
    "Step Number": "Step 1",
    "Step State": "q) One of the steps is being solved",
    "Tutorbot Response": "How far does it fall in a second?",
}
JUDGED = {
    "Thoughts of Tutorbot": "The result differs.",
    "Evaluation of Student Response": "a",
    "Action Based on the Evaluation": "1",
    "Step Number": "1 and 2",
    "Step State": "q",
    "Tutorbot Response": "Look at the units.",
}


def turn(speaker: str, value: object) -> dict[str, object]:
    return {"from": speaker, "value": value}


ASKED = [turn("student", "How far does a stone fall?"), turn("initial_state", OPENING)]
CALCULATED = [
    turn("student", "Student: 9.8 m."),
    turn("deciding_state", {"Use Python": "y", "Description": "half of g"}),
    turn("use_python_state", {"Python": {"Python Code": "x = 9.8 / 2", "Result Variable": "x"}}),
    turn("python_output", 'Tutorbot calculated "x" to be 4.9.'),
    turn("received_python_state", JUDGED),
]
TOLD = [turn("student", "4.9 m."), turn("deciding_state", {"Use Python": "n"}), turn("no_python_state", JUDGED)]


def lines(*talks: list, ids: str = "abcdefghij") -> list[str]:
    """The lines of a JSON list, one record a line."""
    return json.dumps([{"id": ids[at], "conversations": talk} for at, talk in enumerate(talks)]).split("\n")


def test_the_states_that_answer_the_student_are_the_tutors_turns_and_the_others_are_counted(tmp_path):
    imported = conversations(lines([*ASKED, *CALCULATED, *TOLD]), RUBRIC)
    (record,) = imported.records
    assert [entry["from"] for entry in record["conversations"]] == ["human", "gpt"] * 3
    assert record["conversations"][2]["value"] == "9.8 m."
    assert [json.loads(entry["value"]) for entry in record["conversations"][1::2]] == [OPENING, JUDGED, JUDGED]
    assert (imported.rejected, imported.cut) == ({}, {})
    assert imported.changed == {
        "decisions about a calculation left out": 2,
        "Python programs left out": 1,
        "results of Python programs left out": 1,
        "marks 'Student:' taken off the start of a turn": 1,
    }
    write_records(tmp_path / "physics-dataset-1.json", imported.records)
    (raw,) = read_conversations(tmp_path / "physics-dataset-1.json")
    conversation, cut = clean(raw, Reader(RUBRIC))
    assert cut is None
    replies = [RUBRIC.parse(message["content"]).values for message in conversation.messages[1::2]]
    assert [(one["evaluation"], one["action"], one["step"], one["state"]) for one in replies] == [
        ("g", "12", "1", "q"),
        ("a", "1", "other", "q"),
        ("a", "1", "other", "q"),
    ]


def test_a_list_and_objects_one_after_another_are_the_same_conversations():
    records = [{"id": "a", "conversations": [*ASKED, *TOLD]}, {"id": "a", "conversations": ASKED}]
    whole = conversations(json.dumps(records, indent=2).split("\n"), RUBRIC)
    joined = conversations("\n".join(json.dumps(one, indent=4) for one in records).split("\n"), RUBRIC)
    assert whole == joined == conversations(map(json.dumps, records), RUBRIC)
    assert [record["id"] for record in whole.records] == ["a", "a-2"]


BAD = {
    "two turns of the student in a row": [turn("student", "Hm."), turn("student", "Hm?")],
    "a reply without a turn of the student before it": [turn("no_python_state", JUDGED)],
    "a turn of the student without text": [turn("student", " ")],
    "a reply that is no mapping": [turn("student", "Hm."), turn("no_python_state", "Hm.")],
    "unknown state 'observer'": [turn("observer", "Hm.")],
    "a turn without 'from'": [{"role": "user"}],
}


@pytest.mark.parametrize("reason", BAD)
def test_a_turn_that_cannot_be_used_ends_the_conversation_before_it_and_rejects_an_empty_one(reason):
    imported = conversations(lines([*ASKED, *BAD[reason], *TOLD], BAD[reason]), RUBRIC)
    assert [len(record["conversations"]) for record in imported.records] == [2]
    assert (imported.cut, imported.rejected) == ({reason: 1}, {reason: 1})


def test_rows_that_are_no_conversations_are_counted_by_reason():
    rows = [{}, {"id": "a"}, {"id": "a", "conversations": []}, [], {"qid": 1, "conversation": "Teacher: (focus)A."}]
    imported = conversations([*map(json.dumps, rows), "[1", ""], RUBRIC)
    assert imported.records == []
    assert imported.rejected == {"no 'id'": 2, "no 'conversations'": 1, "no reply of the tutor": 1, "not JSON": 1}


@pytest.mark.parametrize("content", ["", "no JSON\nat all\n", '{"qid": 1}\n', "[" * 100_000])
def test_a_file_of_another_kind_ends_in_two_lines_and_writes_nothing(tmp_path, content):
    file = tmp_path / "physics.json"
    file.write_text(content)
    command = [sys.executable, "scripts/import_conversations.py", str(file), "--format", "phys300"]
    command += ["--output", str(tmp_path / "physics-dataset-1.json")]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert answer.returncode == 1
    assert len(answer.stderr.splitlines()) == 2 and str(file) in answer.stderr
    assert "states of the tutor" in answer.stderr
    assert list(tmp_path.iterdir()) == [file]


def test_a_rubric_of_other_labels_is_refused(mathdial, refused):
    with refused("the rubric MathDial has none of them", "use datasets/rubrics/physics.yaml"):
        conversations(lines(ASKED), mathdial)


def test_all_replies_of_the_real_file_are_read_and_every_spelling_is_counted(tmp_path):
    if not REAL.exists():
        pytest.skip(f"{REAL} is not there")
    imported = conversations(REAL.read_text(encoding="utf-8").split("\n"), RUBRIC)
    assert (len(imported.records), imported.rejected, imported.cut) == (200, {}, {})
    file = tmp_path / "physics-dataset-1.json"
    write_records(file, imported.records)
    splits, report = draw([file], RUBRIC, SplitSettings(sft=100, dpo=50, test=50, seed=42))
    assert sum(found["tutor_turns"] for found in report["splits"].values()) == 1637
    assert (report["cut"], report["warnings"]) == ([], [])
    spelled = {(one["field"], one["written"]): one["replies"] for one in report["read_as"]["labels"]}
    assert spelled["evaluation", "g) …"] == 94 and spelled["step", "Step 1"] == 41
    assert report["read_as"]["names"] == [
        {"field": "action", "written": "Action Based on the Evaluation", "replies": 3}
    ]
    for members in splits.values():
        assert all(RUBRIC.parse(message["content"]).defect is None for one in members for message in one.messages[1::2])
