"""The simulated conversations: reproducible, complete, and without giveaways."""

import re
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from pedalign.core.artifacts import sha256
from pedalign.core.errors import UserError
from pedalign.data.conversations import Reader, clean, read_conversations
from pedalign.data.sources.problem_bank import lowered, read_problems
from pedalign.data.sources.simulation import Simulator, load_script

ROOT = Path(__file__).parents[2]
BANKS = [ROOT / "datasets" / name for name in ("bio-problems.yaml", "bio-problems-more.yaml")]
PROBLEMS, REJECTED = read_problems(BANKS[0])


def test_the_banks_are_large_enough_and_have_no_text_twice():
    import yaml

    entries = [entry for bank in BANKS for entry in yaml.safe_load(bank.read_text())]
    problems = [problem for bank in BANKS for problem in read_problems(bank)[0]]
    assert len(problems) == len(entries) >= 200  # none is rejected
    assert len({entry["area"] for entry in entries}) >= 20
    assert len({entry["id"] for entry in entries}) == len({problem.text for problem in problems}) == len(entries)
    subproblems = [one for problem in problems for one in problem.subproblems]
    assert min(len(problem.subproblems) for problem in problems) >= 3
    assert len({one.question for one in subproblems}) == len(subproblems)
    assert not [
        one for one in subproblems if one.answer.casefold() in f"{one.hint} {one.feedback} {one.question}".casefold()
    ]
    answers = [text for one in subproblems for text in (one.answer, one.partial_response, one.incorrect_response)]
    assert len(set(answers)) == len(answers)


def test_the_shipped_files_are_what_the_simulator_makes_byte_for_byte(tmp_path):
    import subprocess
    import sys

    command = [sys.executable, "scripts/simulate.py", "datasets/bio-problems.yaml", "--dataset", "bio"]
    subprocess.run([*command, "--output", str(tmp_path)], cwd=ROOT, check=True, capture_output=True)
    made = sorted(tmp_path.glob("*.json"))
    assert [path.name for path in made] == [*[f"bio-dataset-{n}.json" for n in (1, 2, 3)], "bio-dataset-ppl.json"]
    for path in made:
        assert sha256(path) == sha256(ROOT / "datasets/simulated" / path.name), path.name


@pytest.fixture(scope="module")
def shipped(rubric):
    files = sorted((ROOT / "datasets/simulated").glob("bio-dataset-[0-9].json"))
    raw = [one for file in files for one in read_conversations(file)]
    return [(one, *clean(one, Reader(rubric))) for one in raw]


def test_every_label_occurs_and_no_evaluation_is_in_the_majority(shipped, rubric):
    replies = [rubric.parse(m["content"]).values for _, talk, _ in shipped for m in talk.messages[1::2]]
    for field in rubric.label_fields:
        counts = Counter(reply[field.key] for reply in replies)
        assert set(counts) == set(field.labels)
        assert min(counts.values()) >= 100
    evaluations = Counter(reply["evaluation"] for reply in replies)
    assert max(evaluations.values()) / len(replies) < 0.35


def test_each_file_has_enough_conversations_and_some_are_malformed_in_each_way(shipped):
    assert len(shipped) == 3750
    assert all(raw.simulated for raw, _, _ in shipped)
    defects = Counter(cut.defect for _, _, cut in shipped if cut)
    assert set(defects) == {"unparseable", "incomplete", "unknown_label"}
    replies = sum(len(raw.texts) // 2 for raw, _, _ in shipped)
    assert 0.01 < sum(defects.values()) / replies < 0.03


def test_without_a_malformed_share_every_reply_is_valid(rubric, tmp_path):
    from pedalign.core.artifacts import write_records

    write_records(
        tmp_path / "x.json",
        Simulator(load_script(ROOT / "datasets/simulation.yaml", rubric), rubric, 0).conversations(PROBLEMS, 50, "s"),
    )
    assert not any(clean(raw, Reader(rubric))[1] for raw in read_conversations(tmp_path / "x.json"))


def test_the_wording_around_an_answer_does_not_give_its_judgement_away(shipped, rubric):
    """Each way of wording an answer is followed by right, partly right and wrong in about the overall shares."""
    kinds = {}
    for problem in PROBLEMS:
        for one in problem.subproblems:
            for kind, text in (("b", one.answer), ("c", one.partial_response), ("a", one.incorrect_response)):
                kinds[text[:1].upper() + text[1:]] = kinds[lowered(text)] = kind
    answer = re.compile("|".join(re.escape(text) for text in sorted(kinds, key=len, reverse=True)))
    wordings: dict[str, Counter[str]] = defaultdict(Counter)
    for _, talk, _ in shipped:
        for student, tutor in zip(talk.messages[2::2], talk.messages[3::2], strict=True):
            match = answer.search(student["content"])
            if match:
                assert rubric.parse(tutor["content"]).values["evaluation"] == kinds[match.group()]
                wordings[answer.sub("_", student["content"], count=1)][kinds[match.group()]] += 1
    overall = sum(wordings.values(), Counter())
    common = {wording: counts for wording, counts in wordings.items() if counts.total() >= 50}
    assert len(common) >= 12
    for wording, counts in common.items():
        for kind in "abc":
            share, expected = counts[kind] / counts.total(), overall[kind] / overall.total()
            assert abs(share - expected) < 4 * (expected * (1 - expected) / counts.total()) ** 0.5, (wording, kind)


def test_a_hint_comes_first_and_the_solution_after_the_second_failure(shipped, rubric):
    (_, (first, second)) = (rubric.scaffold_field, rubric.scaffold_tell)
    scaffolds, tells = {first[0], second[0]}, {first[1], second[1]}
    seen = Counter()
    for _, talk, _ in shipped:
        failures: Counter[str] = Counter()
        asked = None
        for message in talk.messages[1::2]:
            values = rubric.parse(message["content"]).values
            if values["action"] in scaffolds | tells:
                failures[asked] += 1
                assert values["action"] in (scaffolds if failures[asked] == 1 else tells)
                seen[values["action"]] += 1
            asked = values["subproblem"]
    assert set(seen) == scaffolds | tells


def test_a_perplexity_pair_is_one_history_with_a_scaffolding_and_a_telling_reply(rubric):
    from pedalign.core.artifacts import read_json

    pairs = read_json(ROOT / "datasets/simulated/bio-dataset-ppl.json")
    assert len(pairs) >= 200
    for pair in pairs:
        entries = pair["conversations"]
        assert [entry["from"] for entry in entries[-3:]] == ["human", "gpt", "gpt"]
        original, alternative = (rubric.parse(entry["value"]) for entry in entries[-2:])
        assert original.defect is alternative.defect is None
        assert (original.values["action"], alternative.values["action"]) in rubric.scaffold_tell
        assert original.values["evaluation"] == alternative.values["evaluation"]


def test_a_published_bank_is_read_and_its_bad_rows_are_counted(tmp_path):
    import csv
    import json

    one = {"Question": "Q?", "Answer": "Yes.", "Hint": "H.", "Incorrect Response": "No.", "Feedback": "F."}
    rows = [
        json.dumps({"Problem": "P", "SubProblems": [one, one]}),
        "{",
        json.dumps({"Problem": "P", "SubProblems": [one]}),
        json.dumps({"Problem": "P", "SubProblems": [one, {**one, "Incorrect Response": "yes"}]}),
        json.dumps({"Problem": "P", "SubProblems": [one, {**one, "Hint": ["H"]}]}),
    ]
    with (tmp_path / "bank.CSV").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([["section_name", "problems"], *[["s", row] for row in rows]])
    problems, rejected = read_problems(tmp_path / "bank.CSV")
    assert len(problems) == 1
    assert problems[0].subproblems[0].partial_response == "Yes, and no"
    assert rejected == {
        "not JSON": 1,
        "fewer than two subproblems": 1,
        "the wrong answer is the right one": 1,
        "'hint' is no text": 1,
    }


def test_a_bank_without_a_usable_problem_is_refused(tmp_path):
    (tmp_path / "bank.yaml").write_text("- {problem: x}")
    with pytest.raises(UserError, match=r"no usable problem \(fewer than two subproblems: 1\)"):
        read_problems(tmp_path / "bank.yaml")
