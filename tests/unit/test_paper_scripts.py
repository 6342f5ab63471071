"""Pairs, scores and splits by the paper's rules are those of its published scripts on the same files."""

import ast
import json
import math
import random
import subprocess
import sys
from pathlib import Path

import paper_scripts
import pytest

from pedalign.core.artifacts import read_csv, write_csv
from pedalign.data import paper_rules
from pedalign.data.preferences import PreferenceSettings, preference_pairs
from pedalign.data.responses import COLUMNS
from pedalign.data.splits import SplitSettings, draw
from pedalign.evaluation.paper_scores import paper_scores

NAMES = dict(zip(("evaluation", "action", "state", "subproblem", "tutorbot"), paper_scripts.FIELDS, strict=True))
VALUES = {"evaluation": "a", "action": "1", "state": "x", "subproblem": "Why?", "tutorbot": "Look again."}


def reply(**changed) -> dict:
    return {NAMES[key]: value for key, value in {**VALUES, **changed}.items() if value is not ...}


# What tutors do to a reply, given the gold one; each kind has its own way of being read, or not.
KINDS = {
    "as Python": lambda gold, rng: repr(gold),
    "as JSON": lambda gold, rng: json.dumps(gold),
    "words before": lambda gold, rng: f"Sure: {json.dumps(gold)}",
    "words after": lambda gold, rng: f"{gold!r} Is that clear?",
    "fenced": lambda gold, rng: f"```json\n{json.dumps(gold)}\n```",
    "a line break and an indent before": lambda gold, rng: f"\n {gold!r}",
    "a space before": lambda gold, rng: f" \t{json.dumps(gold)}",
    "a line break and spaces after": lambda gold, rng: f"{json.dumps(gold)}\n  ",
    "null": lambda gold, rng: json.dumps(gold | {"note": None}),
    "true": lambda gold, rng: json.dumps(gold | {"note": True}),
    "None": lambda gold, rng: repr(gold | {"note": None}),
    "another field": lambda gold, rng: repr(gold | {"Thoughts of Tutorbot": "Hm."}),
    "cut": lambda gold, rng: json.dumps(gold)[: rng.randrange(len(json.dumps(gold)))],
    "another label": lambda gold, rng: json.dumps(gold | {rng.choice(list(NAMES.values())[:3]): rng.choice("abz3")}),
    "padded labels": lambda gold, rng: repr({name: f" {value} " for name, value in gold.items()}),
    "not applicable": lambda gold, rng: repr(gold | {NAMES["evaluation"]: "N/A"}),
    "an empty label": lambda gold, rng: repr(gold | {NAMES["evaluation"]: ""}),
    "upper case": lambda gold, rng: repr(gold | {NAMES["evaluation"]: gold[NAMES["evaluation"]].upper()}),
    "a field is missing": lambda gold, rng: repr({k: v for k, v in gold.items() if k != rng.choice(list(gold))}),
    "all empty": lambda gold, rng: repr(dict.fromkeys(gold, "")),
    "no mapping": lambda gold, rng: rng.choice(["", "hm", "{", "5", "None", "[" * 500, "{1, 2}", "-" * 9000 + "1"]),
    "a list": lambda gold, rng: repr([gold]),
    "two mappings": lambda gold, rng: f"{gold!r}\n{gold!r}",
    "long": lambda gold, rng: json.dumps(gold | {NAMES["tutorbot"]: "Look. " * 5000}),
    "half a surrogate pair": lambda gold, rng: json.dumps(gold | {NAMES["tutorbot"]: "\ud83d Look."}),
    "other words": lambda gold, rng: json.dumps(gold | {NAMES["tutorbot"]: "Student: Look!"}),
}
# These make mappings whose labels are no text, which preprocess_dpo_data.py stops at.
NUMBERS = {
    "None for a label": lambda gold, rng: repr(gold | {NAMES["state"]: None}),
    "an integer": lambda gold, rng: repr(gold | {NAMES["action"]: int(gold[NAMES["action"]])}),
    "another integer": lambda gold, rng: repr(gold | {NAMES["action"]: rng.choice([4, -1, 2**63])}),
    "a float": lambda gold, rng: repr(gold | {NAMES["action"]: rng.choice([1.0, 0.1, 1e22, 1e-7])}),
    "a truth value": lambda gold, rng: repr(gold | {NAMES["action"]: rng.choice([True, False])}),
    "bytes": lambda gold, rng: repr(gold | {NAMES["action"]: b"1"}),
    "a complex number": lambda gold, rng: repr(gold | {NAMES["state"]: 1j}),
    "a closing null character": lambda gold, rng: repr(gold | {NAMES["state"]: "x\0"}),
}


def synthetic(count: int, kinds: dict, seed: int = 24) -> tuple[list[dict], list[str]]:
    """Formatted rows of conversations of one to five turns, and a reply to each, every kind in its turn."""
    rng = random.Random(seed)
    rows: list[dict] = []
    replies = []
    ways = list(kinds.values())
    while len(rows) < count:
        prompt = []
        for turn in range(rng.randint(1, 5)):
            gold = reply(evaluation=rng.choice("abcdefg"), action=str(rng.randint(1, 12)), state=rng.choice("wxyz"))
            if rng.random() < 0.05:  # not taken by the published scripts
                gold |= rng.choice([{NAMES["action"]: "123"}, {NAMES["state"]: ""}, {NAMES["tutorbot"]: ["Look."]}])
            told = str(gold) if rng.random() < 0.2 else json.dumps(gold, ensure_ascii=False)
            prompt = [*prompt, {"role": "user", "content": rng.choice(["Q. Why?", "Because.", "Student: so?"])}]
            chosen = [{"role": "assistant", "content": told}]
            rows.append({"conversation_id": f"1:{len(rows) - turn}", "turn": turn, "prompt": prompt, "chosen": chosen})
            replies.append(ways[len(replies) % len(ways)](gold, rng) if gold[NAMES["action"]] != "123" else "hm")
            prompt = [*prompt, *chosen]
    return rows[:count], replies[:count]


def table(path: Path, rows: list[dict], responses: list[str], samples: int = 1) -> Path:
    """A responses.csv as the workflow writes it."""
    records = [
        (
            paper_rules.prompt_text(rows[at // samples]["prompt"], "Be kind to the Student: help."),
            response,
            rows[at // samples]["chosen"][0]["content"],
            rows[at // samples]["conversation_id"],
            rows[at // samples]["turn"],
            1,
            1,
            "stop",
            at % samples,
        )
        for at, response in enumerate(responses)
    ]
    write_csv(path, COLUMNS, records)
    return path


def assert_scores_agree(found: dict, published: dict) -> None:
    for key, expected in published.items():
        one = found[key]
        if isinstance(expected, str):
            assert (one["paper_accuracy"], one["paper_macro_f1"]) == (None, None), key
            assert f"stops with {expected}: " in one["paper_note"], key
            continue
        right, macro_f1, support = expected
        assert one["paper_accuracy"] == pytest.approx(right, abs=1e-6), key
        assert one["paper_support"] == support, key
        if math.isnan(macro_f1):
            assert one["paper_macro_f1"] is None and "not a number" in one["paper_note"], key
        else:
            assert one["paper_macro_f1"] == pytest.approx(macro_f1, abs=1e-6), key
            assert "paper_note" not in one, key


def as_published(text: str) -> str:
    """A rejected text as preprocess_dpo_data.py would write it."""
    is_literal, value = paper_scripts.literal(text)
    return str(value) if is_literal else text


def test_pairs_and_scores_of_2000_replies_are_those_of_the_published_chain(rubric, tmp_path):
    """From the tutors' replies on: theirs as generate_responses.py would record them, ours as the workflow does."""
    rows, replies = synthetic(2000, KINDS)
    ours = table(tmp_path / "ours.csv", rows, [paper_rules.response_text(one) for one in replies])
    theirs = table(tmp_path / "theirs.csv", rows, [paper_scripts.recorded(one) for one in replies])
    published = paper_scripts.pairs(theirs)
    assert len(published) > 800

    pairs, counts = preference_pairs(rows, read_csv(ours), rubric, PreferenceSettings(paper_rules=True))
    places = {(row["conversation_id"], row["turn"]): at for at, row in enumerate(rows)}
    made = [places[key] for key in zip(pairs["conversation_id"], pairs["turn"], strict=True)]
    assert made == [number for number, _, _ in published]
    rejected = [one[0]["content"] for one in pairs["rejected"]]
    assert rejected == [paper_rules.response_text(replies[at]) for at in made]  # as the tutor gave it
    assert [as_published(text) for text in rejected] == [as_published(text) for _, _, text in published]
    chosen = [one[0]["content"] for one in pairs["chosen"]]
    assert [ast.literal_eval(text) for text in chosen] == [gold for _, gold, _ in published]
    assert not set(zip(chosen, rejected, strict=True)) & {(text, text) for text in chosen}
    assert counts["responses"] == 2000

    for first_turn in (False, True):
        found = paper_scores(read_csv(ours), rubric, first_turn)
        assert_scores_agree(found, paper_scripts.scores(theirs, first_turn))
        assert_scores_agree(found, paper_scripts.scores(ours, first_turn))  # the scripts may be run on our file too
    assert 0.2 < found["evaluation"]["paper_accuracy"] < 0.9


def test_scores_of_labels_that_are_no_text_are_those_of_the_published_script(rubric, tmp_path):
    rows, replies = synthetic(1000, KINDS | NUMBERS)
    ours = table(tmp_path / "responses.csv", rows, [paper_rules.response_text(one) for one in replies])
    assert_scores_agree(paper_scores(read_csv(ours), rubric, first_turn=False), paper_scripts.scores(ours))


@pytest.mark.parametrize(
    ("label", "right", "macro_f1", "stops"),
    [
        ("1", 1.0, 1.0, None),
        (1, 1.0, 1.0, None),
        (4, 0.75, 0.666667, None),
        (1.0, 0.75, 0.666667, None),
        (True, 0.75, 0.666667, None),
        (None, 0.75, 0.888889, None),
        (b"1", 1.0, 1.0, None),
        (["1"], None, None, "TypeError"),
        ({}, None, None, "TypeError"),
        (10**30, None, None, "TypeError"),
    ],
    ids=str,
)
def test_a_label_that_is_no_text_scores_as_numpy_writes_it_or_stops_the_script(
    rubric, tmp_path, label, right, macro_f1, stops
):
    golds = [reply(action=action) for action in "1231"]
    rows = [
        {
            "conversation_id": str(at),
            "turn": 1,
            "prompt": [{"role": "user", "content": "Q."}] * 3,
            "chosen": [{"role": "assistant", "content": json.dumps(gold)}],
        }
        for at, gold in enumerate(golds)
    ]
    responses = table(tmp_path / "responses.csv", rows, [*map(repr, golds[:3]), repr(reply(action=label))])
    found = paper_scores(read_csv(responses), rubric, first_turn=False)
    assert_scores_agree(found, paper_scripts.scores(responses))
    assert (found["action"]["paper_accuracy"], found["action"]["paper_macro_f1"]) == (right, macro_f1)
    assert (stops or "") in found["action"].get("paper_note", "")
    assert found["evaluation"]["paper_accuracy"] == 1.0  # the other fields have their figures


def test_where_the_published_script_stops_the_figure_is_null_with_the_reason(rubric, tmp_path):
    rows, _ = synthetic(30, KINDS)
    golds = [ast.literal_eval(row["chosen"][0]["content"]) for row in rows]
    numbers = table(tmp_path / "numbers.csv", rows, [repr(gold | {NAMES["action"]: 3}) for gold in golds])
    assert paper_scripts.scores(numbers)["action"] == "ValueError"
    assert_scores_agree(paper_scores(read_csv(numbers), rubric, first_turn=False), paper_scripts.scores(numbers))

    long = table(tmp_path / "long.csv", rows, [*map(repr, golds[:-1]), repr(golds[-1]) + " " * 140_000])
    with pytest.raises(Exception, match="field larger than field limit"):
        paper_scripts.scores(long)
    found = paper_scores(read_csv(long), rubric, first_turn=False)
    assert {(one["paper_accuracy"], one["paper_macro_f1"]) for one in found.values()} == {(None, None)}
    assert all("more than 131072 characters" in one["paper_note"] for one in found.values())

    none = paper_scores([], rubric, first_turn=False)["action"]
    assert none == {
        "paper_accuracy": None,
        "paper_macro_f1": None,
        "paper_support": 0,
        "paper_note": "evaluate_responses.py stops with ValueError: no gold reply counts",
    }


def paired(folder: Path, rows: list[dict], responses: list[str], root: Path, **settings) -> dict:
    """preferences.json of the script."""
    (folder / "rows.json").write_text(json.dumps(rows))
    answers = table(folder / "responses.csv", rows, responses, settings.get("samples", 1))
    command = [sys.executable, "scripts/pair.py", str(folder / "rows.json"), str(answers)]
    command += ["--rubric", "datasets/rubrics/class.yaml", "--output", str(folder / "preferences.json")]
    command += ["--counts", str(folder / "counts.json"), "--settings", json.dumps({"paper_rules": True, **settings})]
    answer = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    return json.loads((folder / "preferences.json").read_text())


def one_row(identity: str, gold: dict, turn: int = 1) -> dict:
    messages = [{"role": "user", "content": "Q"}] * (2 * turn + 1)
    chosen = [{"role": "assistant", "content": json.dumps(gold)}]
    return {"conversation_id": identity, "turn": turn, "prompt": messages, "chosen": chosen}


def test_by_the_papers_rules_the_rejected_reply_is_as_the_tutor_gave_it(tmp_path, root):
    """Five replies that the workflow's own reader takes for the gold one, and preprocess_dpo_data.py for mistakes."""
    gold = reply()
    given = {
        "sure": f"Sure: {json.dumps(gold)}",
        "json_null": json.dumps(gold | {"note": None}),
        "newline_indent": f"\n  {json.dumps(gold)}",
        "trailing": f"{json.dumps(gold)}\n  ",
        "na": json.dumps(gold | {NAMES["evaluation"]: ""}),
    }
    rows = [one_row(f"1:{name}", gold | ({NAMES["evaluation"]: "g"} if name == "na" else {})) for name in given]
    pairs = paired(tmp_path, rows, list(given.values()), root)
    assert [one[0]["content"] for one in pairs["rejected"]] == list(given.values())
    assert [one[0]["content"] for one in pairs["chosen"]] == [row["chosen"][0]["content"] for row in rows]
    assert pairs["reason"] == ["unparseable"] * 4 + ["evaluation"]
    published = paper_scripts.pairs(tmp_path / "responses.csv")
    assert [as_published(text) for text in given.values()] == [text for _, _, text in published]


@pytest.mark.parametrize(("reject", "kept"), [("worst", 1), ("nearest", 0)])
def test_by_the_papers_rules_a_reply_that_cannot_be_read_is_the_worst(tmp_path, root, reject, kept):
    given = [json.dumps(reply(action="2")), f"Sure: {json.dumps(reply())}"]
    pairs = paired(tmp_path, [one_row("1", reply())], given, root, samples=2, reject=reject)
    assert [one[0]["content"] for one in pairs["rejected"]] == [given[kept]]


@pytest.mark.parametrize("paper_rules", [False, True])
def test_a_pair_of_equal_texts_ends_the_stage_and_names_its_row(rubric, monkeypatch, paper_rules):
    gold = rubric.serialize(VALUES)
    row = one_row("7:x", json.loads(gold), turn=3)
    answers = [{"conversation_id": "7:x", "turn": "3", "sample": "0", "response": gold, "gpt": gold}]
    monkeypatch.setattr(
        "pedalign.data.paper_rules.mistake" if paper_rules else "pedalign.data.preferences.mistake",
        lambda *_: ("action", 1),
    )
    with pytest.raises(AssertionError, match="conversation 7:x, turn 3, sample 0"):
        preference_pairs([row], answers, rubric, PreferenceSettings(paper_rules=paper_rules))


def test_replies_are_recorded_as_the_published_script_records_them(rubric):
    """It strips a reply that is a literal then; others, and the words of all, stay as they are."""
    text = json.dumps(reply())
    for given, kept in {
        f"\n {text}": text,
        f"{text}\n  ": text,
        f"\n Sure: {text}\n": f"\n Sure: {text}\n",
        " hm ": " hm ",
        "": "",
    }.items():
        assert paper_rules.response_text(given) == kept
        assert as_published(kept) == paper_scripts.recorded(given)
    assert paper_rules.mistake(text, paper_rules.response_text(f"\n {text}"), rubric) is None


def test_a_prompt_says_student_once_for_each_student_turn(rubric):
    turns = [("user", "Student: Q. Why?"), ("assistant", "{'Tutorbot': 'Hi Student:'}"), ("user", "So?")]
    messages = [{"role": role, "content": text} for role, text in turns]
    assert paper_rules.prompt_text(messages, "Student: what the student says.") == (
        "System: Student : what the student says.\n\nStudent: Student : Q. Why?\n"
        "Tutorbot: {'Tutorbot': 'Hi Student :'}\nStudent: So?\n\nTutorbot:"
    )
    assert paper_rules.prompt_text(messages, "").count("Student:") == 2
    assert paper_rules.prompt_text(messages[:1], "").count("Student:") == 1


INSTRUCTIONS = f"\n{paper_scripts.TITLE}:\n\nYou are a Tutorbot. Now the conversation is starting.\n\nStudent: "
OPENINGS = [
    f'{INSTRUCTIONS}"\nQ. Why?',
    f"{INSTRUCTIONS}Q. Why?",
    f'{INSTRUCTIONS}Hm, "\nQ. Why?',
    f"{INSTRUCTIONS}Student: Q. Why?",
    f"{paper_scripts.TITLE}, please",
    "Hello. Student: Q. Why?",
    "Student: Q. Why?",
    '"\nQ. Why?',
    "Q. Why?",
]


def test_conversations_are_drawn_cut_and_cleared_of_instructions_as_the_published_script_does(rubric, tmp_path):
    rng = random.Random(8)
    files = []
    for number in (1, 2, 3):
        records = []
        for _ in range(60):
            entries = []
            for _ in range(rng.randint(0, 4)):
                spoilt = rng.choice([None] * 6 + ["hm", "[]", repr(reply(action=...)), f"\n {reply()!r}"])
                told = reply(evaluation=rng.choice(["a", "N/A", "zz"]), action=rng.choice(["1", "N/A"]))
                told |= {"Thoughts of Tutorbot": "Hm."} if rng.random() < 0.3 else {}
                told |= {NAMES["tutorbot"]: "Look. " * 5000} if rng.random() < 0.05 else {}
                text = spoilt or rng.choice([repr, json.dumps])(told)
                entries += [{"from": "human", "value": rng.choice(OPENINGS)}, {"from": "gpt", "value": text}]
            records.append({"id": str(rng.randrange(20)), "conversations": entries})
        (tmp_path / f"x-dataset-{number}.json").write_text(json.dumps(records))
        files.append(records)
    settings = SplitSettings(sft=15, dpo=15, test=12, seed=42, paper_rules=True)
    splits, report = draw(sorted(tmp_path.iterdir()), rubric, settings)
    published = paper_scripts.drawn(files, (15, 15, 12), seed=42)
    for split, conversations in published.items():
        found = [
            [
                ("human", one["content"]) if at % 2 == 0 else ("gpt", ast.literal_eval(one["content"]))
                for at, one in enumerate(conversation.messages)
            ]
            for conversation in splits[split]
        ]
        assert found == conversations
        identities = [conversation.id for conversation in splits[split]]
        assert len(set(identities)) == len(identities)
    assert report["instructions"]["taken_off"] > 50 and report["instructions"]["kept"] > 20
