"""Figures that people will put into papers."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kstest
from sklearn.metrics import accuracy_score, f1_score

from pedalign.core.errors import UserError
from pedalign.evaluation import statistics
from pedalign.evaluation.label_metrics import accuracy, confusions, macro_f1
from pedalign.evaluation.metrics import EvaluationSettings, comparison, metrics
from pedalign.evaluation.statistics import holm, interval, permutation_p, resampled

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
    counts = confusions(gold, predicted, conversations, labels)
    assert len(counts) == len(set(conversations))
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


def test_a_95_percent_interval_covers_the_truth_in_93_to_97_of_100_sets():
    rng = np.random.default_rng(3)
    covered = 0
    for trial in range(1000):
        low, high = interval(accuracy(resampled(simulated(rng, conversations=120), 500, trial)))
        covered += low <= 0.7 <= high
    assert 930 <= covered <= 970


def test_resampling_replies_in_place_of_conversations_would_cover_too_rarely():
    rng = np.random.default_rng(3)
    covered = 0
    for _ in range(300):
        right, wrong = simulated(rng, conversations=120).sum((0, 1))
        low, high = np.quantile(rng.binomial(int(right + wrong), right / (right + wrong), size=500), [0.025, 0.975])
        covered += low <= 0.7 * (right + wrong) <= high
    assert covered < 279


def test_p_values_are_uniform_where_the_tutors_are_alike():
    rng = np.random.default_rng(4)

    # Of unequal spread, as conversations of unequal length are, and continuous: ties would make p-values too large.
    found = np.array([permutation_p(rng.normal(0, rng.uniform(0, 3, size=100)), 500, trial) for trial in range(1000)])
    found -= rng.uniform(0, 1 / 501, size=1000)  # p-values are multiples of 1/501; spread them over the gaps
    assert kstest(found, "uniform").pvalue > 0.01


@pytest.mark.parametrize("clusters", [1, 3, 40])
def test_drawing_a_part_at_a_time_draws_the_same(monkeypatch, clusters):
    counts = np.random.default_rng(6).integers(0, 9, size=(clusters, 2, 3)).astype(float)

    def drawn():
        return resampled(counts, 100, 7), permutation_p(counts[:, 0, 0] - 4, 100, 7)

    draws, p = drawn()
    for held in (1, 40 * 7, 999):
        monkeypatch.setattr(statistics, "HELD", held)
        again, p_again = drawn()
        assert (again == draws).all() and p_again == p


def test_few_conversations_give_no_too_small_p_values():
    rng = np.random.default_rng(5)
    found = [permutation_p(rng.integers(-2, 3, size=8).astype(float), 500, trial) for trial in range(1000)]
    for level in (0.01, 0.05, 0.2):
        assert np.mean(np.array(found) <= level) <= level + 0.02


def test_the_permutation_test_finds_an_effect():
    rng = np.random.default_rng(4)
    assert permutation_p(rng.normal(1, 1, size=50), 1000, 0) < 0.01


def test_holm_adjusts_as_published():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.4]) == pytest.approx([0.9, 0.8])
    assert holm([0.2]) == [0.2]


@settings(deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_never_lowers_a_p_value_nor_changes_their_order(p_values):
    adjusted = holm(p_values)
    assert all(one <= other <= 1 for one, other in zip(p_values, adjusted, strict=True))
    order = sorted(range(len(p_values)), key=lambda at: p_values[at])
    assert [adjusted[at] for at in order] == sorted(adjusted)


def rows(rubric, *answers: tuple[str, dict, str]) -> list[dict]:
    """(conversation, changes of the gold labels, response) → rows of a responses.csv."""
    turns: dict[str, int] = {}
    made = []
    for conversation, gold, response in answers:
        turn = turns[conversation] = turns.get(conversation, -1) + 1
        gpt = rubric.serialize({**VALUES, **gold})
        row = {"conversation_id": conversation, "turn": str(turn), "response": response, "gpt": gpt}
        made.append({**row, "response_tokens": str(len(response) // 4), "finish_reason": "stop"})
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
    assert report["difference_ci95"][0] >= 0.4
    assert report["p_value"] < 0.05


def test_results_are_told_by_the_number_of_turns_before(rubric):
    right, wrong = rubric.serialize(VALUES), rubric.serialize({**VALUES, "action": "2"})
    talks = [(str(talk), {}, answer) for talk in range(4) for answer in ("hm", right, wrong)]
    without = EvaluationSettings(first_turn=False, resamples=200, seed=1)
    report = metrics(rows(rubric, *talks, ("3", {}, right)), rubric, without)["by_turn"]
    assert {turn: one["support"] for turn, one in report.items()} == {"1": 4, "2": 4, "3": 1}
    assert [report[turn]["action"]["accuracy"] for turn in "123"] == [1, 0, 1]
    assert report["2"]["action"]["accuracy_ci95"] == [0, 0]


CUT = '{"Evaluation of Student Response": "a", "Action Based on Evaluation": "1", "Subproblem State": "x'


def test_labels_before_a_cut_are_scored_and_the_forms_of_replies_are_counted(rubric):
    right = rubric.serialize(VALUES)
    closed = '{"Evaluation of Student Response": "a"}'
    answers = [right, right, CUT, '{"Evaluation of', closed, "hm", right.replace('"1"', '"99"')]
    report = metrics(rows(rubric, *(("1", {}, answer) for answer in answers)), rubric, SETTINGS)
    forms = {"valid": 2, "cut_off_with_labels": 1, "cut_off_without_labels": 1, "otherwise_defective": 3}
    assert report["reply_forms"] == forms
    shares = {field: round(7 * report[field]["accuracy"]) for field in ("evaluation", "action", "state")}
    assert shares == {"evaluation": 5, "action": 3, "state": 3}  # the state, "x, may be any text that begins so


def test_replies_that_end_at_max_new_tokens_are_counted_over_all_of_them(rubric):
    """Those that are not scored too."""
    made = rows(rubric, *[("1", {}, "hm")] * 3, ("2", {}, rubric.serialize(VALUES)))
    for row in made[:2]:
        row |= {"finish_reason": "length", "response_tokens": "40"}
    without = EvaluationSettings(first_turn=False, resamples=200, seed=1)
    ended = metrics(made, rubric, without)["ended_at_max_new_tokens"]
    assert ended == {"replies": 2, "of": 4, "share": 0.5, "max_new_tokens": 40}
    none = metrics(made[2:], rubric, SETTINGS)["ended_at_max_new_tokens"]
    assert (none["replies"], none["max_new_tokens"]) == (0, None)


def test_a_tutor_that_learned_the_format_alone_gains_over_all_replies_and_not_where_both_are_valid(rubric):
    right, wrong = rubric.serialize(VALUES), rubric.serialize({**VALUES, "action": "2"})
    before = [(str(at), {}, answer) for at in range(30) for answer in ("hm", right, wrong)]
    after = [(str(at), {}, answer) for at in range(30) for answer in (right, right, wrong)]
    report = comparison(rows(rubric, *before), rows(rubric, *after), rubric, SETTINGS)
    action = report["action"]
    assert action["difference"] == pytest.approx(1 / 3, abs=1e-6) and action["p_value"] < 0.01
    assert (action["mended"], action["spoiled"]) == (30, 0)
    both = action["both_valid"]
    assert (both["difference"], both["difference_ci95"], both["p_value"]) == (0, [0, 0], 1)
    assert (both["reference"], both["aligned"], both["mended"]) == (0.5, 0.5, 0)
    assert report["both_valid"] == {"n_rows": 60, "n_conversations": 30}
    valid = report["valid_format"]
    assert valid["difference"] == pytest.approx(1 / 3, abs=1e-6) and valid["p_value"] < 0.01
    assert valid["difference_ci95"] == pytest.approx([1 / 3, 1 / 3], abs=1e-6)


def test_replies_valid_in_both_are_compared_as_if_they_were_all(rubric):
    """Its own intervals and tests: those of a comparison of these rows alone."""
    rng = np.random.default_rng(2)

    def some():
        labels = [rubric.serialize({**VALUES, "action": str(action)}) for action in rng.integers(1, 4, size=80)]
        return [(str(at // 4), {}, "hm" if rng.random() < 0.2 else label) for at, label in enumerate(labels)]

    before, after = rows(rubric, *some()), rows(rubric, *some())
    both = [at for at in range(80) if "hm" not in (before[at]["response"], after[at]["response"])]
    alone = comparison([before[at] for at in both], [after[at] for at in both], rubric, SETTINGS)
    report = comparison(before, after, rubric, SETTINGS)
    assert report["action"]["both_valid"] == alone["action"]["both_valid"]
    assert alone["action"] == {**alone["action"]["both_valid"], "both_valid": alone["action"]["both_valid"]}
    assert report["action"]["difference"] != alone["action"]["difference"]


def test_without_a_row_that_is_valid_in_both_its_figures_are_null(rubric):
    right = rubric.serialize(VALUES)
    before, after = rows(rubric, ("1", {}, "hm"), ("1", {}, right)), rows(rubric, ("1", {}, right), ("1", {}, "hm"))
    report = comparison(before, after, rubric, SETTINGS)
    assert report["both_valid"] == {"n_rows": 0, "n_conversations": 0}
    both = report["action"]["both_valid"]
    assert (both.pop("mended"), both.pop("spoiled")) == (0, 0) and set(both.values()) == {None}
    assert report["action"]["mended"] == 1
