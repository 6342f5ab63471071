"""Explains why tutor turns of conversation files can't be used, so that the data can be fixed."""

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pedalign.data.literal import NotALiteral, Number, kind, scan_mapping
from pedalign.data.rubric import Rubric

_SHOWN = 80  # characters of a reply
_AS_TEXT = 'write every value as text ("1", not 1); docs/reference/rubrics.md shows a script that does'
_NAMES = "write the names as the rubric has them, or each 'name' in the rubric as the data has it"
_MISSING = "write the field into the tutor turns, or take it out of the rubric; or name it there as the data does"
_LABELS = "write the labels as the rubric has them, or the rubric's labels as the data has them"


@dataclass(frozen=True)
class Reason:
    """Why a reply can't be used. `reason` is the same for all replies with one remedy; `found` is what this one has."""

    reason: str
    found: str
    remedy: str


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
        if one.name not in mapping:
            return _missing(one.name, [name for name in mapping if isinstance(name, str)])
        value = mapping[one.name]
        if not isinstance(value, str):
            what = (
                "a number" if isinstance(value, Number) else "true or false" if isinstance(value, bool) else kind(value)
            )
            return Reason(f"a value is {what}, not text", f"'{one.name}' is {kind(value)}", _AS_TEXT)
    return Reason("a field is missing or not text", detail, _NAMES)


def _missing(name: str, found: list[str]) -> Reason:
    alike = {_letters(other): other for other in found}
    if other := alike.get(_letters(name)):
        how = "in case" if other.casefold() == name.casefold() else "in spaces or signs"
        return Reason(f"field names differ {how}", f"found '{other}', the rubric has '{name}'", _NAMES)
    if close := difflib.get_close_matches(name, found, n=1, cutoff=0.8):
        return Reason("field names are misspelt", f"found '{close[0]}', the rubric has '{name}'", _NAMES)
    has = ", ".join(f"'{other[:40]}'" for other in found[:6]) or "no field"
    return Reason("a field is missing", f"'{name}' is missing; the reply has {has}", _MISSING)


def _letters(name: str) -> str:
    return re.sub(r"[\W_]+", "", name.casefold())


def _unknown_label(mapping: Mapping[str, Any], rubric: Rubric, detail: str) -> Reason:
    for one in rubric.label_fields:
        value = str(mapping.get(one.name, "")).strip()
        known = {label.casefold(): label for label in one.labels}
        if value in one.labels or (one.not_applicable and value.casefold() in one.not_applicable_values):
            continue
        found = f"'{one.name}' is {value[:40]!r}"
        if label := known.get(value.casefold()):
            return Reason("labels differ in case", f"{found}, the rubric has '{label}'", _LABELS)
        parts = [part for part in re.split(r"[\s,;/|&+]+|\b(?:and|or)\b", value.casefold()) if part]
        if len(parts) > 1 and all(part in known for part in parts):
            return Reason("more than one label in a field", found, "choose one label for each field")
        opening = re.match(r"\W*(\w+)", value)
        if opening and (label := known.get(opening[1].casefold())):
            return Reason("labels with more text around them", f"{found}, the rubric has '{label}'", _LABELS)
        return Reason("labels that the rubric does not have", f"{found}; it has {', '.join(one.labels)}", _LABELS)
    return Reason("labels that the rubric does not have", detail, _LABELS)


@dataclass
class Tally:
    """Counts cut conversations by reason, and keeps the first one of each reason as an example."""

    entries: dict[str, dict[str, Any]] = field(default_factory=dict)

    def add(self, reason: Reason, file: str, identity: str, turn: int, text: str) -> None:
        """`text`: the reply; `turn`: which tutor turn it is, from 0."""
        example = {"file": file, "id": identity, "tutor_turn": turn, "found": reason.found, "text": text[:_SHOWN]}
        entry = self.entries.setdefault(
            reason.reason, {"reason": reason.reason, "conversations": 0, "remedy": reason.remedy, "example": example}
        )
        entry["conversations"] += 1

    def listed(self) -> list[dict[str, Any]]:
        """The reasons, the commonest first."""
        return sorted(self.entries.values(), key=lambda entry: -entry["conversations"])

    def commonest(self) -> str:
        """The commonest reason in a sentence, with its example."""
        entry = self.listed()[0]
        total = sum(one["conversations"] for one in self.entries.values())
        at = entry["example"]
        return (
            f"commonest reason ({entry['conversations']:,} of {total:,}): {entry['reason']}: {at['found']} "
            f"({at['file']}, id '{at['id']}', tutor turn {at['tutor_turn']}, counted from 0: {at['text']!r})"
        )

    def remedy(self) -> str:
        return self.listed()[0]["remedy"]
