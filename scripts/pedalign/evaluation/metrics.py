"""Scores how well a tutor judges and acts: its labels against the gold ones, and one tutor against another."""

import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.metrics import accuracy_score, f1_score, precision_recall_fscore_support

from pedalign.core.errors import UserError
from pedalign.data.rubric import Field, Rubric
from pedalign.evaluation.label_metrics import METRICS, accuracy, confusions
from pedalign.evaluation.paper_scores import NOTES, paper_scores
from pedalign.evaluation.statistics import Array, interval, permutation_p, resampled


@dataclass(frozen=True)
class EvaluationSettings:
    """`first_turn`: also score the first reply of each conversation, where there is nothing to judge yet. `resamples`:
    draws of the bootstrap and of the permutation test."""

    first_turn: bool
    resamples: int
    seed: int


@dataclass(frozen=True)
class Scored:
    """Rows of a responses.csv as labels: key of a label field → gold labels, and predicted ones.

    A reply without a valid label in a field has "" there, which is always wrong. `cut`: the reply's mapping is not
    closed; the labels before its end are still read.
    """

    conversations: list[str]
    turns: list[int]
    valid: list[bool]
    cut: list[bool]
    gold: dict[str, list[str]]
    predicted: dict[str, list[str]]

    def only(self, keep: Sequence[bool]) -> "Scored":
        """The rows for which `keep` is true."""

        def kept(values: list[Any]) -> list[Any]:
            return [value for value, here in zip(values, keep, strict=True) if here]

        labels = ({key: kept(values) for key, values in of.items()} for of in (self.gold, self.predicted))
        return Scored(kept(self.conversations), kept(self.turns), kept(self.valid), kept(self.cut), *labels)


def read_labels(responses: Iterable[dict[str, str]], rubric: Rubric, first_turn: bool) -> Scored:
    """Parse gold replies and responses; rows whose gold reply has a defect are left out.

    Raises UserError if nothing is left to score.
    """
    keys = [field.key for field in rubric.label_fields]
    scored = Scored([], [], [], [], {key: [] for key in keys}, {key: [] for key in keys})
    for row in responses:
        gold = rubric.parse(row["gpt"])
        if gold.defect or (row["turn"] == "0" and not first_turn):
            continue
        reply = rubric.parse(row["response"])
        scored.conversations.append(sys.intern(row["conversation_id"]))
        scored.turns.append(int(row["turn"]))
        scored.valid.append(reply.defect is None)
        scored.cut.append(reply.cut)
        for field in rubric.label_fields:
            value = reply.values.get(field.key, "")
            scored.gold[field.key].append(sys.intern(gold.values[field.key]))
            scored.predicted[field.key].append(sys.intern(value) if value in field.labels else "")
    if not scored.turns:
        raise UserError("responses.csv has no row to score", "draw more test conversations ('split' in config.yaml)")
    return scored


def metrics(responses: Iterable[dict[str, str]], rubric: Rubric, settings: EvaluationSettings) -> dict[str, Any]:
    """metrics.json: for each label field the metrics with 95% intervals, the paper's figures, and figures per label.

    `majority_baseline`: accuracy of always giving the most frequent gold label. `reply_forms`: the scored replies by
    what could be read of them. `ended_at_max_new_tokens`: of all replies, scored or not.
    """
    scored = read_labels(responses, rubric, settings.first_turn)
    published = paper_scores(responses, rubric, settings.first_turn)
    report: dict[str, Any] = {}
    majority = {}
    for field in rubric.label_fields:
        gold, predicted = scored.gold[field.key], scored.predicted[field.key]
        labels = [label for label in field.labels if label in set(gold)]
        counts = confusions(gold, predicted, scored.conversations, labels)
        draws = resampled(counts, settings.resamples, settings.seed)
        precision, recall, f1, support = precision_recall_fscore_support(
            gold, predicted, labels=labels, average=None, zero_division=0
        )
        measured = _measured(counts.sum(0), draws)
        _expect(measured, "accuracy", accuracy_score(gold, predicted))
        _expect(measured, "macro_f1", f1_score(gold, predicted, labels=labels, average="macro", zero_division=0))
        report[field.key] = {
            **measured,
            **published[field.key],
            "support": len(gold),
            "per_label": {
                label: {
                    "precision": _rounded(precision[at]),
                    "recall": _rounded(recall[at]),
                    "f1": _rounded(f1[at]),
                    "support": int(support[at]),
                }
                for at, label in enumerate(labels)
            },
        }
        majority[field.key] = _rounded(Counter(gold).most_common(1)[0][1] / len(gold))
    return {
        **report,
        "valid_format": _rounded(np.mean(scored.valid)),
        "reply_forms": _reply_forms(scored),
        "ended_at_max_new_tokens": _ended_at_max_new_tokens(responses),
        "n_rows": len(scored.turns),
        "n_conversations": len(set(scored.conversations)),
        "majority_baseline": majority,
        "by_turn": _by_turn(scored, rubric, settings),
        "notes": NOTES,
    }


def _measured(whole: Array, draws: Array) -> dict[str, Any]:
    """Every metric of counts (labels, labels + 1), with its interval from `draws` of the counts (resamples, ...)."""
    found: dict[str, Any] = {}
    for name, metric in METRICS.items():
        found |= {name: _rounded(metric(whole)), f"{name}_ci95": interval(metric(draws))}
    return found


def _expect(measured: Mapping[str, Any], name: str, plain: float) -> None:
    """Check a metric against scikit-learn's, each time it is computed."""
    if abs(measured[name] - plain) > 1e-6:
        raise AssertionError(f"{name} is {measured[name]}, scikit-learn's is {plain}")


def _reply_forms(scored: Scored) -> dict[str, int]:
    """How many replies are valid, cut off with at least one label, cut off without a label, and otherwise defective."""
    labelled = [any(labels) for labels in zip(*scored.predicted.values(), strict=True)]
    found = Counter(zip(scored.valid, scored.cut, labelled, strict=True))
    cut = {here: sum(n for (_, cut, labels), n in found.items() if cut and labels == here) for here in (True, False)}
    valid = sum(scored.valid)
    return {
        "valid": valid,
        "cut_off_with_labels": cut[True],
        "cut_off_without_labels": cut[False],
        "otherwise_defective": len(scored.valid) - valid - sum(cut.values()),
    }


def _ended_at_max_new_tokens(responses: Iterable[dict[str, str]]) -> dict[str, Any]:
    """How many of all replies were cut at `max_new_tokens`. The limit is read from their length; None without any."""
    replies, lengths = 0, []
    for row in responses:
        replies += 1
        if row["finish_reason"] == "length":
            lengths.append(int(row["response_tokens"]))
    share = _rounded(len(lengths) / replies)
    return {"replies": len(lengths), "of": replies, "share": share, "max_new_tokens": max(lengths, default=None)}


def _by_turn(scored: Scored, rubric: Rubric, settings: EvaluationSettings) -> dict[str, dict[str, Any]]:
    """Accuracy by the number of tutor turns before a reply."""
    turns = sorted(set(scored.turns))
    report: dict[str, dict[str, Any]] = {str(turn): {"support": scored.turns.count(turn)} for turn in turns}
    for field in rubric.label_fields:
        counts = _right_by_turn(scored, field.key, turns)
        values, draws = _shares(counts.sum(0)), _shares(resampled(counts, settings.resamples, settings.seed))
        for at, turn in enumerate(turns):
            found = {"accuracy": _rounded(values[at]), "accuracy_ci95": interval(draws[:, at])}
            report[str(turn)][field.key] = found
    return report


def _right_by_turn(scored: Scored, key: str, turns: Sequence[int]) -> Array:
    """Counts (conversations, turns, 2): right replies, and all replies."""
    rows = {identity: at for at, identity in enumerate(dict.fromkeys(scored.conversations))}
    columns = {turn: at for at, turn in enumerate(turns)}
    counts = np.zeros((len(rows), len(columns), 2))
    for identity, turn, gold, predicted in zip(
        scored.conversations, scored.turns, scored.gold[key], scored.predicted[key], strict=True
    ):
        counts[rows[identity], columns[turn]] += (gold == predicted, 1)
    return counts


def _shares(counts: Array) -> Array:
    """Right replies over all replies, for counts (..., 2); nan if there are none."""
    with np.errstate(invalid="ignore"):
        return counts[..., 0] / counts[..., 1]


def comparison(
    reference: Iterable[dict[str, str]],
    aligned: Iterable[dict[str, str]],
    rubric: Rubric,
    settings: EvaluationSettings,
) -> dict[str, Any]:
    """comparison.json: paired differences, aligned minus reference, on the same rows, by label field.

    Each is over all replies and, as `both_valid`, over the rows where both replies are in valid format: a tutor that
    learns the format gains labels over all replies without judging any better. `valid_format`: the change of that share
    itself. If no row is valid in both, figures that need one are None.
    """
    one = read_labels(reference, rubric, settings.first_turn)
    other = read_labels(aligned, rubric, settings.first_turn)
    both = [was and now for was, now in zip(one.valid, other.valid, strict=True)]
    read, read_again = one.only(both), other.only(both)
    report: dict[str, Any] = {}
    for field in rubric.label_fields:
        report[field.key] = {
            **_paired(one, other, field, settings),
            "both_valid": _paired(read, read_again, field, settings),
        }
    report["valid_format"] = _valid_format(one, other, settings)
    report["both_valid"] = {"n_rows": len(read.turns), "n_conversations": len(set(read.conversations))}
    return {**report, "n_rows": len(one.turns), "n_conversations": len(set(one.conversations))}


def _paired(one: Scored, other: Scored, field: Field, settings: EvaluationSettings) -> dict[str, Any]:
    """The difference of two tutors on the same rows.

    `p_value`: of a permutation test over conversations, for the difference of accuracies. `mended`, `spoiled`: number
    of replies that only the aligned tutor, or only the reference, has right.
    """
    if not one.turns:
        return {**dict.fromkeys(_COMPARED), "mended": 0, "spoiled": 0}
    gold = one.gold[field.key]
    labels = [label for label in field.labels if label in set(gold)]
    before = confusions(gold, one.predicted[field.key], one.conversations, labels)
    after = confusions(gold, other.predicted[field.key], one.conversations, labels)
    draws_before = resampled(before, settings.resamples, settings.seed)
    draws_after = resampled(after, settings.resamples, settings.seed)
    right = np.trace((after - before)[..., :-1], axis1=-2, axis2=-1)
    was = np.array(one.predicted[field.key]) == np.array(gold)
    now = np.array(other.predicted[field.key]) == np.array(gold)
    mended, spoiled = int((now & ~was).sum()), int((was & ~now).sum())
    found: dict[str, Any] = {
        "reference": _rounded(accuracy(before.sum(0))),
        "aligned": _rounded(accuracy(after.sum(0))),
        "p_value": _rounded(permutation_p(right, settings.resamples, settings.seed)),
    }
    for name, metric in METRICS.items():
        difference = _difference_of(name)
        found[difference] = _rounded(metric(after.sum(0)) - metric(before.sum(0)))
        found[f"{difference}_ci95"] = interval(metric(draws_after) - metric(draws_before))
    return {**{name: found[name] for name in _COMPARED}, "mended": mended, "spoiled": spoiled}


def _difference_of(metric: str) -> str:
    """The key of a metric's difference in comparison.json."""
    return "difference" if metric == "accuracy" else f"{metric}_difference"


_COMPARED = (
    *("reference", "aligned", "difference", "difference_ci95", "p_value"),
    *(f"{_difference_of(name)}{end}" for name in METRICS if name != "accuracy" for end in ("", "_ci95")),
)


def _valid_format(one: Scored, other: Scored, settings: EvaluationSettings) -> dict[str, Any]:
    """The change in the share of replies in valid format, with the same interval and test."""
    order = {identity: at for at, identity in enumerate(dict.fromkeys(one.conversations))}
    counts = np.zeros((len(order), 3))  # valid before, valid after, all replies
    for identity, was, now in zip(one.conversations, one.valid, other.valid, strict=True):
        counts[order[identity]] += (was, now, 1)
    draws, whole = resampled(counts, settings.resamples, settings.seed), counts.sum(0)
    return {
        "reference": _rounded(whole[0] / whole[2]),
        "aligned": _rounded(whole[1] / whole[2]),
        "difference": _rounded((whole[1] - whole[0]) / whole[2]),
        "difference_ci95": interval((draws[:, 1] - draws[:, 0]) / draws[:, 2]),
        "p_value": _rounded(permutation_p(counts[:, 1] - counts[:, 0], settings.resamples, settings.seed)),
    }


def _rounded(value: Any) -> float:
    return round(float(value), 6)
