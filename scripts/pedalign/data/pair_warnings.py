"""Warnings about preference pairs, for the log."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pedalign.data.rubric import Rubric

# Of the pairs whose replies differ in a field: the share in which a label is rejected, and how many times more often it
# is rejected than chosen, from which the pairs are called one-sided; and the fewest pairs of which anything is said.
MUCH, TIMES, FEWEST = 0.25, 4, 20


def one_sided(pairs: Mapping[str, Sequence[Any]], rubric: Rubric, samples: int) -> str | None:
    """A warning if the pairs nearly always reject a label, as alignment may then learn never to give it.

    `pairs`: the columns of the preference dataset. `samples`: answers per prompt that they are made of.
    """
    found = [
        f"{field} {label!r} (rejected in {rejected:,} of {differing:,} pairs that differ in it, chosen in {chosen:,})"
        for field, label, rejected, differing, chosen in _rejected_labels(pairs, rubric)
    ]
    if not found:
        return None
    remedy = "align at a small learning rate, or on other conversations"
    if samples == 1:
        remedy = "several answers per prompt have the opposite mistakes too: pair: {samples: 4, temperature: 1.0}"
    return (
        f"the pairs are one-sided: {', '.join(found)}; the alignment may learn never to give these labels "
        f"(docs/explanation/real-models.md); {remedy}"
    )


def _rejected_labels(pairs: Mapping[str, Sequence[Any]], rubric: Rubric) -> Iterator[tuple[str, str, int, int, int]]:
    known = {field.key: field.labels for field in rubric.label_fields}
    differing = {key: Counter[tuple[str, str]]() for key in known}
    for replies in zip(pairs["chosen"], pairs["rejected"], strict=True):
        chosen, rejected = (rubric.parse(reply[0]["content"]).values for reply in replies)
        for key, counts in differing.items():
            right, wrong = chosen.get(key), rejected.get(key)
            if right in known[key] and wrong in known[key] and right != wrong:
                counts[right, wrong] += 1
    for key, counts in differing.items():
        in_all, by_chosen, by_rejected = counts.total(), Counter[str](), Counter[str]()
        for (right, wrong), times in counts.items():
            by_chosen[right] += times
            by_rejected[wrong] += times
        for label, times in by_rejected.most_common() if in_all >= FEWEST else ():
            if times >= MUCH * in_all and times >= TIMES * by_chosen[label]:
                yield key, label, times, in_all, by_chosen[label]
