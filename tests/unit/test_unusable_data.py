"""Data that can't be used is refused with the commonest reason and an example, or with what the file looks like."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pedalign.data.conversations import read_conversations
from pedalign.data.splits import EmptySplit, SplitSettings, draw

GOOD = {
    "Evaluation of Student Response": "a",
    "Action Based on Evaluation": "1",
    "Subproblem State": "x",
    "Subproblem": "Why?",
    "Tutorbot": "Look again.",
}
VALID = json.dumps(GOOD)
SIZES = {"sft": 3, "dpo": 2, "test": 2}


def conversations(*replies: str) -> list[dict]:
    """One of four turns for each reply."""
    return [
        {
            "id": f"lesson-{number}",
            "conversations": [
                {"from": "human", "value": f"Q. What is {number}?"},
                {"from": "gpt", "value": reply},
                {"from": "human", "value": "Hm."},
                {"from": "gpt", "value": reply},
            ],
        }
        for number, reply in enumerate(replies)
    ]


def file(folder: Path, content: object) -> Path:
    path = folder / "own-dataset-1.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def renamed(rename) -> str:
    return json.dumps({rename(name): value for name, value in GOOD.items()})


def with_value(name: str, value: object) -> str:
    return json.dumps({**GOOD, name: value})


CASES = {
    "numbers": (
        with_value("Action Based on Evaluation", 1),
        [
            "a value is a number, not text",
            "'Action Based on Evaluation' is a number, 1",
            'write every value as text ("1"',
        ],
    ),
    "true": (with_value("Tutorbot", True), ["a value is true or false, not text", "'Tutorbot' is the value true"]),
    "null": (with_value("Subproblem State", None), ["a value is null, not text", "'Subproblem State' is null"]),
    "a list": (with_value("Tutorbot", ["Hm."]), ["a value is a list, not text", "'Tutorbot' is a list"]),
    "upper case": (
        with_value("Evaluation of Student Response", "A"),
        ["labels differ in case", "'Evaluation of Student Response' is 'A', the rubric has 'a'"],
    ),
    "two labels": (
        with_value("Action Based on Evaluation", "1,2"),
        ["more than one label in a field", "'Action Based on Evaluation' is '1,2'", "choose one label"],
    ),
    "words behind": (
        with_value("Evaluation of Student Response", "b: Correct"),
        ["labels with more text around them", "is 'b: Correct', the rubric has 'b'", "under 'labels_written_as'"],
    ),
    "two labels with brackets": (
        with_value("Action Based on Evaluation", "1) hint, 2) solution"),
        ["labels with more text around them", "is '1) hint, 2) solution', the rubric has '1'"],
    ),
    "a label that is not applicable": (with_value("Evaluation of Student Response", "b) N/A"), ["is 'b) N/A'"]),
    "other labels": (
        with_value("Subproblem State", "solved"),
        ["labels that the rubric does not have", "'Subproblem State' is 'solved'; it has w, x, y, z"],
    ),
    "lower-case names": (
        renamed(str.lower),
        [
            "field names differ in case",
            "found 'evaluation of student response', the rubric has 'Evaluation of Student Response'",
            "write the names as the rubric has them",
        ],
    ),
    "underscores": (renamed(lambda name: name.replace(" ", "_")), ["in spaces or signs", "under 'name_written_as'"]),
    "misspelt": (renamed(lambda name: name.replace("Tutorbot", "Tuttorbot")), ["misspelt", "found 'Tuttorbot'"]),
    "other fields": (json.dumps({"Move": "focus"}), ["a field is missing", "the reply has 'Move'"]),
    "thoughts": (f"<think>The {{x}} is wrong.</think>\n{VALID}", ["a <think> block before the JSON", "take <think>"]),
    "plain text": ("Look again.", ["plain text, no JSON object", "'Look again.'", "as a JSON object"]),
    "not closed": (VALID[:-9], ["a JSON object that is not closed"]),
    "two objects": (VALID * 2, ["more than one JSON object"]),
    "broken": (VALID.replace(":", "=", 1), ["broken JSON"]),
}


@pytest.mark.parametrize("method", ["random", "leak_free"])
@pytest.mark.parametrize("case", CASES)
def test_where_no_reply_can_be_used_the_reason_is_told_with_an_example(case, method, rubric, refused, tmp_path) -> None:
    reply, words = CASES[case]
    path = file(tmp_path, conversations(*[reply] * 8))
    shown = repr(reply[:80])
    with refused("(8 of 8)" if method == "leak_free" else "(7 of 7)", "id 'lesson-", "tutor turn 0", shown, *words):
        draw([path], rubric, SplitSettings(**SIZES, seed=1, method=method))


def test_the_commonest_of_several_reasons_is_told_and_all_are_listed(rubric, tmp_path) -> None:
    replies = ["Hm.", with_value("Tutorbot", 1), "Hm.", "Hm.", VALID[:-9], "Hm.", "Hm."]
    with pytest.raises(EmptySplit, match=r"commonest reason \(5 of 7\): plain text") as caught:
        draw([file(tmp_path, conversations(*replies))], rubric, SplitSettings(**SIZES, seed=1))
    reasons = caught.value.account["reasons"]
    assert [one["conversations"] for one in reasons] == [5, 1, 1]
    assert reasons[0]["example"]["text"] == "Hm."
    assert reasons[0]["found"] == [{"value": "no '{'", "conversations": 5}]
    assert len(caught.value.account["cut"]) == 7


def test_a_warning_tells_the_reason_where_more_than_a_fifth_is_cut(rubric, tmp_path) -> None:
    for bad, warnings in ((4, 0), (5, 1)):
        path = file(tmp_path, conversations(*["Hm."] * bad, *[VALID] * (20 - bad)))
        _, report = draw([path], rubric, SplitSettings(sft=8, dpo=6, test=6, seed=1))
        assert len(report["warnings"]) == warnings
    (warning,) = report["warnings"]
    assert "5 of 20 drawn conversations are cut" in warning
    assert "commonest reason (5 of 5): plain text, no JSON object" in warning


@pytest.mark.parametrize("method", ["random", "leak_free"])
def test_what_is_cut_is_counted_by_value_the_commonest_told_and_the_rest_summed(method, rubric, tmp_path) -> None:
    values = ["solved"] * 4 + ["done"] * 2 + [f"v{at}" for at in range(12)]
    path = file(tmp_path, conversations(*(with_value("Subproblem State", value) for value in values)))
    with pytest.raises(EmptySplit) as caught:
        draw([path], rubric, SplitSettings(sft=10, dpo=4, test=4, seed=1, method=method))
    by_value = "by value: 'Subproblem State' is 'solved' × 4, 'Subproblem State' is 'done' × 2, "  # noqa: RUF001
    assert by_value in str(caught.value)
    assert "11 others × 11" in str(caught.value)  # noqa: RUF001
    found = caught.value.account["reasons"][0]["found"]
    assert found[0] == {"value": "'Subproblem State' is 'solved'", "conversations": 4}
    assert found[-1] == {"values": 4, "conversations": 4}
    assert sum(one["conversations"] for one in found) == 18


def test_a_split_that_gets_fewer_conversations_than_wanted_says_how_many(rubric, tmp_path) -> None:
    path = file(tmp_path, conversations(*["Hm."] * 9, *[VALID] * 11))
    _, report = draw([path], rubric, SplitSettings(sft=12, dpo=4, test=4, seed=1))
    got = {split: found["conversations"] for split, found in report["splits"].items()}
    assert {split: found["wanted"] for split, found in report["splits"].items()} == {"sft": 12, "dpo": 4, "test": 4}
    assert sum(got.values()) == 11
    assert f"sft: wanted 12 conversations, got {got['sft']}" in report["warnings"][0]


def test_leak_free_splits_that_do_not_fit_tell_what_was_lost_before(rubric, refused, tmp_path) -> None:
    path = file(tmp_path, conversations(*["Hm."] * 6, VALID, VALID))
    with refused("2 problems", "6 conversations open with no valid reply", "plain text, no JSON object"):
        draw([path], rubric, SplitSettings(**SIZES, seed=1, method="leak_free"))


def split(path: Path, output: Path) -> subprocess.CompletedProcess:
    root = Path(__file__).parents[2]
    command = [sys.executable, root / "scripts/split.py", path, "--rubric", root / "datasets/rubrics/class.yaml"]
    command += ["--dataset", "own", "--output", output, "--settings", json.dumps({**SIZES, "seed": 1})]
    return subprocess.run(command, capture_output=True, text=True)


def test_a_failed_draw_leaves_its_account_and_the_next_good_one_removes_it(tmp_path) -> None:
    output = tmp_path / "out"
    answer = split(file(tmp_path, conversations(*["Hm."] * 8)), output)
    assert answer.returncode == 1
    assert len(answer.stderr.splitlines()) == 2
    assert f"all reasons: {output}/splits-failed.json" in answer.stderr
    assert [path.name for path in output.iterdir()] == ["splits-failed.json"]
    account = json.loads((output / "splits-failed.json").read_text())
    assert account["reasons"][0]["reason"] == "plain text, no JSON object"
    assert account["cut"][0]["defect"] == "unparseable"
    answer = split(file(tmp_path, conversations(*["Hm."] * 3, *[VALID] * 4)), output)
    assert " wanted conversations about " in answer.stdout and "wanted 3 conversations, got " in answer.stdout
    answer = split(file(tmp_path, conversations(*[VALID] * 8)), output)
    assert "sft: 3 conversations about 3 problems (1 to 1 each), 6 tutor turns" in answer.stdout
    assert not (output / "splits-failed.json").exists()
    assert (output / "splits.json").exists()


MESSAGES = {"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]}
RECORD = conversations(VALID)[0]
MATHDIAL = {"qid": 1, "question": "q", "student_incorrect_solution": "s", "conversation": "Teacher: (focus) x"}


def lines(*records: object) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


def imports(name: str) -> str:
    """What is to be written into the settings."""
    return f"import: {{format: {name}, files: "


def mapping(*speakers: str) -> dict:
    return {"id": "a", "conversations": [{"from": who, "value": GOOD} for who in speakers]}


def shared(*speakers: str) -> dict:
    return {"id": "a", "conversations": [{"from": who, "value": VALID} for who in speakers]}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (json.dumps(RECORD, indent=2) * 2, ["not JSON: Extra data at line"]),
        (lines(MESSAGES, MESSAGES), ["record 0", "OpenAI chat messages", imports("messages")]),
        (lines(MATHDIAL, MATHDIAL), ["record 0", "rows of MathDial", imports("mathdial")]),
        ([MESSAGES], ["record 0", "OpenAI chat messages ('messages' with 'role' and 'content')", imports("messages")]),
        (
            [{"id": "a", "conversations": MESSAGES["messages"]}],
            ["chat messages ('conv", imports("messages")],
        ),
        ([shared("system", "human", "gpt")], ["record 0", "open with a system turn", imports("sharegpt")]),
        ([shared("system", "user", "assistant")], ["open with a system turn", imports("sharegpt")]),
        ([shared("user", "assistant")], ["speakers are 'user', 'assistant'", imports("sharegpt")]),
        ([RECORD, shared("user", "assistant")], ["record 1", "speakers are 'user', 'assistant'", imports("sharegpt")]),
        ([shared("Anna", "Ben")], ["speakers are 'Anna', 'Ben'", "write 'human' for the student"]),
        ([mapping("human", "gpt")], ["record 0", "objects for texts", imports("sharegpt")]),
        ([{"role": "user", "content": "u"}], ["record 0", "single turns"]),
        ([{"prompt": "a", "chosen": "b", "rejected": "c"}], ["record 0", "preference pairs"]),
        ([{"instruction": "a", "output": "b"}], ["record 0", "Alpaca"]),
        (RECORD, ["a JSON object", "it is a single conversation; put it in a list"]),
        ({"version": 1, "data": [RECORD]}, ["a JSON object", "the list is under its key 'data'", "that list alone"]),
        ({"data": [MESSAGES]}, ["the list is under its key 'data', of what looks like OpenAI", imports("messages")]),
        ({"a": {"turns": []}}, ["a JSON object", "its keys, such as 'a', may be the ids"]),
        (MESSAGES, ["a JSON object", "it looks like OpenAI chat messages"]),
        ({}, ["a JSON object", "its keys are none"]),
        ('{"a": }', ["not JSON", "line 1, column 7"]),
    ],
)
def test_a_file_of_another_format_is_refused_with_what_it_looks_like(content, words, refused, tmp_path) -> None:
    path = file(tmp_path, content)
    with refused(str(path), *words):
        list(read_conversations(path))
