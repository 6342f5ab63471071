"""The rubric: which fields a tutor's reply has, and the parser for replies that no one can trust.

Everything about fields and labels is data (`datasets/rubrics/*.yaml`). A reply is text that holds one
mapping, as a Python literal or as JSON; it is scanned by `pedalign.literal`, never evaluated, and fields
that the rubric does not name are dropped.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pedalign.artifacts import read_yaml
from pedalign.errors import UserError
from pedalign.literal import CutOff, NotALiteral, kind, scan_mapping

Defect = Literal["unparseable", "incomplete", "unknown_label"]


@dataclass(frozen=True)
class Field:
    """One field of a reply: a label field has `labels` (label → meaning), a text field has none."""

    name: str  # as it stands in the reply, for example "Action Based on Evaluation"
    key: str  # short name in code and metrics, for example "action"
    labels: dict[str, str]
    not_applicable: str | None  # the label that stands for "not applicable"
    not_applicable_values: frozenset[str]  # other spellings of it, casefolded

    @property
    def is_label(self) -> bool:
        return bool(self.labels)


@dataclass(frozen=True)
class Reply:
    """A parsed reply: `values` maps field keys to text, for every field that was found as text.

    `defect` is None for a valid reply; else it names the first thing wrong, and `detail` says what was
    found: "unparseable" (no mapping), "incomplete" (a field is missing or no text), "unknown_label".
    `cut`: the text ends before the mapping is closed. Such a reply is "unparseable"; its `values` are those that stand
    complete before the end.
    """

    values: dict[str, str]
    defect: Defect | None = None
    detail: str = ""
    cut: bool = False


@dataclass(frozen=True)
class Canonical:
    """A tutor turn in canonical form, or why it has none: `text` is empty where there is a `defect`."""

    text: str
    defect: Defect | None = None
    detail: str = ""


@dataclass(frozen=True)
class Rubric:
    name: str
    fields: tuple[Field, ...]
    spoken: str  # key of the text field that the student reads
    instructions: dict[str, str]  # wording → text
    scaffold_field: str | None
    scaffold_tell: tuple[tuple[str, str], ...]  # (scaffolding label, telling label)

    @property
    def label_fields(self) -> tuple[Field, ...]:
        return tuple(field for field in self.fields if field.is_label)

    def field(self, key: str) -> Field:
        return next(field for field in self.fields if field.key == key)

    def parse(self, text: str) -> Reply:
        """The reply in `text`. Never raises; time is linear in the length, which is bounded."""
        try:
            mapping = scan_mapping(text)
        except CutOff as error:
            values, _ = self._read(error.entries)
            return Reply(values, "unparseable", f"cut off: {error}", cut=True)
        except NotALiteral as error:
            return Reply({}, "unparseable", str(error))
        values, problems = self._read(mapping)
        problems.sort(key=lambda problem: problem[0] != "incomplete")
        defect, detail = problems[0] if problems else (None, "")
        return Reply(values, defect, detail)

    def _read(self, mapping: dict[str, Any]) -> tuple[dict[str, str], list[tuple[Defect, str]]]:
        """Field keys → texts of a mapping, and what is wrong with it, field by field."""
        values: dict[str, str] = {}
        problems: list[tuple[Defect, str]] = []
        for field in self.fields:
            value = mapping.get(field.name)
            if not isinstance(value, str):
                found = f"is {kind(value)}" if field.name in mapping else "is missing"
                problems.append(("incomplete", f"'{field.name}' {found}"))
                continue
            value = value.strip()
            if field.is_label and value.casefold() in field.not_applicable_values and field.not_applicable:
                value = field.not_applicable
            values[field.key] = value
            if field.is_label and value not in field.labels:
                problems.append(("unknown_label", f"'{field.name}' is {value[:40]!r}"))
        return values, problems

    def canonical(self, text: str) -> Canonical:
        """A tutor turn in canonical form. Never raises."""
        reply = self.parse(text)
        return Canonical("" if reply.defect else self.serialize(reply.values), reply.defect, reply.detail)

    def serialize(self, values: dict[str, str]) -> str:
        """The canonical text of a reply: JSON, the rubric's fields in the rubric's order."""
        return json.dumps({field.name: values[field.key] for field in self.fields}, ensure_ascii=False)


def load_rubric(path: Path) -> Rubric:
    """Read a rubric. Raises UserError that names the file and what is wrong in it."""
    data = read_yaml(path)
    try:
        return _from_data(data)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise UserError(
            f"{path}: not a rubric: {type(error).__name__} {error}", "compare with datasets/rubrics/class.yaml"
        ) from None


def _from_data(data: dict[str, Any]) -> Rubric:
    fields = []
    for entry in data["fields"]:
        not_applicable = entry.get("not_applicable") or {}
        fields.append(
            Field(
                name=entry["name"],
                key=entry["key"],
                labels={str(label): str(meaning) for label, meaning in (entry.get("labels") or {}).items()},
                not_applicable=str(not_applicable["label"]) if not_applicable else None,
                not_applicable_values=frozenset(str(v).casefold() for v in not_applicable.get("written_as", [])),
            )
        )
        if not_applicable and fields[-1].not_applicable not in fields[-1].labels:
            raise ValueError(f"'not_applicable' names '{fields[-1].not_applicable}', no label of '{entry['name']}'")
    for names in ([field.key for field in fields], [field.name for field in fields]):
        if len(set(names)) < len(names):
            raise ValueError(f"a field occurs twice in {names}")
    spoken = data["spoken"]
    if spoken not in [field.key for field in fields if not field.is_label]:
        raise ValueError(f"'spoken: {spoken}' is no text field")
    scaffold = data.get("scaffold_tell") or {"field": None, "pairs": []}
    labels = {field.key: field.labels for field in fields}
    pairs = tuple((str(left), str(right)) for left, right in scaffold["pairs"])
    for label in (label for pair in pairs for label in pair):
        if label not in labels.get(scaffold["field"], {}):
            raise ValueError(f"'scaffold_tell' names '{label}', no label of '{scaffold['field']}'")
    return Rubric(
        name=data["name"],
        fields=tuple(fields),
        spoken=spoken,
        instructions={str(wording): " ".join(text.split()) for wording, text in data["instructions"].items()},
        scaffold_field=scaffold["field"],
        scaffold_tell=pairs,
    )
