"""Registry of the metrics of a field's labels: each is a function of the counts of gold by predicted labels.

A registered metric is in metrics.json with its 95% interval, in comparison.json as a difference, in summary.csv and in
the report.
"""

from collections.abc import Callable

import numpy as np

from pedalign.evaluation.statistics import Array


def confusions(gold: list[str], predicted: list[str], conversations: list[str], labels: list[str]) -> Array:
    """Counts (conversations, labels, labels + 1) of gold by predicted labels; the last column is for anything else.

    The conversations are in the order of their first reply. Every gold label must be one of `labels`.
    """
    order = {identity: at for at, identity in enumerate(dict.fromkeys(conversations))}
    place = {label: at for at, label in enumerate(labels)}
    counts = np.zeros((len(order), len(labels), len(labels) + 1))
    for one, other, identity in zip(gold, predicted, conversations, strict=True):
        counts[order[identity], place[one], place.get(other, len(labels))] += 1
    return counts


def accuracy(counts: Array) -> Array:
    """Share of replies on the diagonal, for counts (..., labels, labels + 1)."""
    right = np.trace(counts[..., :-1], axis1=-2, axis2=-1)
    return right / counts.sum((-2, -1))


def macro_f1(counts: Array) -> Array:
    """Mean F1 over the labels that occur in the gold replies, for counts (..., labels, labels + 1).

    Equals scikit-learn's f1_score(average="macro", labels=<gold labels>, zero_division=0).
    """
    right = np.diagonal(counts[..., :-1], axis1=-2, axis2=-1)
    support = counts.sum(-1)
    f1 = 2 * right / np.maximum(support + counts[..., :-1].sum(-2), 1)
    occurs = support > 0
    return (f1 * occurs).sum(-1) / occurs.sum(-1)


# name in metrics.json → function of counts (..., labels, labels + 1), as `confusions` makes them; gives (...)
METRICS: dict[str, Callable[[Array], Array]] = {
    "accuracy": accuracy,
    "macro_f1": macro_f1,
}
