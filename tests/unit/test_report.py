"""What the report page says in words, and the transcripts that it holds."""

import base64
import gzip
import json

import pytest

from pedalign.report import answers
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
        "On 525 test replies of 75 conversations, bio (simulated), the tutor tiny dpo-b0.1 picks the right action in "
        "61.0%: +3.4 points against its fine-tuned tutor, 95% interval +1.4 to +5.4, p < 0.001."
    )


def test_a_gain_that_is_not_significant_is_said_to_be_none(rubric) -> None:
    (answer,) = answers([tutor("sft"), tutor("dpo-b0.1", 0.034, 0.06)], rubric)
    assert answer.endswith("p = 0.060: not significant.")


def test_of_many_runs_all_are_counted_and_none_is_picked(rubric) -> None:
    runs = [tutor(f"dpo-b{at}", (at - 2) / 100, 0.01 if at != 2 else 0.9) for at in range(1, 6)]
    (answer,) = answers([tutor("sft"), *runs], rubric)
    assert "3 of 5 aligned tutors pick the right action significantly more often" in answer
    assert "1 less often (p < 0.05, Holm); differences -1.0 to +3.0 points." in answer


def test_without_an_aligned_tutor_no_gain_is_told(rubric) -> None:
    assert answers([tutor("sft")], rubric)[0].endswith("no aligned tutor was measured.")


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
