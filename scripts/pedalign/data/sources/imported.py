"""Turns the rows of a file in another format into records of a conversation file, and accounts for every row."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

from pedalign.data.conversations import SPEAKERS

Row = TypeVar("Row")

ID_MADE = "an id made of the row's number"
ID_TAKEN = "an id that another conversation has, with a number at its end"


class Unusable(ValueError):
    """A row, or a turn of it, can't be used; the message is the reason under which it is counted."""


class Talk(NamedTuple):
    """A conversation: alternating `texts`, the student's first; the tutor's are replies in the rubric's form.

    `id`: if the row has none, "", and one is made of the row's number.
    `cut`: why it ends before the last turn of the row, if it does. `problem`: the id of the problem that it is about.
    `changed`: what is not as the row has it, in words; a mapping says how many turns.
    """

    id: str
    texts: list[str]
    cut: str | None = None
    problem: str | None = None
    changed: tuple[str, ...] | Mapping[str, int] = ()
    simulated: bool = False


@dataclass(frozen=True)
class Imported:
    """What became of the rows: every row is a record or rejected, and some of the records were cut or changed."""

    records: list[dict[str, Any]]  # of a conversation file
    rejected: dict[str, int]  # reason → rows that gave no conversation
    cut: dict[str, int]  # reason → conversations that end before a turn that cannot be used
    changed: dict[str, int] = field(default_factory=dict)  # what was changed → conversations, or turns

    @property
    def counts(self) -> dict[str, Any]:
        """The report of an import."""
        rows, conversations = len(self.records) + sum(self.rejected.values()), len(self.records)
        reasons = {name: dict(sorted(getattr(self, name).items())) for name in ("changed", "cut", "rejected")}
        return {"rows": rows, "conversations": conversations, **reasons}


def imported(rows: Iterable[Row], read: Callable[[Row], Talk]) -> Imported:
    """The conversations that `read` makes of the rows; it raises Unusable for rows that give none.

    A row may be an `Unusable` itself. An id that is taken gets "-2", or the next free number, at its end.
    """
    rejected: Counter[str] = Counter()
    cuts: Counter[str] = Counter()
    changes: Counter[str] = Counter()
    records: dict[str, dict[str, Any]] = {}
    last: dict[str, int] = {}  # id → the last number at its end
    for row_number, row in enumerate(rows, start=1):
        try:
            if isinstance(row, Unusable):
                raise row
            talk = read(row)
        except Unusable as reason:
            rejected[str(reason)] += 1
            continue
        if talk.cut:
            cuts[talk.cut] += 1
        changes.update(talk.changed)
        wanted = talk.id or f"row-{row_number}"
        changes[ID_MADE] += not talk.id
        identity = wanted
        while identity in records:
            last[wanted] = last.get(wanted, 1) + 1
            identity = f"{wanted}-{last[wanted]}"
        changes[ID_TAKEN] += identity != wanted
        entries = [{"from": SPEAKERS[at % 2], "value": text} for at, text in enumerate(talk.texts)]
        facts: dict[str, Any] = {"simulated": True} if talk.simulated else {}
        facts |= {"problem": talk.problem} if talk.problem is not None else {}
        records[identity] = {"id": identity, **facts, "conversations": entries}
    return Imported(list(records.values()), dict(rejected), dict(cuts), dict(+changes))
