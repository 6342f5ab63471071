"""Labels and field names as people write them: reads them as the rubric's own, and counts what was read so."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

_LISTED = 20  # values of a field that splits.json lists for the label of everything else
_TOLD = 3  # spellings that a line names
_MOST_ELSE = 0.2  # share of a field's labels that are read as everything else, beyond which a warning says so
_SHOWN = 40  # characters of a value

Listed = dict[str, list[dict[str, Any]]]


class Spelled(NamedTuple):
    """Something that was read though the rubric writes it another way: `written` in the field `key`.

    `label`: the label that it was read as; None if it is the field's name. Words after a bracket are left out of
    `written`: "b) …". `otherwise`: it is no spelling of the label, which stands for everything else.
    """

    key: str
    written: str
    label: str | None
    otherwise: bool = False


@dataclass(frozen=True)
class Spellings:
    """How conversation files may write a field, apart from the rubric's own way."""

    names: tuple[str, ...] = ()  # of the field
    labels: Mapping[str, str] = field(default_factory=dict)  # casefolded spelling → label
    all_else: str | None = None  # the label for every other value


NO_SPELLINGS = Spellings()


def read_label(value: str, labels: Mapping[str, str], spellings: Spellings) -> tuple[str, str, bool] | None:
    """The label that a value stands for, how it is written, and whether as everything else; None if it has no label.

    A value stands for a label if it is the label, a spelling of it, or either of them before a closing bracket, with or
    without words after it, such as "b)" and "b) Correct". Where the words name another label, it stands for neither.
    `labels`: label → meaning.
    """
    if label := _plain(value, labels, spellings):
        return label, value, False
    head, bracket, words = (part.strip() for part in value.partition(")"))
    label = _plain(head, labels, spellings) if bracket and head else None
    if label and not _name_another(words, label, labels, spellings):
        return label, f"{head}) …" if words else f"{head})", False
    known = {one.casefold() for one in labels}
    other_case = bracket and head not in labels and head.casefold() in known  # such as "A) Hint"
    if spellings.all_else and value.casefold() not in known and not other_case:
        return spellings.all_else, value, True
    return None


def _plain(text: str, labels: Mapping[str, str], spellings: Spellings) -> str | None:
    return text if text in labels else spellings.labels.get(text.casefold())


def _name_another(words: str, label: str, labels: Mapping[str, str], spellings: Spellings) -> bool:
    """Whether the words after `label` and a bracket name another label: by itself, in a row, or by its meaning."""
    folded = words.casefold()
    if words and _plain(words, labels, spellings) not in (None, label):
        return True
    others = {one.casefold(): meaning.casefold() for one, meaning in labels.items() if one != label}
    row = set(re.findall(r"\w+", folded)) - {label.casefold(), "and", "or"}
    if row and row <= set(others):
        return True
    if any(re.search(rf"(?<!\w){re.escape(other)}\)", folded) for other in others):
        return True
    return folded in others.values() and folded != labels[label].casefold()


def shown(value: str) -> str:
    """A value as messages quote it, cut to a length."""
    return repr(value if len(value) <= _SHOWN else f"{value[: _SHOWN - 1]}…")


def listed(counts: Mapping[Spelled, int]) -> Listed:
    """What was read, for splits.json: `names` and `labels`, each the commonest first.

    Of the values that a field's label for everything else stands for, the commonest are listed; the last entry of the
    field sums the rest, with their number as `values`.
    """
    found: Listed = {"names": [], "labels": []}
    rest: dict[tuple[str, str], list[int]] = {}
    elses: Counter[str] = Counter()
    for one, replies in sorted(counts.items(), key=lambda item: (-item[1], item[0][:2])):
        if one.label is None:
            found["names"].append({"field": one.key, "written": one.written, "replies": replies})
            continue
        elses[one.key] += one.otherwise
        if one.otherwise and elses[one.key] > _LISTED:
            rest.setdefault((one.key, one.label), []).append(replies)
            continue
        entry = {"field": one.key, "written": one.written[:200], "label": one.label, "replies": replies}
        found["labels"].append({**entry, "otherwise": True} if one.otherwise else entry)
    for (key, label), counts_of_rest in rest.items():
        values, replies = len(counts_of_rest), sum(counts_of_rest)
        entry = {"field": key, "values": values, "label": label, "replies": replies, "otherwise": True}
        found["labels"].append(entry)
    return found


def told(spellings: Listed) -> str:
    """What was read, in a sentence, from what `listed` gives; empty if nothing was."""
    labels, names = spellings["labels"], spellings["names"]
    parts = [
        counted(sum(one["replies"] for one in found), what)
        for what, found in (("label", labels), ("field name", names))
        if found
    ]
    if not parts:
        return ""
    examples = [times(f"{one['field']} {_written(one)} as '{one['label']}'", one["replies"]) for one in labels]
    examples += [times(_written(one), one["replies"]) for one in names]
    more = f" and {counted(len(examples) - _TOLD, 'other')}" if len(examples) > _TOLD else ""
    return f"{' and '.join(parts)} read from another spelling: {', '.join(examples[:_TOLD])}{more}"


def counted(number: int, what: str) -> str:
    """A number of things in words: "1 label", "1,200 labels"."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def times(what: str, number: int) -> str:
    """What was found how often: a multiplication sign and the number."""
    return f"{what} \N{MULTIPLICATION SIGN} {number:,}"


def _written(entry: Mapping[str, Any]) -> str:
    return shown(entry["written"]) if "written" in entry else counted(entry["values"], "other")


def much_else(spellings: Listed, replies: int) -> Iterator[str]:
    """A warning for each field with many values that are read as its label for everything else."""
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for one in spellings["labels"]:
        if one.get("otherwise"):
            found.setdefault((one["field"], one["label"]), []).append(one)
    for (key, label), entries in found.items():
        if (number := sum(one["replies"] for one in entries)) > _MOST_ELSE * replies:
            values = ", ".join(times(_written(one), one["replies"]) for one in entries[:_TOLD])
            yield (
                f"{number:,} of {replies:,} replies have the label '{label}' of '{key}' as it stands for all "
                f"other values (all_else in the rubric): {values}; list what they stand for under labels_written_as"
            )
