"""Conversations and splits."""

import json
import random

import pytest

from pedalign.data.conversations import (
    Conversation,
    RawConversation,
    Reader,
    clean,
    formatted_rows,
    read_conversations,
    split_conversations,
)
from pedalign.data.splits import SplitSettings, dataset_files, draw, leaks, perplexity_file

VALUES = {"evaluation": "a", "action": "1", "state": "x", "subproblem": "Why?", "tutorbot": "Look again."}


def reply(rubric, **changed) -> str:
    return rubric.serialize({**VALUES, **changed})


def record(rubric, identity: str, turns: int = 2, question: str = "Why?") -> dict:
    texts = [f"Q. {question}", reply(rubric)] * turns
    entries = [{"from": ("human", "gpt")[at % 2], "value": text} for at, text in enumerate(texts)]
    return {"id": identity, "conversations": entries}


def test_a_conversation_is_cut_before_the_student_turn_of_its_first_bad_reply(rubric):
    raw = RawConversation("1", ("one", reply(rubric), "two", "no reply", "three", reply(rubric)))
    conversation, cut = clean(raw, Reader(rubric))
    assert [message["content"] for message in conversation.messages] == ["one", reply(rubric)]
    assert (cut.turn, cut.defect) == (1, "unparseable")


def test_instructions_before_the_first_question_go(rubric):
    published = '\nInstructions to Act as a Tutorbot:\n\nBe kind.\n\nStudent: "\n\nQ. Why do leaves fall?'
    conversation, _ = clean(RawConversation("1", (published, reply(rubric))), Reader(rubric))
    assert conversation.messages[0]["content"] == "Q. Why do leaves fall?"
    assert conversation.problem == "why do leaves fall"


def test_replies_come_out_in_one_canonical_form(rubric):
    values = {field.name: VALUES[field.key] for field in rubric.fields}
    conversation, cut = clean(RawConversation("1", ("Why?", f"Sure!\n{values!r}")), Reader(rubric))
    assert cut is None
    assert conversation.messages[1]["content"] == reply(rubric)


def test_every_tutor_turn_becomes_a_row_but_those_of_single_turn_conversations(rubric, tmp_path):
    file = tmp_path / "d-dataset-1.json"
    file.write_text(json.dumps([record(rubric, "a", turns=3), record(rubric, "b", turns=1)]))
    rows = list(formatted_rows([clean(raw, Reader(rubric))[0] for raw in read_conversations(file)]))
    assert [(row["conversation_id"], row["turn"], len(row["prompt"])) for row in rows] == [
        ("a", 0, 1),
        ("a", 1, 3),
        ("a", 2, 5),
    ]
    assert all(row["chosen"] == [{"role": "assistant", "content": reply(rubric)}] for row in rows)


def test_half_a_surrogate_pair_can_be_read_and_written(rubric, tmp_path):
    file = tmp_path / "d-dataset-1.json"
    file.write_text(json.dumps([{"id": "a", "conversations": [{"from": "human", "value": "\ud800 ok"}]}]))
    assert next(read_conversations(file)).texts[0].encode("utf-8")


def test_the_draw_is_the_papers(rubric, tmp_path):
    files = []
    for number in (1, 2, 3):
        files.append(tmp_path / f"d-dataset-{number}.json")
        records = [record(rubric, f"{number}-{at}", turns=1 + at % 3) for at in range(60)]
        files[-1].write_text(json.dumps(records))
    splits, report = draw(files, rubric, SplitSettings(sft=10, dpo=8, test=6, seed=42))

    expected = {"sft": [], "dpo": [], "test": []}
    random.seed(42)
    for number, file in enumerate(files, start=1):
        data = [one for one in json.loads(file.read_text()) if len(one["conversations"]) > 2]
        sample = random.sample(data, 24)
        for split, part in (("sft", sample[:10]), ("dpo", sample[10:18]), ("test", sample[18:])):
            expected[split] += [f"{number}:{one['id']}" for one in part]
    assert {split: [one.id for one in members] for split, members in splits.items()} == expected
    assert len({identity for members in expected.values() for identity in members}) == 72
    assert report["files"][0]["eligible"] == 40


def test_what_was_cut_and_dropped_is_listed(rubric, tmp_path):
    records = [record(rubric, str(at)) for at in range(6)]
    records[0]["conversations"][1]["value"] = "{'Tutorbot': 'hm'}"
    records[1]["conversations"][3]["value"] = "hm"
    file = tmp_path / "d-dataset-1.json"
    file.write_text(json.dumps(records))
    splits, report = draw([file], rubric, SplitSettings(sft=2, dpo=2, test=2, seed=1))
    assert {(cut["id"], cut["turn"], cut["defect"]) for cut in report["cut"]} == {
        ("1:0", 0, "incomplete"),
        ("1:1", 1, "unparseable"),
    }
    assert [dropped["id"] for dropped in report["dropped"]] == ["1:0"]
    assert sum(len(members) for members in splits.values()) == 5
    assert report["cut_by_reason"] == {"incomplete": 1, "unparseable": 1}


def test_leaks_count_test_conversations_on_problems_of_a_training_split():
    def about(question):
        return Conversation(question, ({"role": "user", "content": f"Hello. Q. {question}"},))

    splits = {
        "sft": [about("A?"), about("B?")],
        "dpo": [about("C?")],
        "test": [about(" a ?"), about("C"), about("D?"), about("B?")],
    }
    assert leaks(splits) == {
        "test_shares_problem_with_sft": {"conversations": 2, "of": 4},
        "test_shares_problem_with_dpo": {"conversations": 1, "of": 4},
    }


def test_the_id_of_a_problem_is_used_where_it_is_given_and_is_no_question():
    def about(problem, question):
        return Conversation(question, ({"role": "user", "content": f"Q. {question}"},), problem)

    splits = {
        "sft": [about("p", "A?"), about(None, "q")],
        "dpo": [about("q", "C?")],
        "test": [about("p", "D?"), about("q", "A?"), about(None, "C?"), about(None, "p")],
    }
    assert leaks(splits) == {
        "test_shares_problem_with_sft": {"conversations": 1, "of": 4},
        "test_shares_problem_with_dpo": {"conversations": 1, "of": 4},
    }


def test_the_id_of_a_problem_decides_leak_free_splits_and_stays_with_the_conversations(rubric, tmp_path):
    records = [{**record(rubric, str(at)), "problem": f"p{at // 4}"} for at in range(24)]
    for at, one in enumerate(records):
        one["conversations"][0]["value"] = f"Q. Question {at}?"
    file = tmp_path / "d-dataset-1.json"
    file.write_text(json.dumps(records))
    splits, report = draw([file], rubric, SplitSettings(sft=8, dpo=8, test=8, seed=1, method="leak_free"))
    assert report["leak_free"]["problems"] == {"sft": 2, "dpo": 2, "test": 2}
    assert all(one["conversations"] == 0 for one in report["leaks"].values())
    ids = {one.id: one.record()["problem"] for members in splits.values() for one in members}
    assert ids == {f"1:{at}": f"p{at // 4}" for at in range(24)}
    split = tmp_path / "split.json"
    split.write_text(json.dumps([one.record() for one in splits["test"]]))
    assert len({one.problem for one in split_conversations(split)}) == 2


@pytest.mark.parametrize(
    "names", [("d-dataset-1.json", "d-dataset-1.jsonl"), ("d-dataset-1.json", "d-dataset-01.json")]
)
def test_two_files_of_one_number_are_refused(names, tmp_path, refused):
    for name in names:
        (tmp_path / name).write_text("[]")
    with refused("d-dataset-1.json", "have one number"):
        dataset_files(tmp_path, "d")


def test_perplexity_pairs_may_be_json_lines_but_are_in_one_file(tmp_path, refused):
    (tmp_path / "d-dataset-ppl.jsonl").touch()
    assert perplexity_file(tmp_path, "d") == tmp_path / "d-dataset-ppl.jsonl"
    (tmp_path / "d-dataset-ppl.json").touch()
    with refused("d-dataset-ppl.json", "d-dataset-ppl.jsonl are both there"):
        perplexity_file(tmp_path, "d")


def test_dataset_files_come_in_the_order_of_their_numbers(tmp_path):
    for name in ("d-dataset-10.json", "d-dataset-2.jsonl", "d-dataset-ppl.json", "e-dataset-1.json"):
        (tmp_path / name).write_text("[]")
    assert [path.name for path in dataset_files(tmp_path, "d")] == ["d-dataset-2.jsonl", "d-dataset-10.json"]
