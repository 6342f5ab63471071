"""Warnings about preference pairs, for the log."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pedalign.data.rubric import Rubric

# Of the pairs whose replies differ in a field: the share in which a label is rejected, and how many times more often it
# is rejected than chosen, from which the pairs are called one-sided; and the fewest pairs of which anything is said.
MUCH, TIMES, FEWEST = 0.25, 4, 20


def one_sided(pairs: Mapping[str, Sequence[Any]], rubric: Rubric) -> str | None:
    """A warning if the pairs nearly always reject a label, as alignment may then learn never to give it.

    `pairs`: the columns of the preference dataset.
    """
    found = [
        f"{field} {label!r} (rejected in {rejected:,} of {differing:,} pairs that differ in it, chosen in {chosen:,})"
        for field, label, rejected, differing, chosen in _rejected_labels(pairs, rubric)
    ]
    if not found:
        return None
    return (
        f"the pairs are one-sided: {', '.join(found)}; the alignment may learn never to give these labels "
        "(docs/explanation/real-models.md); to find the opposite mistakes too, let the tutor answer several times: "
        "pair: {samples: 4, temperature: 1.0}"
    )


def _rejected_labels(pairs: Mapping[str, Sequence[Any]], rubric: Rubric) -> Iterator[tuple[str, str, int, int, int]]:
    both = [
        [rubric.parse(reply[0]["content"]).values for reply in replies]
        for replies in zip(pairs["chosen"], pairs["rejected"], strict=True)
    ]
    for field in rubric.label_fields:
        labels = [(chosen.get(field.key), rejected.get(field.key)) for chosen, rejected in both]
        differing = [of_pair for of_pair in labels if None not in of_pair and of_pair[0] != of_pair[1]]
        chosen, rejected = (Counter(of_pair[side] for of_pair in differing) for side in (0, 1))
        for label, times in rejected.most_common() if len(differing) >= FEWEST else ():
            if label is not None and times >= MUCH * len(differing) and times >= TIMES * chosen[label]:
                yield field.key, label, times, len(differing), chosen[label]
