"""Turns the rows of a file in another format into records of a conversation file, and accounts for every row."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

from pedalign.data.conversations import SPEAKERS

Row = TypeVar("Row")


class Unusable(ValueError):
    """A row, or a turn of it, can't be used; the message is the reason under which it is counted."""


class Talk(NamedTuple):
    """A conversation: alternating `texts`, the student's first; the tutor's are replies in the rubric's form.

    `cut`: why it ends before the last turn of the row, if it does. `changes`: turns that were left out or changed, by
    what was done.
    """

    id: str
    texts: list[str]
    cut: str | None = None
    changes: Mapping[str, int] = MappingProxyType({})


@dataclass(frozen=True)
class Imported:
    """What became of the rows: every row is a record or rejected, and some of the records were cut."""

    records: list[dict[str, Any]]  # of a conversation file
    rejected: dict[str, int]  # reason → rows that gave no conversation
    cut: dict[str, int]  # reason → conversations that end before a turn that cannot be used
    changes: dict[str, int] = field(default_factory=dict)  # what was done → turns of the conversations


def imported(rows: Iterable[Row], read: Callable[[Row], Talk]) -> Imported:
    """The conversations that `read` makes of the rows; it raises Unusable for rows that give none.

    An id that is taken gets "-2", or the next free number, at its end.
    """
    rejected: Counter[str] = Counter()
    cuts: Counter[str] = Counter()
    changes: Counter[str] = Counter()
    records: dict[str, dict[str, Any]] = {}
    for row in rows:
        try:
            talk = read(row)
        except Unusable as reason:
            rejected[str(reason)] += 1
            continue
        if talk.cut:
            cuts[talk.cut] += 1
        changes.update(talk.changes)
        identity, number = talk.id, 1
        while identity in records:
            number += 1
            identity = f"{talk.id}-{number}"
        entries = [{"from": SPEAKERS[at % 2], "value": text} for at, text in enumerate(talk.texts)]
        records[identity] = {"id": identity, "conversations": entries}
    return Imported(list(records.values()), dict(rejected), dict(cuts), dict(changes))
