"""What the report page says in words, and the transcripts that it holds."""

import base64
import gzip
import json
import re
from collections.abc import Callable

import pytest

from pedalign.reporting import charts
from pedalign.reporting.data_section import steps
from pedalign.reporting.examples import compared_pair, examples
from pedalign.reporting.report import Report, scored
from pedalign.reporting.sections import FEW, turns
from pedalign.reporting.sentences import answers, changes, leaks
from pedalign.reporting.transcripts import labelled, packed, transcripts

ROW = {"model": "tiny", "seeds": "1", "data": "bio (simulated)", "conversations": "75", "replies": "525"}


def tutor(policy: str, difference: float | None = None, p: float = 1.0, tested: bool = True) -> dict[str, str]:
    """A row of summary.csv; without a difference, a fine-tuned tutor's. Over all replies the difference is larger."""
    row = {**ROW, "policy": policy, "action_accuracy": "0.61", "valid_format": "0.992", "valid_format_p_holm": ""}
    row |= {"both_valid_replies": "", "action_both_valid_p_holm": "", "valid_format_difference": ""}
    if difference is None:
        return row
    row |= {"both_valid_replies": "1500", "valid_format_reference": "0.973"}
    for name, value in (("action_both_valid", difference), ("action", difference + 0.2), ("valid_format", 0.019)):
        ends = {"": value, "_low": value - 0.02, "_high": value + 0.02}
        row |= {f"{name}_difference{end}": str(one) for end, one in ends.items()}
    p_values = {"action_both_valid_p_holm": str(p), "valid_format_p_holm": "0.061"} if tested else {}
    return {**row, "action_both_valid_reference": "0.576", "action_both_valid_aligned": "0.61", **p_values}


@pytest.fixture
def report(rubric) -> Callable[..., Report]:
    """A report of what is given and nothing else."""
    nothing = {
        **{"rubric": rubric, "tutors": [], "rows": [], "metrics": {}, "perplexities": {}, "manifests": {}},
        **{"audits": {}, "counts": {}, "splits": {}, "asked": 0, "turns": [], "first_turn": False},
        **{"seconds": {}, "gigabytes": {}, "papers_data": False},
    }
    return lambda **given: Report(**{**nothing, **given})


def test_the_answer_is_a_sentence_with_the_gain_where_both_are_valid_its_interval_and_p_and_the_format(report) -> None:
    (answer,) = answers(report(rows=[tutor("sft"), tutor("dpo-b0.1", 0.034, 0.0004)]))
    assert answer == (
        "The aligned tutor tiny dpo-b0.1 picks the right action more often than its fine-tuned tutor: in 61.0% of its "
        "replies, against 57.6% (+3.4 points, 95% interval +1.4 to +5.4, p < 0.001, of the 1,500 replies that both "
        "tutors gave in valid format). The share in valid format is 99.2%, against 97.3% (+1.9 points, 95% interval "
        "\u22120.1 to +3.9, p = 0.061). Measured on 525 scored test replies of 75 conversations, bio (simulated)."
    )


def test_a_gain_that_is_not_significant_is_said_to_be_none(report) -> None:
    (answer,) = answers(report(rows=[tutor("sft"), tutor("dpo-b0.1", 0.034, 0.06)]))
    assert "as often as its fine-tuned tutor, as far as can be told: in" in answer and "p = 0.060" in answer
    (answer,) = answers(report(rows=[tutor("sft"), tutor("dpo-b0.1", -0.034, 0.0004)]))
    assert "picks the right action less often" in answer


def test_of_many_runs_all_are_counted_and_none_is_picked(report) -> None:
    runs = [tutor(f"dpo-b{at}", (at - 2) / 100, 0.01 if at != 2 else 0.9) for at in range(1, 6)]
    (answer,) = answers(report(rows=[tutor("sft"), *runs]))
    assert "3 of 5 aligned tutors pick the right action significantly more often" in answer
    assert (
        "1 less often, where both replies are in valid format (p < 0.05, Holm); differences \u22121.0 to +3.0" in answer
    )
    assert "points, the largest of tiny dpo-b5. Measured on" in answer
    (answer,) = answers(report(rows=[tutor("sft"), *runs, tutor("dpo-b6", 0.5, tested=False)]))
    assert "3 of 5 aligned tutors" in answer and "the largest of tiny dpo-b5. 1 of 6 are not tested" in answer


@pytest.mark.parametrize("runs", [1, 4])
def test_of_tutors_that_are_not_tested_no_gain_is_told(report, runs) -> None:
    told = " ".join(
        answers(report(rows=[tutor("sft"), *(tutor(f"dpo-b{at}", 0.5, tested=False) for at in range(runs))]))
    )
    assert "can be told" in told and "significant" not in told and "points" not in told and "p =" not in told


@pytest.mark.parametrize("runs", [1, 4])
def test_without_a_reply_that_is_valid_in_both_no_gain_is_told(report, runs) -> None:
    """As where checks: valid_format is 0, and so every tutor is tested."""
    nothing = {"action_both_valid_difference": "", "action_both_valid_p_holm": "", "both_valid_replies": "0"}
    rows = [tutor("sft"), *({**tutor(f"dpo-b{at}", 0.5), **nothing} for at in range(runs))]
    told = " ".join(answers(report(rows=rows)))
    assert "can be told" in told and "significant" not in told


def test_without_an_aligned_tutor_no_gain_is_told(report) -> None:
    assert answers(report(rows=[tutor("sft")]))[0].startswith("No aligned tutor was measured.")


def turn(at: int, gold: str, *replies: str | None) -> dict:
    """A turn of a transcript with these actions; of a reply that can't be read, None."""
    said = [{"labels": {"action": action}, "defect": None if action else "not closed"} for action in replies]
    return {"turn": at, "gold": {"labels": {"action": gold}, "defect": None}, "replies": said}


def test_what_alignment_mended_is_told_apart_from_format_that_it_mended(report) -> None:
    """The first reply and one whose gold reply has a defect are not scored."""
    lost = {**turn(6, "1", "1", "2"), "gold": {"labels": {"action": "1"}, "defect": "no state"}}
    mended = [turn(1, "1", None, "1"), turn(2, "1", None, "1"), turn(3, "1", "2", "1")]
    spoiled = [turn(4, "1", "1", None), turn(5, "1", "1", "2")]
    talk = {"id": "talk-1", "turns": [turn(0, "12", "12", "1"), *mended, *spoiled, lost, turn(7, "1", "1", "1")]}
    rows, tutors = [tutor("sft"), tutor("dpo", 0.1)], [("tiny", "sft"), ("tiny", "dpo")]
    found = {"turns": scored([talk], first_turn=False), "tutors": tutors}
    (told,) = changes(report(rows=rows, **found))
    assert "had wrong, 3 became right" in told and "had right, 2 became wrong" in told
    assert told.endswith("valid format, these are 1 and 1.")
    untested = [tutor("sft"), tutor("dpo", 0.1, tested=False)]
    assert changes(report(rows=untested, **found)) == []


@pytest.mark.parametrize(("conversations", "minded"), [(0, False), (8, False), (9, True)])
def test_the_page_warns_of_test_problems_that_were_trained_on_and_of_the_draws_warnings(conversations, minded) -> None:
    splits = {"leaks": {"test_shares_problem_with_sft": {"conversations": conversations, "of": 80}}}
    assert bool(leaks(splits)) == minded
    assert leaks({**splits, "warnings": ["few problems"]}) == [*leaks(splits), "few problems"]


def test_turns_that_are_answered_too_seldom_are_not_drawn(report, rubric) -> None:
    share = {"accuracy": 0.9, "accuracy_ci95": [0.8, 1.0]}
    fields = {one.key: share for one in rubric.label_fields}
    by_turn = {str(at): {"support": FEW * (4 - at) - 1, **fields} for at in range(1, 4)}
    section = turns(report(metrics={("tiny", "sft"): {"by_turn": by_turn}}))
    assert "89 replies at turn 1, 59 at turn 2; later ones are rare" in section.text
    assert section.figures[0].described.endswith("tiny sft from 90.0% (turn 1) to 90.0% (turn 1)")
    few = {"1": {"support": 3, **fields}, "2": {"support": 1, **fields}}
    assert "3 replies at turn 1, 1 at turn 2." in turns(report(metrics={("tiny", "sft"): {"by_turn": few}})).text


def test_the_data_are_counted_from_the_files_to_the_replies_that_are_scored(report) -> None:
    """The default run's numbers, and what each step leaves out adds up."""
    account = {
        "sft": {"conversations": 1_475, "tutor_turns": 10_700, "of_one_turn": 20},
        "dpo": {"conversations": 1_031, "tutor_turns": 7_500, "of_one_turn": 11},
        "test": {"conversations": 1_176, "tutor_turns": 8_557, "of_one_turn": 24},
    }
    dropped = [{"split": "test", "id": str(at)} for at in range(24)]
    cut = [*dropped, *({"split": "test", "id": f"cut {at}"} for at in range(130)), {"split": "sft", "id": "0"}]
    splits = {
        **{"method": "random", "splits": account, "cut": cut, "dropped": dropped},
        **{"files": [{"conversations": 1_250, "eligible": 1_240}] * 3},
        **{"wanted_per_file": {"sft": 500, "dpo": 350, "test": 400}},
    }
    _, rows = steps(report(splits=splits, asked=8_533, rows=[{"conversations": "1152", "replies": "7381"}]))
    assert rows == [
        ("in the files", "3,750", "", "3 files"),
        ("long enough", "3,720", "", "30 have two turns or fewer"),
        ("drawn", "3,706", "", "by the method 'random', from each file: sft 500, dpo 350, test 400"),
        ("the sft split", "1,475", "10,700", "1 cut before a reply that is not valid"),
        ("the dpo split", "1,031", "7,500", ""),
        ("the test split", "1,176", "8,557",
         "24 open with a reply that is not valid; 130 cut before a reply that is not valid"),
        ("test: answered", "1,152", "8,533", "24 have a single tutor turn"),
        ("test: scored", "1,152", "7,381", "the first reply of each has nothing to judge (1,152)"),
    ]  # fmt: skip
    scored_rows = [{"conversations": "1152", "replies": "8530"}]
    _, rows = steps(report(splits=splits, asked=8_533, rows=scored_rows, first_turn=True))
    assert rows[-1] == ("test: scored", "1,152", "8,530", "the gold reply is not valid (3)")


@pytest.fixture
def row(rubric) -> dict:
    gold = rubric.serialize({"evaluation": "a", "action": "1", "state": "x", "subproblem": "N/A", "tutorbot": "Why?"})
    prompt = [{"role": "user", "content": "Q. What?"}]
    return {"conversation_id": "a", "turn": 0, "prompt": prompt, "chosen": [{"role": "assistant", "content": gold}]}


def test_a_transcript_has_what_each_tutor_said_and_its_labels(row, rubric) -> None:
    gold = row["chosen"][0]["content"]
    responses = {"sft": [{"response": gold.replace('"1"', '"99"')}], "dpo": [{"response": "Sure! <b>"}]}
    (talk,) = transcripts([row], responses, rubric)
    (turn,) = talk["turns"]
    assert turn["student"] == "Q. What?" and turn["gold"]["labels"]["action"] == "1"
    other, unread = turn["replies"]
    assert other["labels"] == {"evaluation": "a", "action": None, "state": "x"} and "99" in other["defect"]
    assert unread["text"] == "Sure! <b>" and unread["defect"] and set(unread["labels"].values()) == {None}


def test_a_reply_that_is_read_is_what_it_says_to_the_student(row, rubric) -> None:
    reply = labelled(row["chosen"][0]["content"], rubric)
    assert reply["text"] == "Why?" and reply["defect"] is None


def test_what_a_page_holds_has_no_mark_of_its_own() -> None:
    held = packed({"a": "</script>"})
    assert held == packed({"a": "</script>"}) and not set(held) & set("<>&\"'")
    assert json.loads(gzip.decompress(base64.b64decode(held))) == {"a": "</script>"}


def turn_of(identity: str, gold: str, *given: str | None) -> dict:
    def reply(label: str | None) -> dict:
        defect = None if label else "'Tutorbot' is missing"
        return {"text": f"said {label}", "labels": {"evaluation": "a", "action": label, "state": "x"}, "defect": defect}

    return {"id": identity, "turn": 2, "student": "I guess", "gold": reply(gold), "replies": list(map(reply, given))}


TUTORS = [("big", "base"), ("big", "sft"), ("big", "dpo-b0.1")]


def test_the_examples_are_the_first_replies_that_alignment_corrected_spoiled_and_left_right(report) -> None:
    turns = [
        turn_of("wrong", "1", None, "2", "2"),
        turn_of("right", "3", None, "3", "3"),
        turn_of("gained", "1", None, "2", "1"),
        turn_of("gained again", "1", None, "2", "1"),
        turn_of("lost", "1", None, "1", "2"),
    ]
    found = examples(report(tutors=TUTORS, turns=turns))
    assert [(one.title, one.link) for one in found] == [
        ("Corrected by alignment", "#reply=gained:2"),
        ("Spoiled by alignment", "#reply=lost:2"),
        ("Right before and after", "#reply=right:2"),
    ]
    who = [one.who for one in found[0].said]
    assert who == ["student", "gold reply", "big base", "big sft", "big dpo-b0.1"]
    untrained, before, after = found[0].said[2:]
    assert untrained.defect and ("no valid action", False) in untrained.labels
    assert ("step in with the solution after a mistake", False) in before.labels
    assert ("point out the mistake and give a hint", True) in after.labels


def test_kinds_that_do_not_occur_leave_room_for_a_reply_that_stayed_wrong(report) -> None:
    found = examples(report(tutors=TUTORS, turns=[turn_of("wrong", "1", None, "2", "2")]))
    assert [one.title for one in found] == ["Wrong before and after"]
    assert examples(report(tutors=[("big", "sft")], turns=[turn_of("a", "1", "1")])) == []


@pytest.mark.parametrize(
    "tutors, pair",
    [
        (TUTORS, (1, 2)),
        ([("a", "sft"), ("b", "sft"), ("b", "ipo-b0.1")], (1, 2)),
        ([("a", "base"), ("a", "sft")], (0, 1)),
        ([("a", "sft")], (0, 0)),
    ],
)
def test_the_page_compares_an_aligned_tutor_with_its_own_fine_tuned_one(tutors, pair) -> None:
    assert compared_pair(tutors) == pair


@pytest.mark.parametrize("domain", [(0.9, 0.903), (0.0, 0.001), (0.5, 0.9), (0.981, 0.9812), (0, 1), (0.28, 0.33)])
def test_no_two_ticks_of_shares_have_the_same_text(domain) -> None:
    point = {"name": "a", "kind": "aligned", "value": sum(domain) / 2, "low": domain[0], "high": domain[1]}
    marks = texts(charts.intervals([point]), "%")
    assert len(marks) > 1 and len(set(marks)) == len(marks), marks


@pytest.mark.parametrize("ends", [(0.69231, 0.69315), (0.01, 3.2), (-4.1e-7, 2e-8), (1200, 1800), (0.5, 0.5)])
def test_no_two_ticks_of_a_training_curve_have_the_same_text(ends) -> None:
    curve = [{"step": at, "value": value, "kind": "train"} for at, value in enumerate(ends, start=101)]
    marks = texts(charts.lines(curve, "step"), "")
    assert len(marks) > 2 and len(set(marks)) == len(marks), marks


def test_names_of_tutors_that_differ_at_their_ends_are_shown_whole() -> None:
    names = [f"smollm2-135m dpo-b0.1-lr{rate}-ar8-gb16" for rate in ("1e-05", "1e-06")]
    points = [{"name": name, "kind": "aligned", "value": 0.5, "low": 0.4, "high": 0.6} for name in names]
    for chart in (charts.intervals(points), charts.bars(points)):
        assert {word for name in names for word in name.split()} <= set(texts(chart, ""))
    curves = [{"step": at, "value": at, "kind": name} for name in names for at in (1, 2)]
    assert set(names) <= set(texts(charts.lines(curves, "step"), ""))


def test_a_label_of_many_words_and_one_without_a_space_are_shown_beside_each_other() -> None:
    rows = [
        {"name": name, "value": 1234, "kind": kind}
        for name in ("focus", "ask a probing question", "give the answer away now", "generic")
        for kind in ("sft", "dpo")
    ]
    drawn = charts.svg(charts.bars(rows))
    assert 'opacity="0"' not in re.sub(r'(fill|stroke)-opacity="0"', "", drawn)
    assert {"focus", "give", "the answer away now", "generic"} <= set(texts(charts.bars(rows), ""))
    assert "1,234" in texts(charts.bars(rows[::2]), "")


def texts(chart, end: str) -> list[str]:
    """The texts of a drawn chart with this end; its lines one by one."""
    drawn = charts.svg(chart)
    return [text for text in re.findall(r"<(?:text|tspan)[^>]*>([^<]*)</(?:text|tspan)>", drawn) if text.endswith(end)]
