"""The table that a run ends with."""

import csv
import io
import statistics

import pytest

from pedalign.reporting.summary import summary_rows, tutor_marks
from pedalign.reporting.table import table
from pedalign.training.health_checks import unlearned

FIELDS = ("evaluation", "action", "state")


def measured(accuracy: float) -> dict:
    one = {"accuracy": accuracy, "accuracy_ci95": [accuracy - 0.02, accuracy + 0.02], "macro_f1": accuracy}
    baseline = dict.fromkeys(FIELDS, 0.3)
    counts = {"valid_format": 0.99, "n_rows": 500, "n_conversations": 70, "majority_baseline": baseline}
    counts["ended_at_max_new_tokens"] = {"replies": 2, "of": 570, "share": 0.003509, "max_new_tokens": 160}
    return {**dict.fromkeys(FIELDS, one), **counts}


def difference(value: float, p_value: float, reference: float = 0.8) -> dict:
    ends = {"difference": value, "difference_ci95": [value - 0.01, value + 0.01]}
    return {"reference": reference, "aligned": reference + value, **ends, "p_value": p_value}


def compared(value: float, p_value: float, valid: float = 0.98, over_all: float = 0.5) -> dict:
    """Over all replies another difference than over those that are valid in both tutors."""
    one = {**difference(over_all, 0.0005), "both_valid": difference(value, p_value)}
    both = {"n_rows": 480, "n_conversations": 69}
    return {**dict.fromkeys(FIELDS, one), "both_valid": both, "valid_format": difference(0.01, 0.04, valid)}


@pytest.fixture
def written(rubric):
    def write(
        metrics: dict, comparisons: dict, perplexities: dict | None = None, marks: dict | None = None
    ) -> list[dict[str, str]]:
        told = (rubric, "bio (simulated)", marks or {}, 0.9)
        header, rows = summary_rows(metrics, comparisons, perplexities or {}, {key: {} for key in metrics}, *told)
        file = io.StringIO()
        csv.writer(file).writerows([header, *rows])
        return list(csv.DictReader(io.StringIO(file.getvalue())))

    return write


SFT = ("tiny", "sft")
METRICS = {SFT: measured(0.8), ("tiny", "dpo-b0.1"): measured(0.82)}
COMPARISONS = {("tiny", "dpo-b0.1"): compared(0.02, 0.01)}


def test_one_run_needs_no_adjustment(written):
    rows = written(METRICS, COMPARISONS)
    assert [row["policy"] for row in rows] == ["sft", "dpo-b0.1"]
    assert rows[1]["action_both_valid_p_value"] == rows[1]["action_both_valid_p_holm"] == "0.01"
    text = table(rows)
    assert "80.0 [78.0, 82.0]" in text
    assert "+2.0 [+1.0, +3.0] p=0.010" in text
    assert "Holm" not in text and "(simulated)" in text


def test_p_values_of_a_sweep_are_adjusted_for_its_number_of_runs(written):
    metrics = {**METRICS, ("tiny", "ipo-b0.1"): measured(0.81), ("tiny", "kto-b0.1"): measured(0.8)}
    comparisons = {**COMPARISONS, ("tiny", "ipo-b0.1"): compared(0.01, 0.03), ("tiny", "kto-b0.1"): compared(0, 0.9)}
    rows = written(metrics, comparisons)
    assert [float(row["action_both_valid_p_holm"]) for row in rows[1:]] == pytest.approx([0.03, 0.06, 0.9])
    assert "adjusted for the 3 aligned tutors" in table(rows)
    assert "p=0.060" in table(rows)


def test_runs_that_differ_in_the_seed_alone_are_averaged(written):
    accuracies = {"dpo-b0.1": 0.82, "dpo-b0.1-s1": 0.84, "dpo-b0.1-s2": 0.83, "dpo-b0.2-s1": 0.9}
    metrics = {SFT: measured(0.8), **{("tiny", policy): measured(value) for policy, value in accuracies.items()}}
    comparisons = {("tiny", policy): compared(value - 0.8, 0.01) for policy, value in accuracies.items()}
    rows = written(metrics, comparisons)
    assert [row["policy"] for row in rows] == ["sft", *accuracies, "dpo-b0.1 (mean)"]
    mean = rows[-1]
    assert mean["seeds"] == "3" and {row["seeds"] for row in rows[:-1]} == {"1"}
    assert float(mean["action_accuracy"]) == pytest.approx(0.83)
    for name in ("action_both_valid_difference", "action_difference"):
        values = [0.5] * 3 if name == "action_difference" else [0.02, 0.04, 0.03]
        assert float(mean[name]) == pytest.approx(statistics.mean(values))
        assert float(mean[f"{name}_sd"]) == pytest.approx(statistics.stdev(values), abs=1e-6)
    assert mean["action_p_value"] == mean["action_both_valid_p_value"] == mean["action_accuracy_low"] == ""
    assert "83.0 ± 1.0" in table(rows) and "+3.0 ± 1.0" in table(rows)


def test_labels_are_told_over_replies_valid_in_both_and_the_change_in_format_over_all(written):
    lines = table(written(METRICS, COMPARISONS)).splitlines()
    at = next(number for number, line in enumerate(lines) if line.startswith("tiny dpo-b0.1"))
    assert " ".join(lines[at + 1].split()) == "macro-F1 82.0 82.0 82.0"
    assert " ".join(lines[at + 2].split()) == "both valid (480)" + " +2.0 [+1.0, +3.0] p=0.010" * 3
    assert " ".join(lines[at + 3].split()) == ("all replies +1.0 [+0.0, +2.0] p=0.040" + " +50.0 [+49.0, +51.0]" * 3)


@pytest.mark.parametrize("seeds", [1, 2])
def test_a_tutor_of_which_too_few_replies_are_valid_is_not_tested(written, seeds):
    """No p-value, no interval and no gain over all replies; and Holm's method does not count it."""
    poor = {("tiny", f"ipo-b0.1{'-s' * bool(at)}{at or ''}"): at for at in range(seeds)}
    metrics = {**METRICS, **{key: measured(0.82) for key in poor}}
    comparisons = {**COMPARISONS, **{key: compared(0.3, 0.0005, valid=0.4) for key in poor}}
    rows = written(metrics, comparisons)
    assert float(rows[1]["action_both_valid_p_holm"]) == 0.01
    for row in rows[2:]:
        assert all(value == "" for name, value in row.items() if "p_value" in name or "p_holm" in name)
    lines = table(rows).splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith("tiny ipo-b0.1"))
    told = " ".join(lines[first:])
    assert "p<" not in told and "p=" not in told and "+50.0" not in told and "±" not in told.partition("both")[2][:90]
    assert "+30.0, not tested" in told and "[+29.0" not in told


def test_without_a_reply_that_is_valid_in_both_no_difference_is_told(written):
    nothing = {**dict.fromkeys(("reference", "aligned", "difference", "difference_ci95", "p_value"))}
    comparison = compared(0.1, 0.01, valid=0.0)
    fields = {field: {**comparison[field], "both_valid": nothing} for field in FIELDS}
    comparison |= {**fields, "both_valid": {"n_rows": 0, "n_conversations": 0}}
    rows = written(METRICS, {("tiny", "dpo-b0.1"): comparison})
    assert rows[1]["action_both_valid_difference"] == ""
    assert "both valid (0) none none none all replies +1.0, not tested" in " ".join(table(rows).split())


def test_the_perplexity_is_shown_or_said_to_be_skipped(written):
    def likelier(share: float) -> dict:
        groups = {"1+4": {"perplexity": 1.25}, "2+5": {"perplexity": 1.5}}
        one = {"share": share, "share_ci95": [share - 0.05, share + 0.05]}
        return {"pairs": 240, "groups": groups, "scaffold_likelier": {"per_token": one}}

    assert "skipped, the data has no file of such pairs" in table(written(METRICS, COMPARISONS))
    metrics = {**METRICS, ("tiny", "dpo-b0.1-s1"): measured(0.84)}
    comparisons = {**COMPARISONS, ("tiny", "dpo-b0.1-s1"): compared(0.04, 0.01)}
    shares = dict(zip(metrics, (0.6, 0.7, 0.8), strict=True))
    rows = written(metrics, comparisons, {key: likelier(share) for key, share in shares.items()})
    assert [float(row["scaffold_likelier"]) for row in rows] == pytest.approx([0.6, 0.7, 0.8, 0.75])
    text = " ".join(table(rows).split())
    assert "240 pairs" in text and "skipped" not in text
    for line in ("tiny sft 1.250 1.500 60.0 [55.0, 65.0]", "dpo-b0.1 (mean) 1.250 1.500 75.0"):
        assert line in text


def steps(**figures: list[float]) -> list[dict[str, float]]:
    names = {name.replace("_", "/"): values for name, values in figures.items()}
    return [dict(zip(names, values, strict=True)) for values in zip(*names.values(), strict=True)]


@pytest.mark.parametrize(
    ("history", "found"),
    [
        (steps(loss=[2, 1.5, 1.6, 1]), []),
        (steps(loss=[2, 1, 1, 2.1]), ["the loss did not fall (2.0000 at first, 2.1000 at last)"]),
        (steps(loss=[0.6931471, 0.6931470]), ["the loss did not fall (0.6931 at first, 0.6931 at last)"]),
        (steps(loss=[0.7, 0.6], rewards_margins=[0, 0.4]), []),
        (
            steps(loss=[0.7, 0.6], rewards_margins=[0.1, 0.1]),
            ["the margin did not rise (0.1000 at first, 0.1000 at last)"],
        ),
        (steps(loss=[2]), []),
        ([], []),
    ],
)
def test_a_training_that_did_not_learn_is_told_by_its_steps(history, found):
    assert unlearned(history) == found


def test_what_went_wrong_with_a_tutor_stands_in_the_table(written, rubric):
    manifests = {SFT: {"history": steps(loss=[2, 1])}, ("tiny", "dpo-b0.1"): {"history": steps(loss=[1, 1])}}
    assert tutor_marks(METRICS, {**manifests, ("tiny", "dpo-b0.1"): {}}, {}, rubric, 0.9) == {}
    marks = tutor_marks(METRICS, manifests, {}, rubric, 0.995)
    rows = written(METRICS, COMPARISONS, marks=marks)
    assert "MARKED: tiny sft: 99.0% of its replies are in valid format" in table(rows)
    assert "MARKED: tiny dpo-b0.1: the loss did not fall (1.0000 at first, 1.0000 at last); 99.0%" in table(rows)
    assert "MARKED" not in table(written(METRICS, COMPARISONS))


def test_replies_that_end_at_max_new_tokens_are_told_with_the_number_to_set(rubric):
    """The audit has it, of a model that was fine-tuned here."""

    def marked(replies: int, audits: dict) -> dict:
        ended = {"replies": replies, "of": 504, "share": replies / 504, "max_new_tokens": 40}
        return tutor_marks({SFT: {**measured(0.8), "ended_at_max_new_tokens": ended}}, {SFT: {}}, audits, rubric, 0.9)

    audits = {"tiny": {"gold_replies": {"longest": 118}}}
    assert marked(5, audits) == {}
    assert marked(501, {}) == {SFT: "501 of 504 replies end at max_new_tokens 40"}
    assert marked(501, audits) == {
        SFT: "501 of 504 replies end at max_new_tokens 40, and the longest gold reply has 118: "
        "set generate: max_new_tokens to 118 or more"
    }


@pytest.mark.parametrize(
    ("accuracy", "told"),
    [(0.33, None), (0.31, "not shown to be over"), (0.29, "not shown to be over"), (0.25, "under")],
)
def test_a_tutor_that_is_no_better_than_always_the_commonest_label_is_marked(rubric, accuracy, told):
    """Its interval (2 points to either side) has to lie over that label's share, 30%."""
    marks = tutor_marks({SFT: measured(accuracy)}, {SFT: {}}, {}, rubric, 0.9)
    what = f"{accuracy:.1%}, {told} the commonest label's share of 30.0%"
    assert marks == ({SFT: "; ".join(f"{field} right in {what}" for field in FIELDS)} if told else {})
