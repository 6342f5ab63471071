"""What a conversation file may hold, and what is said where it holds something else."""

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pedalign.core.artifacts import write_records
from pedalign.data.conversations import RawConversation, Reader, clean, read_conversations
from pedalign.data.splits import SplitSettings, dataset_files, draw

STUDENT, TUTOR = {"from": "human", "value": "Why?"}, {"from": "gpt", "value": "Because."}


def talk(*entries: object, identity: object = "a") -> dict:
    return {"id": identity, "conversations": list(entries)}


def written(folder: Path, content: object) -> Path:
    path = folder / "bio-dataset-1.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([talk(STUDENT), talk()], ["record 1", "id 'a'", "no turns"]),
        ([talk(TUTOR, STUDENT)], ["record 0", "turn 0", "the tutor ('gpt') speaks first"]),
        ([talk(STUDENT, TUTOR, TUTOR)], ["record 0", "turn 2", "'gpt' speaks twice"]),
        ([talk(STUDENT, {"from": "system", "value": "x"})], ["record 0", "turn 1", "'system'", "human, gpt"]),
        ([talk(STUDENT, "Because.")], ["record 0", "turn 1", "speaker"]),
        ([talk(STUDENT), talk(STUDENT)], ["record 1", "id 'a'", "record 0"]),
        ([talk(STUDENT, identity=1), talk(STUDENT, identity="1")], ["record 1", "id '1'", "record 0"]),
        ([talk({"from": "human", "value": 7})], ["record 0", "turn 0", "'value'", "number"]),
        ([talk({"from": "human"})], ["record 0", "turn 0", "'value'", "null"]),
        ([{"conversations": [STUDENT]}], ["record 0", "'id'", "None"]),
        ([talk(STUDENT, identity="")], ["record 0", "'id'"]),
        ([talk(STUDENT, identity=True)], ["record 0", "'id'", "True"]),
        ([talk(identity="a\nb")], ["record 0", "no turns"]),
        ([{"id": "a", "conversations": {}}], ["record 0", "'conversations'", "object"]),
        ([[STUDENT]], ["record 0", "list"]),
        ({"a": talk(STUDENT)}, ["a JSON object", "list of conversations"]),
        ('[\n  {"id": }\n]', ["not JSON", "line 2", "column 10"]),
        ("", ["not JSON", "the file is empty"]),
        ('[{"id": "a", "conversations": [],\n}]', ["not JSON: a comma before the end of a list or object at line 2"]),
        ('[{"id": "a",}]', ["not JSON: a comma before the end of a list or object at line 1"]),
        ("[" * 100_000, ["nested"]),
        ("[" + "1" * 5000 + "]", ["not JSON"]),
    ],
)
def test_a_bad_record_is_refused_with_file_place_and_what_was_found(tmp_path, refused, content, words) -> None:
    path = written(tmp_path, content)
    with refused(str(path), *words):
        list(read_conversations(path))


def test_a_file_that_is_missing_a_folder_or_not_utf8_is_refused_by_name(tmp_path, refused) -> None:
    (tmp_path / "latin.json").write_bytes(b'["\xe9"]')
    for name, word in (
        ("no.json", "no such file"),
        ("", "folder"),
        ("latin.json", "byte 2"),
        ("latin.json/x", "no such"),
    ):
        with refused(str(tmp_path / name), word):
            list(read_conversations(tmp_path / name))


def test_whatever_a_file_holds_can_be_written_again(tmp_path, rubric) -> None:
    path = written(tmp_path, '[{"id": "\\ud800", "conversations": [{"from": "human", "value": "\\udfff \\u0000"}]}]')
    (raw,) = read_conversations(path)
    write_records(path, [{"id": raw.id, "conversations": [{"from": "human", "value": raw.texts[0]}]}])
    assert list(read_conversations(path)) == [raw]


INSTRUCTIONS = "Instructions to Act as a Tutorbot: be kind.\n\n"
NAMES = 'Reply with "Evaluation of Student Response", "Action Based on Evaluation" and "Subproblem State".\n\n'


@pytest.mark.parametrize(
    ("given", "opening", "later"),
    [
        ("Q. Why?", "Q. Why?", "Q. Why?"),
        (f"{INSTRUCTIONS}Student: Q. Why?", "Q. Why?", "Q. Why?"),
        (f'{INSTRUCTIONS}Student: "\n\nQ. Why?', "Q. Why?", '"\n\nQ. Why?'),
        (f"{NAMES}Student: Q. Why?", "Q. Why?", "Q. Why?"),
        ("Hello. Student: Q. Why?", "Hello. Student: Q. Why?", "Hello. Student: Q. Why?"),
        ("Hi Tutorbot. Student: Q. Why?", "Hi Tutorbot. Student: Q. Why?", "Hi Tutorbot. Student: Q. Why?"),
        (f"{INSTRUCTIONS}Q. Why?", f"{INSTRUCTIONS}Q. Why?", f"{INSTRUCTIONS}Q. Why?"),
        ("Student: Why? Student: Why?", "Why? Student: Why?", "Student: Why? Student: Why?"),
        ('Student: "Why?" he said', '"Why?" he said', 'Student: "Why?" he said'),
    ],
)
def test_only_instructions_and_an_openings_stray_quote_go_from_student_turns(rubric, given, opening, later) -> None:
    values = {"evaluation": "g", "action": "12", "state": "w", "subproblem": "", "tutorbot": "Well."}
    conversation, _ = clean(RawConversation("a", (given, rubric.serialize(values)) * 2), Reader(rubric))
    assert [message["content"] for message in conversation.messages[::2]] == [opening, later]


@pytest.mark.parametrize("paper_rules", [False, True])
def test_what_is_taken_off_student_turns_is_counted_and_other_words_stay(tmp_path, rubric, paper_rules) -> None:
    told = {"from": "gpt", "value": rubric.serialize({f.key: next(iter(f.labels), "Well.") for f in rubric.fields})}
    openings = [f"{INSTRUCTIONS}Student: Q. Why?"] * 2 + ["Hello. Student: Q. Why?"] * 3 + ["Q. Why?"]
    records = [
        talk({"from": "human", "value": opening}, told, STUDENT, told, identity=str(at))
        for at, opening in enumerate(openings)
    ]
    path = tmp_path / "x-dataset-1.json"
    path.write_text(json.dumps(records))
    splits, report = draw([path], rubric, SplitSettings(2, 2, 2, 42, paper_rules=paper_rules))
    assert report["instructions"] == {"taken_off": 2, "kept": 3}
    assert any('3 student turns keep what stands before "Student:"' in one for one in report["warnings"])
    questions = [one.messages[0]["content"] for members in splits.values() for one in members]
    assert sorted(questions) == ["Hello. Student: Q. Why?"] * 3 + ["Q. Why?"] * 3


def test_repeated_ids_and_empty_conversations_are_refused_but_not_by_the_papers_rules(tmp_path, refused) -> None:
    path = written(tmp_path, [talk(STUDENT, TUTOR, identity="x") for _ in range(3)])
    with refused("record 1", "id 'x' is also the id of record 0"):
        list(read_conversations(path))
    assert [one.id for one in read_conversations(path, paper_rules=True)] == ["x", "x#2", "x#3"]
    path = written(tmp_path, [talk(identity="y")])
    with refused("'conversations' has no turns"):
        list(read_conversations(path))
    assert [one.texts for one in read_conversations(path, paper_rules=True)] == [()]


@pytest.fixture
def files(tmp_path: Path, rubric) -> list[Path]:
    """Two files of 30 conversations, 20 of them of more than two turns."""
    gpt = rubric.serialize(
        {"evaluation": "b", "action": "3", "state": "x", "subproblem": "", "tutorbot": "Right."},
    )
    for number in (1, 2):
        records = [talk(*[STUDENT, {**TUTOR, "value": gpt}] * (1 + (at % 3 > 0)), identity=str(at)) for at in range(30)]
        (tmp_path / f"bio-dataset-{number}.json").write_text(json.dumps(records))
    return dataset_files(tmp_path, "bio")


def test_a_draw_depends_on_the_seed_alone_and_no_conversation_is_drawn_twice(files, rubric) -> None:
    def ids(seed: int) -> dict[str, list[str]]:
        return {
            name: [one.id for one in split]
            for name, split in draw(files, rubric, SplitSettings(8, 6, 6, seed))[0].items()
        }

    assert ids(42) == ids(42)
    assert ids(42) != ids(43)
    drawn = [identity for split in ids(42).values() for identity in split]
    assert len(set(drawn)) == len(drawn) == 2 * 20


def test_sizes_that_are_too_large_are_refused_with_how_many_are_missing(files, rubric, refused) -> None:
    with refused(str(files[0]), "25 conversations wanted (sft 10, dpo 8, test 7)", "20 have", "5 are missing"):
        draw(files, rubric, SplitSettings(10, 8, 7, 42))


def test_missing_dataset_files_are_refused_with_the_name_that_is_looked_for(tmp_path, refused) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        with refused(str(folder), "bio-dataset-<n>.json", "'source'"):
            dataset_files(folder, "bio")


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(talks=st.lists(st.lists(st.text(st.characters()), min_size=1, max_size=5), max_size=4))
def test_any_texts_come_back_from_a_conversation_file(tmp_path, talks) -> None:
    """But for half surrogate pairs, which no file can hold."""
    talked = [talk(*({**(STUDENT, TUTOR)[at % 2], "value": text} for at, text in enumerate(one))) for one in talks]
    given_ids = [{**one, "id": str(at)} for at, one in enumerate(talked)]
    read = list(read_conversations(written(tmp_path, given_ids)))
    assert [list(one.texts) for one in read] == [[t.encode("utf-8", "replace").decode() for t in one] for one in talks]
    assert [one.id for one in read] == [one["id"] for one in given_ids]
