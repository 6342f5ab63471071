"""What the report page says in words, and the transcripts that it holds."""

import base64
import gzip
import json

import pytest

from pedalign.report import FEW, answers, changes, data, leaks, scored, turns
from pedalign.transcripts import labelled, packed, transcripts

ROW = {"model": "tiny", "seeds": "1", "data": "bio (simulated)", "conversations": "75", "replies": "525"}


def tutor(policy: str, difference: float | None = None, p: float = 1.0) -> dict[str, str]:
    """A row of summary.csv; without a difference, a fine-tuned tutor's."""
    compared = {"": difference, "_low": (difference or 0) - 0.02, "_high": (difference or 0) + 0.02}
    ends = {f"action_difference{end}": "" if difference is None else str(value) for end, value in compared.items()}
    return {
        **ROW,
        "policy": policy,
        "action_accuracy": "0.61",
        "action_p_holm": "" if difference is None else str(p),
        **ends,
    }


def test_the_answer_is_a_sentence_with_the_gain_its_interval_and_p(rubric) -> None:
    (answer,) = answers([tutor("sft"), tutor("dpo-b0.1", 0.034, 0.0004)], rubric)
    assert answer == (
        "On 525 test replies of 75 conversations, bio (simulated), the aligned tutor tiny dpo-b0.1 picks the right "
        "action in 61.0% of its replies, its fine-tuned tutor in 57.6%: +3.4 points, 95% interval +1.4 to +5.4, "
        "p < 0.001, which is significant."
    )


def test_a_gain_that_is_not_significant_is_said_to_be_none(rubric) -> None:
    (answer,) = answers([tutor("sft"), tutor("dpo-b0.1", 0.034, 0.06)], rubric)
    assert answer.endswith("p = 0.060, which is not significant.")


def test_of_many_runs_all_are_counted_and_none_is_picked(rubric) -> None:
    runs = [tutor(f"dpo-b{at}", (at - 2) / 100, 0.01 if at != 2 else 0.9) for at in range(1, 6)]
    (answer,) = answers([tutor("sft"), *runs], rubric)
    assert "3 of 5 aligned tutors pick the right action significantly more often" in answer
    assert "1 less often (p < 0.05, Holm); differences \u22121.0 to +3.0 points, the largest of tiny dpo-b5." in answer


def test_without_an_aligned_tutor_no_gain_is_told(rubric) -> None:
    assert answers([tutor("sft")], rubric)[0].endswith("no aligned tutor was measured.")


def turn(at: int, gold: str, *replies: str | None) -> dict:
    """A turn of a transcript with these actions; of a reply that can't be read, None."""
    said = [{"labels": {"action": action}, "defect": None if action else "not closed"} for action in replies]
    return {"turn": at, "gold": {"labels": {"action": gold}, "defect": None}, "replies": said}


def test_what_alignment_mended_is_told_apart_from_format_that_it_mended(rubric) -> None:
    """The first reply and one whose gold reply has a defect are not scored."""
    lost = {**turn(6, "1", "1", "2"), "gold": {"labels": {"action": "1"}, "defect": "no state"}}
    mended = [turn(1, "1", None, "1"), turn(2, "1", None, "1"), turn(3, "1", "2", "1")]
    spoiled = [turn(4, "1", "1", None), turn(5, "1", "1", "2")]
    talk = {"turns": [turn(0, "12", "12", "1"), *mended, *spoiled, lost, turn(7, "1", "1", "1")]}
    (told,) = changes(scored([talk], first_turn=False), [("tiny", "sft"), ("tiny", "dpo")], rubric)
    assert "had wrong, 3 became right" in told and "had right, 2 became wrong" in told
    assert told.endswith("valid format, these are 1 and 1.")
    assert changes(scored([talk], first_turn=False), [("tiny", "dpo")], rubric) == []


@pytest.mark.parametrize(("conversations", "minded"), [(0, False), (8, False), (9, True)])
def test_the_page_warns_where_test_problems_were_trained_on(conversations, minded) -> None:
    splits = {"leaks": {"test_shares_problem_with_sft": {"conversations": conversations, "of": 80}}}
    assert bool(leaks(splits)) == minded


def test_turns_that_are_answered_too_seldom_are_not_drawn(rubric) -> None:
    share = {"accuracy": 0.9, "accuracy_ci95": [0.8, 1.0]}
    fields = {one.key: share for one in rubric.label_fields}
    by_turn = {str(at): {"support": FEW * (4 - at) - 1, **fields} for at in range(1, 4)}
    section = turns({("tiny", "sft"): {"by_turn": by_turn}}, rubric, first_turn=False)
    assert "89 replies at turn 1, 59 at turn 2; later ones are rare" in section.text
    assert section.figures[0].described.endswith("tiny sft from 90.0% (turn 1) to 90.0% (turn 1)")
    few = {"1": {"support": 3, **fields}, "2": {"support": 1, **fields}}
    assert "3 replies at turn 1, 1 at turn 2." in turns({("tiny", "sft"): {"by_turn": few}}, rubric, True).text


def test_the_data_are_counted_from_the_files_to_the_replies_that_are_scored(rubric) -> None:
    labels = {one.key: {} for one in rubric.label_fields}
    split = {"conversations": 9, "tutor_turns": 60, "of_one_turn": 1, "problems": 4, "labels": labels}
    splits = {
        **{"method": "random", "simulated": 0, "files": [{"conversations": 12}], "splits": {"test": split}},
        **{"cut": [{}, {}], "cut_by_reason": {"unknown_label": 2}, "dropped": [{}]},
    }
    assert data(splits, {}, {}, rubric, scored=51, first_turn=False).text == (
        "Of 12 conversations in the files, 9 are in the splits, drawn by the method 'random'; left out for want "
        "of a valid first reply: 1; cut before a reply that is not valid: 2 (unknown label 2). Of the "
        "test split's 60 tutor turns 51 are scored: not conversations of a single turn (1), nor the first reply of the "
        "others, which has nothing to judge."
    )


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
