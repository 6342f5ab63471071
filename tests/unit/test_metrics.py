"""Figures that people will put into papers."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, f1_score

from pedalign.errors import UserError
from pedalign.metrics import EvaluationSettings, comparison, metrics
from pedalign.statistics import accuracy, confusions, interval, macro_f1, permutation_p, resampled

VALUES = {"evaluation": "a", "action": "1", "state": "x", "subproblem": "Why?", "tutorbot": "Look again."}
SETTINGS = EvaluationSettings(first_turn=True, resamples=200, seed=1)
ROWS = st.lists(
    st.tuples(st.sampled_from("abc"), st.sampled_from(["a", "b", "c", "d", ""]), st.sampled_from("12345")), min_size=1
)


@settings(deadline=None)
@given(rows=ROWS)
def test_accuracy_and_macro_f1_from_counts_are_scikit_learns(rows):
    gold, predicted, conversations = (list(column) for column in zip(*rows, strict=True))
    labels = sorted(set(gold))
    counts, order = confusions(gold, predicted, conversations, labels)
    assert len(order) == len(set(conversations))
    whole = counts.sum(0)
    assert accuracy(whole) == pytest.approx(accuracy_score(gold, predicted))
    expected = f1_score(gold, predicted, labels=labels, average="macro", zero_division=0)
    assert macro_f1(whole) == pytest.approx(expected)


def simulated(rng, conversations=60, accuracy_mean=0.7):
    """Counts (conversations, 1, 2) of right and wrong replies that agree within a conversation."""
    share = rng.beta(7, 3, size=conversations) * accuracy_mean / 0.7
    turns = rng.integers(2, 10, size=conversations)
    right = rng.binomial(turns, share)
    return np.stack([right, turns - right], axis=-1)[:, None, :].astype(float)


def test_a_95_percent_interval_covers_the_truth_about_that_often():
    rng = np.random.default_rng(3)
    covered = 0
    for trial in range(300):
        low, high = interval(accuracy(resampled(simulated(rng), 400, trial)))
        covered += low <= 0.7 <= high
    assert 0.90 <= covered / 300 <= 0.98


def test_the_permutation_test_is_uniform_without_and_small_with_an_effect():
    rng = np.random.default_rng(4)
    null = [permutation_p(rng.normal(size=50).round(1), 200, trial) for trial in range(300)]
    assert 0.02 <= np.mean(np.array(null) <= 0.05) <= 0.09
    assert 0.4 <= np.mean(null) <= 0.6
    assert permutation_p(rng.normal(1, 1, size=50), 1000, 0) < 0.01


def rows(rubric, *answers: tuple[str, dict, str]) -> list[dict]:
    """(conversation, changes of the gold labels, response) → rows of a responses.csv."""
    turns: dict[str, int] = {}
    made = []
    for conversation, gold, response in answers:
        turn = turns[conversation] = turns.get(conversation, -1) + 1
        gpt = rubric.serialize({**VALUES, **gold})
        made.append({"conversation_id": conversation, "turn": str(turn), "response": response, "gpt": gpt})
    return made


def test_replies_that_cannot_be_read_count_as_wrong(rubric):
    right = rubric.serialize(VALUES)
    report = metrics(
        rows(rubric, ("1", {}, right), ("1", {}, "hm"), ("2", {}, right), ("2", {}, "{")), rubric, SETTINGS
    )
    assert report["valid_format"] == 0.5
    assert report["evaluation"]["accuracy"] == report["action"]["accuracy"] == 0.5
    assert (report["n_rows"], report["n_conversations"]) == (4, 2)
    assert report["majority_baseline"] == {"evaluation": 1.0, "action": 1.0, "state": 1.0}


def test_a_label_that_can_be_read_counts_even_if_another_field_is_broken(rubric):
    broken = '{"Evaluation of Student Response": "a", "Action Based on Evaluation": "99"}'
    report = metrics(rows(rubric, ("1", {}, broken)), rubric, SETTINGS)
    assert report["evaluation"]["accuracy"] == 1
    assert report["action"]["accuracy"] == 0


def test_first_turns_count_only_if_asked_for(rubric):
    right = rubric.serialize(VALUES)
    given_rows = rows(rubric, ("1", {}, "hm"), ("1", {}, right))
    without = EvaluationSettings(first_turn=False, resamples=200, seed=1)
    assert metrics(given_rows, rubric, without)["n_rows"] == 1
    assert metrics(given_rows, rubric, without)["valid_format"] == 1
    with pytest.raises(UserError, match="no row to score"):
        metrics(given_rows[:1], rubric, without)


def test_a_tutor_compared_with_itself_gains_nothing(rubric):
    right = rubric.serialize(VALUES)
    same = rows(rubric, ("1", {}, right), ("1", {}, "hm"), ("2", {}, right))
    report = comparison(same, same, rubric, SETTINGS)
    for field in ("evaluation", "action", "state"):
        assert report[field]["difference"] == 0
        assert report[field]["difference_ci95"] == [0, 0]
        assert report[field]["p_value"] == 1


def test_a_gain_is_counted_reply_by_reply(rubric):
    right = rubric.serialize(VALUES)
    wrong = rubric.serialize({**VALUES, "action": "2"})
    before = rows(rubric, *[(str(at), {}, wrong) for at in range(20)], *[(str(at), {}, right) for at in range(20)])
    after = rows(
        rubric,
        *[(str(at), {}, right) for at in range(20)],
        *[(str(at), {}, right) for at in range(19)],
        ("19", {}, wrong),
    )
    report = comparison(before, after, rubric, SETTINGS)["action"]
    assert (report["mended"], report["spoiled"]) == (20, 1)
    assert report["difference"] == pytest.approx(19 / 40)
    assert report["difference_ci95"][0] > 0.4
    assert report["p_value"] < 0.05


def test_tutors_that_answered_different_rows_are_not_compared(rubric):
    one = rows(rubric, ("1", {}, "x"), ("2", {}, "x"))
    with pytest.raises(UserError, match="different rows"):
        comparison(one, one[:1], rubric, SETTINGS)
