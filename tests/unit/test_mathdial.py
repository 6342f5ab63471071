"""MathDial's rows become conversations that the workflow accepts."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pedalign.core.artifacts import write_records
from pedalign.data.conversations import RawConversation, Reader, clean, read_conversations
from pedalign.data.rubric import load_rubric
from pedalign.data.sources.mathdial import conversations

ROOT = Path(__file__).parents[2]
RUBRIC = load_rubric(ROOT / "datasets/rubrics/mathdial.yaml")
REAL = ROOT.parent / "shared/data/mathdial-400.jsonl"


def row(conversation: str, **changed: object) -> str:
    fields = {"qid": 7, "question": "How many?", "student_incorrect_solution": "Five.", "conversation": conversation}
    return json.dumps({**fields, **changed})


def talk(conversation: str, **changed: object) -> list[tuple[str, str]]:
    """(speaker, what is said) of the one row's conversation; a reply is said as "move: text"."""
    (record,) = conversations([row(conversation, **changed)], RUBRIC).records
    replies = [RUBRIC.parse(entry["value"]).values for entry in record["conversations"]]
    return [
        (entry["from"], f"{reply['move']}: {reply['tutorbot']}" if entry["from"] == "gpt" else entry["value"])
        for entry, reply in zip(record["conversations"], replies, strict=True)
    ]


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "scripts/import_conversations.py", "--format", "mathdial", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_the_student_opens_with_the_problem_and_the_wrong_solution():
    opening, _, last = talk("Teacher: (focus)Look.|EOM|Student: Oh.")
    assert opening == ("human", "Student: Q. How many?\n\nMy solution: Five.")
    assert last == ("human", "Oh.")


def test_a_student_who_speaks_first_goes_on_in_the_opening():
    opening, reply = talk("Mariana: Hi there.|EOM|Teacher: (focus)Look.")
    assert opening == ("human", "Student: Q. How many?\n\nMy solution: Five. Hi there.")
    assert reply == ("gpt", "focus: Look.")


def test_whoever_does_not_teach_is_the_student_and_turns_of_one_speaker_merge():
    said = talk("Teacher: (probing)Why?|EOM|Teacher: (telling)Say.|EOM|Mariana: So.|EOM|Student: Well.")
    assert said[1:] == [("gpt", "probing: Why? Say."), ("human", "So. Well.")]


@pytest.mark.parametrize(("moves", "kept"), [("gf", "focus"), ("fp", "focus"), ("ggt", "telling"), ("gg", "generic")])
def test_merged_turns_keep_the_first_move_that_is_more_than_a_greeting(moves, kept):
    names = {"g": "generic", "f": "focus", "p": "probing", "t": "telling"}
    turns = [f"Teacher: ({names[move]})Part {at}." for at, move in enumerate(moves)]
    assert talk("|EOM|".join(turns))[1][1].startswith(f"{kept}: Part 0.")


def test_a_turn_sent_twice_is_said_once_and_a_turn_without_words_is_not_said():
    said = talk("Teacher: (focus)A.|EOM|Teacher: (focus)A.|EOM|Teacher: (telling)|EOM|Student: |EOM|Student: B.")
    assert said[1:] == [("gpt", "focus: A."), ("human", "B.")]


def test_brackets_in_what_the_teacher_says_stay():
    assert talk("Teacher: (focus)(1 x dozen) = {?}")[1] == ("gpt", "focus: (1 x dozen) = {?}")


def test_rows_that_cannot_be_used_are_counted_by_reason():
    lines = ["{", "[]", row("Student: Hm."), row("Teacher: Hm."), row("Teacher: (shout)Hm."), row("", question="")]
    lines += [row("Teacher: (focus)A.", qid=None), row("Hm."), row("Teacher: (focus)" + "A" * 20_000)]
    imported = conversations([*lines, "", "{"], RUBRIC)
    assert imported.records == []
    assert imported.rejected == {
        "not JSON": 2,
        "not an object": 1,
        "no teacher turn": 1,
        "a teacher turn without a move": 1,
        "unknown move 'shout'": 1,
        "no 'question'": 1,
        "no 'qid'": 1,
        "a turn without a speaker": 1,
        "a teacher turn that is too long": 1,
    }


@pytest.mark.parametrize("bad", ["Teacher: Hm.", "Teacher: (shout)Hm.", "so the total is: 5"])
def test_a_row_with_an_unusable_later_turn_ends_with_the_reply_before_it(bad):
    line = row(f"Teacher: (focus)A.|EOM|Student: B.|EOM|{bad}|EOM|Student: C.|EOM|Teacher: (focus)D.")
    imported = conversations([line], RUBRIC)
    assert [entry["from"] for entry in imported.records[0]["conversations"]] == ["human", "gpt"]
    assert (sum(imported.cut.values()), imported.rejected) == (1, {})


def test_every_conversation_has_an_id_of_its_own():
    lines = [row("Teacher: (focus)A.", qid=qid) for qid in (7, "7-2", 7, 7)]
    assert [record["id"] for record in conversations(lines, RUBRIC).records] == ["7", "7-2", "7-3", "7-4"]


MARKS = st.lists(st.sampled_from(["Q.", "BBQ.", "Student: ", "\n\n", "{", '"', "five", " "])).map("".join)


@given(MARKS, MARKS, MARKS)
def test_conversations_about_one_problem_are_known_as_such_whatever_is_said(problem, solution, first):
    question = f"How many {problem} apples?"
    talks = ("Teacher: (focus)A.", f"Student: {first}|EOM|Teacher: (focus)A.")
    lines = [
        row(talk, question=question, student_incorrect_solution=f"{said}!")
        for talk, said in zip(talks, ("Five.", solution), strict=True)
    ]
    records = conversations(lines, RUBRIC).records
    raws = [RawConversation("7", tuple(entry["value"] for entry in record["conversations"])) for record in records]
    one, two = (clean(raw, Reader(RUBRIC))[0].problem for raw in raws)
    assert one == two
    assert one.startswith("how many") and one.endswith("apples")


def test_half_a_surrogate_pair_does_not_stop_the_import(tmp_path):
    lines = tmp_path / "lines.jsonl"
    lines.write_text(row("Teacher: (focus)A.", question="How \ud83d many?"))
    answer = run(lines, "--output", tmp_path / "m-dataset-1.json")
    assert answer.returncode == 0, answer.stderr


@pytest.mark.parametrize("content", [None, "", "no JSON\nat all\n", '{"qid": 1}\n'])
def test_a_file_without_a_usable_row_ends_in_two_lines_and_writes_nothing(tmp_path, content):
    lines, output = tmp_path / "lines.jsonl", tmp_path / "m-dataset-1.json"
    if content is not None:
        lines.write_text(content)
    answer = run(lines, "--output", output, "--report", tmp_path / "report.json")
    assert answer.returncode == 1
    assert len(answer.stderr.splitlines()) == 2 and str(lines) in answer.stderr
    assert set(tmp_path.iterdir()) <= {lines}


def test_the_report_accounts_for_every_row(tmp_path):
    lines, report = tmp_path / "lines.jsonl", tmp_path / "report.json"
    lines.write_text("\n".join([row("Teacher: (focus)A."), row("Teacher: (focus)A.|EOM|Hm."), "{"]))
    answer = run(lines, "--output", tmp_path / "m-dataset-1.json", "--report", report)
    expected = {"conversations": 2, "rejected": {"not JSON": 1}, "cut": {"a turn without a speaker": 1}, "changes": {}}
    assert json.loads(report.read_text()) == {"source": str(lines), **expected}
    assert "1 not JSON" in answer.stdout and "1 a turn without a speaker" in answer.stdout


def test_every_row_of_the_real_file_is_accounted_for_and_the_workflow_cuts_none(tmp_path):
    if not REAL.exists():
        pytest.skip(f"{REAL} is not there")
    rows = [json.loads(line) for line in REAL.read_text(encoding="utf-8").splitlines()]
    imported = conversations(map(json.dumps, rows), RUBRIC)
    assert len(imported.records) + sum(imported.rejected.values()) == len(rows) == 400
    file = tmp_path / "m-dataset-1.json"
    write_records(file, imported.records)
    cleaned = [clean(raw, Reader(RUBRIC)) for raw in read_conversations(file)]
    assert [cut for _, cut in cleaned if cut] == []
    assert len({conversation.problem for conversation, _ in cleaned}) == len({row["question"] for row in rows})


def test_a_format_that_is_not_known_is_refused_with_the_nearest_one():
    command = [
        sys.executable,
        "scripts/import_conversations.py",
        "lines",
        "--format",
        "mathdail",
        "--output",
        "out.json",
    ]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert answer.returncode == 1 and len(answer.stderr.splitlines()) == 2
    assert "'mathdail'" in answer.stderr and "did you mean 'mathdial'?" in answer.stderr
