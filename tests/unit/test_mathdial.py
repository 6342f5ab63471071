"""MathDial's rows become conversations that the workflow accepts."""

import json
from pathlib import Path

import pytest

from pedalign.conversation import clean, read_conversations
from pedalign.mathdial import conversations
from pedalign.rubric import load_rubric

ROOT = Path(__file__).parents[2]
RUBRIC = load_rubric(ROOT / "datasets/rubrics/mathdial.yaml")


def row(conversation: str, **changed: object) -> str:
    fields = {"qid": 7, "question": "How many?", "student_incorrect_solution": "Five.", "conversation": conversation}
    return json.dumps({**fields, **changed})


def test_the_student_opens_with_the_problem_and_the_wrong_solution():
    (record,), _ = conversations([row("Teacher: (focus)Look.|EOM|Student: Oh.")], RUBRIC)
    opening = record["conversations"][0]
    assert opening["from"] == "human"
    assert "How many?" in opening["value"] and "Five." in opening["value"]


def test_a_persona_speaks_as_the_student_and_turns_of_one_speaker_merge():
    teacher, student = "Teacher: (probing)Why?|EOM|Teacher: (telling)Say.", "Mariana: So.|EOM|Student: Well."
    talk = f"{teacher}|EOM|{student}|EOM|Teacher: (generic)Ok."
    (record,), _ = conversations([row(talk)], RUBRIC)
    speakers = [entry["from"] for entry in record["conversations"]]
    assert speakers == ["human", "gpt", "human", "gpt"]
    assert record["conversations"][2]["value"] == "So. Well."
    assert RUBRIC.parse(record["conversations"][1]["value"]).values == {"move": "probing", "tutorbot": "Why? Say."}


def test_rows_that_cannot_be_used_are_counted_by_reason():
    lines = ["{", "[]", row("Student: Hm."), row("Teacher: Hm."), row("Teacher: (shout)Hm."), row("", question="")]
    records, rejected = conversations(lines, RUBRIC)
    assert records == []
    assert rejected == {
        "not JSON": 1,
        "not an object": 1,
        "no teacher turn": 1,
        "a teacher turn without a move": 1,
        "unknown move 'shout'": 1,
        "no 'question'": 1,
    }


def test_conversations_about_one_problem_are_known_as_such_and_have_ids_of_their_own(tmp_path):
    lines = [row("Teacher: (focus)A.", student_incorrect_solution=text) for text in ("One.", "Two.")]
    records, _ = conversations(lines, RUBRIC)
    file = tmp_path / "m-dataset-1.json"
    file.write_text(json.dumps(records))
    one, two = (clean(raw, RUBRIC)[0] for raw in read_conversations(file))
    assert one.id != two.id
    assert one.problem == two.problem == "how many"


def test_every_row_of_the_real_file_is_used_and_none_is_cut(tmp_path):
    path = ROOT.parent / "shared/data/mathdial-400.jsonl"
    if not path.exists():
        pytest.skip(f"{path} is not there")
    records, rejected = conversations(path.read_text(encoding="utf-8").split("\n"), RUBRIC)
    assert len(records) + sum(rejected.values()) == 400
    file = tmp_path / "m-dataset-1.json"
    file.write_text(json.dumps(records))
    assert [cut for raw in read_conversations(file) if (cut := clean(raw, RUBRIC)[1])] == []
