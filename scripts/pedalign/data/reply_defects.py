"""Explains why tutor turns of conversation files can't be used, so that the data can be fixed."""

import difflib
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pedalign.data.literal import NotALiteral, Number, kind, scan_mapping
from pedalign.data.rubric import Rubric
from pedalign.data.spellings import counted, read_label, shown, times

_SHOWN = 80  # characters of a reply
_LISTED, _TOLD = 10, 3  # values of a reason that splits.json lists, and that a sentence names
_AS_TEXT = 'write every value as text ("1", not 1); docs/reference/rubrics.md shows a script that does'
_NAMES = "write the names as the rubric has them, or list the data's under 'name_written_as' of the field in the rubric"
_MISSING = "write the field into the tutor turns, or take it out of the rubric; or name it there as the data does"
_LABELS = "write the labels as the rubric has them, or list the data's under 'labels_written_as' in the rubric"


@dataclass(frozen=True)
class Reason:
    """Why a reply can't be used. `reason` is the same for all replies with one remedy; `value` is what this one has,
    `known` what the rubric has instead.
    """

    reason: str
    value: str
    remedy: str
    known: str = ""

    @property
    def found(self) -> str:
        return self.value + self.known


def explain(text: str, rubric: Rubric, defect: str, detail: str) -> Reason:
    """The reason why a reply can't be used; `defect` and `detail` come from the rubric or from the paper's rules."""
    try:
        mapping = scan_mapping(text)
    except NotALiteral:
        mapping = {}
    if defect == "unparseable":
        return _unparseable(text, detail, bool(mapping))
    if defect == "incomplete":
        return _incomplete(mapping, rubric, detail)
    return _unknown_label(mapping, rubric, detail)


def _unparseable(text: str, detail: str, readable: bool) -> Reason:
    if "{" not in text:
        reason, remedy = "plain text, no JSON object", "write each tutor turn as a JSON object with the rubric's fields"
    elif text.lstrip().casefold().startswith("<think"):
        reason, remedy = "a <think> block before the JSON object", "take <think>…</think> out of the tutor turns"
    elif readable:
        reason = "not one Python literal as a whole, as the paper's rules want it"
        remedy = "take out words around the mapping, and JSON's null, true and false; or set 'paper_rules: false'"
    elif "more than one mapping" in detail:
        reason, remedy = "more than one JSON object", "write one JSON object in each tutor turn"
    elif detail.startswith("longer than"):
        reason, remedy = "a reply that is too long", "shorten it"
    elif detail.startswith("cut off"):
        reason, remedy = "a JSON object that is not closed", "write the tutor turns anew, each to its end"
    else:
        reason, remedy = "broken JSON", "write the tutor turns anew with a JSON library"
    return Reason(reason, detail, remedy)


def _incomplete(mapping: Mapping[str, Any], rubric: Rubric, detail: str) -> Reason:
    for one in rubric.fields:
        names = one.names_in(mapping)
        if not names:
            return _missing(one.name, [name for name in mapping if isinstance(name, str)])
        if "have different values" in detail and len({repr(mapping[name]) for name in names}) > 1:
            return Reason("a field stands there twice", detail, "take one of them out of the tutor turns")
        value = mapping[names[0]]
        if not isinstance(value, str):
            what = (
                "a number" if isinstance(value, Number) else "true or false" if isinstance(value, bool) else kind(value)
            )
            return Reason(f"a value is {what}, not text", f"'{names[0]}' is {kind(value)}", _AS_TEXT)
    return Reason("a field is missing or not text", detail, _NAMES)


def _missing(name: str, found: list[str]) -> Reason:
    alike, rubric_has = {_letters(other): other for other in found}, f", the rubric has '{name}'"
    if other := alike.get(_letters(name)):
        how = "in case" if other.casefold() == name.casefold() else "in spaces or signs"
        return Reason(f"field names differ {how}", f"found '{other}'", _NAMES, rubric_has)
    if close := difflib.get_close_matches(name, found, n=1, cutoff=0.8):
        return Reason("field names are misspelt", f"found '{close[0]}'", _NAMES, rubric_has)
    has = ", ".join(f"'{other[:40]}'" for other in found[:6]) or "no field"
    return Reason("a field is missing", f"'{name}' is missing; the reply has {has}", _MISSING)


def _letters(name: str) -> str:
    return re.sub(r"[\W_]+", "", name.casefold())


def _unknown_label(mapping: Mapping[str, Any], rubric: Rubric, detail: str) -> Reason:
    for one in rubric.label_fields:
        value = str(next((mapping[name] for name in one.names_in(mapping)), "")).strip()
        if read_label(value, one.labels, one.spellings):
            continue
        known = {label.casefold(): label for label in one.labels}
        found = f"'{one.name}' is {shown(value)}"
        if label := known.get(value.casefold()):
            return Reason("labels differ in case", found, _LABELS, f", the rubric has '{label}'")
        parts = [part for part in re.split(r"[\s,;/|&+()]+|\b(?:and|or)\b", value.casefold()) if part]
        if len(parts) > 1 and all(part in known for part in parts):
            return Reason("more than one label in a field", found, "choose one label for each field")
        opening = re.match(r"\W*(\w+)", value)
        if opening and (label := known.get(opening[1].casefold())):
            return Reason("labels with more text around them", found, _LABELS, f", the rubric has '{label}'")
        has = f"; it has {', '.join(one.labels)}"
        return Reason("labels that the rubric does not have", found, f"{_LABELS}; or name a label for 'all_else'", has)
    return Reason("labels that the rubric does not have", detail, _LABELS)


@dataclass
class Tally:
    """Counts cut conversations by reason and by what was found; keeps the first one of each reason as an example."""

    entries: dict[str, dict[str, Any]] = field(default_factory=dict)
    values: dict[str, Counter[str]] = field(default_factory=dict)  # reason → what was found → conversations

    def add(self, reason: Reason, file: str, identity: str, turn: int, text: str) -> None:
        """`text`: the reply; `turn`: which tutor turn it is, from 0."""
        example = {"file": file, "id": identity, "tutor_turn": turn, "found": reason.found, "text": text[:_SHOWN]}
        entry = self.entries.setdefault(
            reason.reason, {"reason": reason.reason, "conversations": 0, "remedy": reason.remedy, "example": example}
        )
        entry["conversations"] += 1
        self.values.setdefault(reason.reason, Counter())[reason.value] += 1

    def listed(self) -> list[dict[str, Any]]:
        """The reasons, the commonest first, each with the commonest of what was found and a sum of the rest."""
        entries = sorted(self.entries.values(), key=lambda entry: -entry["conversations"])
        return [{**entry, "found": self._found(entry["reason"], _LISTED)} for entry in entries]

    def _found(self, reason: str, most: int) -> list[dict[str, Any]]:
        by_value = self.values[reason].most_common()
        found: list[dict[str, Any]] = [{"value": value, "conversations": count} for value, count in by_value[:most]]
        if rest := by_value[most:]:
            found.append({"values": len(rest), "conversations": sum(count for _, count in rest)})
        return found

    def commonest(self) -> str:
        """The commonest reason in a sentence, with its example and, if there are several, what was found how often."""
        entry = self.listed()[0]
        total = sum(one["conversations"] for one in self.entries.values())
        at = entry["example"]
        found = self._found(entry["reason"], _TOLD)
        values = [times(one.get("value") or counted(one["values"], "other"), one["conversations"]) for one in found]
        return (
            f"commonest reason ({entry['conversations']:,} of {total:,}): {entry['reason']}: {at['found']} "
            f"({at['file']}, id '{at['id']}', tutor turn {at['tutor_turn']}, counted from 0: {at['text']!r})"
            + (f"; by value: {', '.join(values)}" if len(values) > 1 else "")
        )

    def remedy(self) -> str:
        remedy: str = self.listed()[0]["remedy"]
        return remedy
