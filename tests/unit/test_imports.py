"""Chats as they are found become conversation files, and every row is accounted for."""

import json
from pathlib import Path

import pytest

from pedalign.core.artifacts import write_records
from pedalign.core.code_digest import digest
from pedalign.core.errors import UserError
from pedalign.data.conversations import Reader, clean, read_conversations
from pedalign.data.sources.chats import class_conversations, messages, sharegpt
from pedalign.data.sources.imported import Imported
from pedalign.data.sources.importers import IMPORTERS
from pedalign.data.sources.raw_rows import rows

ROOT = Path(__file__).parents[2]


def chat(*turns: tuple[object, object], **more: object) -> dict:
    return {"id": "a", "messages": [{"role": who, "content": text} for who, text in turns], **more}


def texts(imported: Imported) -> list[str]:
    """The turns of the one conversation, each after its speaker."""
    (record,) = imported.records
    return [f"{turn['from']}: {turn['value']}" for turn in record["conversations"]]


ASKED, TOLD = ("user", "Why?"), ("assistant", "{}")
CHANGED = {
    "system turn": (
        [("system", "Be kind."), ASKED, TOLD, ("developer", "x")],
        ["human: Why?", "gpt: {}"],
        "a system turn dropped",
    ),
    "greeting": (
        [("assistant", "Hello!"), ASKED, TOLD],
        ["human: Why?", "gpt: {}"],
        "the tutor's words before the student's first turn dropped",
    ),
    "student twice": (
        [ASKED, ("user", "Tell me."), TOLD],
        ["human: Why?\n\nTell me.", "gpt: {}"],
        "turns of the student in a row merged",
    ),
    "student twice around a system turn": (
        [ASKED, ("system", "x"), ("user", "Tell me."), TOLD],
        ["human: Why?\n\nTell me.", "gpt: {}"],
        "turns of the student in a row merged",
    ),
    "a last turn without a reply": (
        [ASKED, TOLD, ("user", "Oh."), ("user", "I see.")],
        ["human: Why?", "gpt: {}"],
        "the student's last turn, without a reply, dropped",
    ),
    "a reply sent twice": (
        [ASKED, TOLD, TOLD, ("user", "Oh.")],
        ["human: Why?", "gpt: {}"],
        "a reply that was there twice in a row kept once",
    ),
    "an object for a reply": (
        [ASKED, ("assistant", {"Move": "é"})],
        ["human: Why?", 'gpt: {"Move": "é"}'],
        "a reply that was an object written as text",
    ),
    "numbers in a reply": (
        [ASKED, ("assistant", {"Action": 1, "Right": True})],
        ["human: Why?", 'gpt: {"Action": "1", "Right": true}'],
        "numbers in a reply written as text",
    ),
    "parts": (
        [("user", [{"type": "text", "text": "Why?"}, "Now?"]), TOLD],
        ["human: Why?\n\nNow?", "gpt: {}"],
        "parts of a turn joined",
    ),
    "names in capitals": ([("Student", "Why?"), ("Tutor", "{}")], ["human: Why?", "gpt: {}"], None),
}


@pytest.mark.parametrize("what", CHANGED)
def test_what_is_changed_in_a_chat_is_counted(what, rubric) -> None:
    turns, expected, reason = CHANGED[what]
    imported = messages([json.dumps(chat(*turns))], rubric)
    assert texts(imported) == expected
    assert (reason in imported.changed) == (reason is not None)
    assert (imported.cut, imported.rejected) == ({}, {})


def test_an_instruction_beside_the_turns_is_dropped_and_counted_as_a_system_turn_is(rubric) -> None:
    imported = sharegpt([json.dumps({**SHARED, "system": "Be kind."}), json.dumps({**SHARED, "system": ""})], rubric)
    assert imported.changed["a system turn dropped"] == 1


UNUSABLE = {
    "an answer of a tool": (("tool", "4"), "a turn of 'tool'"),
    "a call of a tool": (("assistant", None), "a turn without text"),
    "no words": (("user", " "), "a turn without text"),
    "a picture": (("user", [{"type": "image_url"}]), "a turn with parts that are not text"),
    "an object of the student": (("user", {"a": "b"}), "a turn without text"),
    "no speaker": ((None, "x"), "a turn of 'None'"),
    "another reply": (("assistant", "{1: 2}"), "two replies in a row"),
}


@pytest.mark.parametrize("what", UNUSABLE)
def test_a_chat_ends_before_a_turn_that_cannot_be_used(what, rubric) -> None:
    turn, reason = UNUSABLE[what]
    imported = messages([json.dumps(chat(ASKED, TOLD, turn, ("user", "And?"), ("assistant", "{3: 4}")))], rubric)
    assert texts(imported) == ["human: Why?", "gpt: {}"]
    assert (imported.cut, imported.rejected) == ({reason: 1}, {})


def test_a_student_whose_turn_has_no_usable_reply_is_left_out_too(rubric) -> None:
    imported = messages([json.dumps(chat(ASKED, TOLD, ("user", "And?"), ("tool", "4")))], rubric)
    assert texts(imported) == ["human: Why?", "gpt: {}"]


def test_a_chat_without_a_usable_reply_is_rejected_by_reason(rubric) -> None:
    found = [chat(ASKED), chat(), {"text": "x"}, ["x"], chat(ASKED, ("tool", "4")), chat(TOLD)]
    imported = messages([*map(json.dumps, found), "{"], rubric)
    assert imported.records == []
    assert imported.rejected == {
        "no reply": 2,
        "no turns with 'role' and 'content'": 2,
        "not an object": 1,
        "a turn of 'tool'": 1,
        "not JSON": 1,
    }


SHARED = {"id": 7, "conversations": [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": {"a": "b"}}]}


def test_sharegpt_and_class_are_read_alike_and_those_of_class_count_as_simulated(rubric) -> None:
    for read, simulated in ((sharegpt, None), (class_conversations, True)):
        imported = read([json.dumps(SHARED)], rubric)
        assert texts(imported) == ["human: Why?", 'gpt: {"a": "b"}']
        assert (imported.records[0]["id"], imported.records[0].get("simulated")) == ("7", simulated)


def test_what_was_simulated_stays_so_and_problems_keep_their_ids(rubric) -> None:
    found = [{**SHARED, "simulated": True, "problem": 12}, {**SHARED, "id": None, "problem": {}}, SHARED]
    imported = sharegpt(map(json.dumps, found), rubric)
    assert [record.get("simulated", False) for record in imported.records] == [True, False, False]
    assert [record.get("problem") for record in imported.records] == ["12", None, None]
    assert [record["id"] for record in imported.records] == ["7", "row-2", "7-2"]
    kept = {"a reply that was an object written as text": 3, "a 'problem' that is no id dropped": 1}
    made = {"an id made of the row's number": 1, "an id that another conversation has, with a number at its end": 1}
    assert imported.changed == {**kept, **made}


def test_what_is_imported_is_read_by_the_workflow_and_a_null_field_is_left_to_the_rubric(tmp_path, rubric) -> None:
    good = {field.name: next(iter(field.labels), "Well.") for field in rubric.fields}
    found = [chat(ASKED, ("assistant", reply), problem="p") for reply in (good, {**good, "Tutorbot": None})]
    imported = messages([json.dumps(found)], rubric)
    write_records(tmp_path / "x.json", imported.records)
    (one, cut), (_, second) = [clean(raw, Reader(rubric)) for raw in read_conversations(tmp_path / "x.json")]
    assert cut is None and one.problem == "id:p" and second is not None and second.defect == "incomplete"


ROW = chat(ASKED, TOLD)
SHAPES = {
    "a list": json.dumps([ROW, ROW]),
    "a list over many lines": json.dumps([ROW, ROW], indent=2),
    "lines": f"{json.dumps(ROW)}\n{json.dumps(ROW)}\n",
    "blank lines and a byte order mark": f"\ufeff\n{json.dumps(ROW)}\r\n \r\n{json.dumps(ROW)}",
    "an object with the list": json.dumps({"version": 1, "tags": ["a"], "data": [ROW, ROW]}, indent=1),
}


@pytest.mark.parametrize("what", SHAPES)
def test_the_rows_of_a_file_are_found_in_each_shape(what) -> None:
    assert list(rows(SHAPES[what].split("\n"))) == [ROW, ROW]


def test_a_single_row_is_a_row_whatever_it_holds() -> None:
    for row in (ROW, {**ROW, "tools": [{"name": "x"}]}, SHARED, {"a": 1}, {}):
        assert list(rows([json.dumps(row)])) == [row]


@pytest.mark.parametrize(
    ("text", "words"),
    [('[{"a": 1},\n', "not JSON"), ('{"train": [{"a": 1}], "test": [{"a": 1}]}', "'train' and 'test'")],
)
def test_a_file_whose_rows_are_not_clear_is_refused(text, words) -> None:
    with pytest.raises(UserError, match=words):
        list(rows(text.split("\n")))


@pytest.mark.parametrize("ends", [".json", ".jsonl"])
def test_conversations_are_read_as_a_list_and_as_lines_whatever_the_name(ends, tmp_path) -> None:
    talks = [{"id": at, "conversations": [{"from": "human", "value": "Why?"}]} for at in "ab"]
    for text in (json.dumps(talks), "\ufeff\n" + "\n\n".join(map(json.dumps, talks))):
        (tmp_path / f"x{ends}").write_text(text)
        assert [raw.id for raw in read_conversations(tmp_path / f"x{ends}")] == ["a", "b"]
    (tmp_path / "one.jsonl").write_text(json.dumps(talks[0]))
    assert [raw.id for raw in read_conversations(tmp_path / "one.jsonl")] == ["a"]


def test_the_code_of_an_import_is_that_of_the_format_in_use(tmp_path) -> None:
    script = ROOT / "scripts/import_conversations.py"
    found = {name: digest(script, IMPORTERS[name].module) for name in ("mathdial", "messages", "sharegpt")}
    assert found["messages"] == found["sharegpt"] != found["mathdial"]
    assert digest(script) not in found.values()
