"""The rubric: the fields of a tutor's reply, and the parser for replies, which are untrusted text.

Everything about fields and labels is data (`datasets/rubrics/*.yaml`). A reply is text that holds one
mapping, as a Python literal or as JSON; it is scanned by `pedalign.data.literal`, never evaluated, and fields
that the rubric does not name are dropped.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator
from pydantic import Field as FieldInfo

from pedalign.core.artifacts import read_settings_file
from pedalign.core.errors import UserError, nearest
from pedalign.core.section import Section, mistake, read
from pedalign.data.literal import CutOff, NotALiteral, kind, scan_mapping
from pedalign.data.spellings import NO_SPELLINGS, Spelled, Spellings, read_label

_REFERENCE = "a rubric has the keys name, fields, spoken and instructions (docs/reference/rubrics.md)"

Defect = Literal["unparseable", "incomplete", "unknown_label"]


@dataclass(frozen=True)
class Field:
    """One field of a reply: a label field has `labels` (label → meaning), a text field has none."""

    name: str  # as replies have it, for example "Action Based on Evaluation"
    key: str  # short name in code and metrics, for example "action"
    labels: dict[str, str]
    not_applicable: str | None  # the label that means "not applicable"
    not_applicable_values: frozenset[str]  # other spellings of it, casefolded
    spellings: Spellings = NO_SPELLINGS  # of conversation files, those of "not applicable" among them

    @property
    def is_label(self) -> bool:
        return bool(self.labels)

    def names_in(self, mapping: Mapping[str, Any]) -> list[str]:
        """The names under which a reply has the field: its own, and others that conversation files may write."""
        return [name for name in (self.name, *self.spellings.names) if name in mapping]


@dataclass(frozen=True)
class Reply:
    """A parsed reply: `values` maps field keys to text, for every field whose value is text.

    `defect` is None for a valid reply, else the first thing wrong: "unparseable" (no mapping), "incomplete" (a field is
    missing or not text) or "unknown_label"; `detail` says what was found. `cut`: the text ends before the mapping is
    closed. Such a reply is "unparseable"; its `values` are those that are complete. `read_as`: what was written in
    another way than the rubric's.
    """

    values: dict[str, str]
    defect: Defect | None = None
    detail: str = ""
    cut: bool = False
    read_as: tuple[Spelled, ...] = ()


@dataclass(frozen=True)
class Canonical:
    """A tutor turn in canonical form, or why it has none: `text` is empty if there is a `defect`."""

    text: str
    defect: Defect | None = None
    detail: str = ""
    read_as: tuple[Spelled, ...] = ()


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

    def parse(self, text: str, spellings: bool = False) -> Reply:
        """The reply in `text`. Never raises; time is linear in the length, which is bounded.

        `spellings`: labels and field names may be written in the ways that the rubric allows in conversation files. A
        tutor's own replies are read without them: whether it keeps to the form that it was trained on is measured.
        """
        try:
            mapping = scan_mapping(text)
        except CutOff as error:
            values, _, read_as = self._read(error.entries, spellings)
            return Reply(values, "unparseable", f"cut off: {error}", cut=True, read_as=read_as)
        except NotALiteral as error:
            return Reply({}, "unparseable", str(error))
        values, problems, read_as = self._read(mapping, spellings)
        problems.sort(key=lambda problem: problem[0] != "incomplete")
        defect, detail = problems[0] if problems else (None, "")
        return Reply(values, defect, detail, read_as=read_as)

    def _read(
        self, mapping: dict[str, Any], spellings: bool
    ) -> tuple[dict[str, str], list[tuple[Defect, str]], tuple[Spelled, ...]]:
        """The texts of a mapping by field key, what is wrong with it by field, and what was spelled otherwise."""
        values: dict[str, str] = {}
        problems: list[tuple[Defect, str]] = []
        read_as: list[Spelled] = []
        for field in self.fields:
            name = field.name
            if spellings and field.spellings.names:
                names = field.names_in(mapping)
                if len({repr(mapping[one]) for one in names}) > 1:
                    problems.append(("incomplete", f"'{names[0]}' and '{names[1]}' have different values"))
                    continue
                name = names[0] if names else name
            value = mapping.get(name)
            if not isinstance(value, str):
                found = f"is {kind(value)}" if name in mapping else "is missing"
                problems.append(("incomplete", f"'{name}' {found}"))
                continue
            if name != field.name:
                read_as.append(Spelled(field.key, name, None))
            value = value.strip()
            if field.is_label and spellings and (found_label := read_label(value, field.labels, field.spellings)):
                label, written, otherwise = found_label
                if label != value:
                    read_as.append(Spelled(field.key, written, label, otherwise))
                value = label
            elif field.is_label and value.casefold() in field.not_applicable_values and field.not_applicable:
                value = field.not_applicable
            values[field.key] = value
            if field.is_label and value not in field.labels:
                problems.append(("unknown_label", f"'{field.name}' is {value[:40]!r}"))
        return values, problems, tuple(read_as)

    def canonical(self, text: str, spellings: bool = False) -> Canonical:
        """A tutor turn in canonical form, read as `parse` reads it. Never raises."""
        reply = self.parse(text, spellings)
        if reply.defect:
            return Canonical("", reply.defect, reply.detail)
        return Canonical(self.serialize(reply.values), read_as=reply.read_as)

    def serialize(self, values: dict[str, str]) -> str:
        """The canonical text of a reply: JSON, the rubric's fields in the rubric's order."""
        return json.dumps({field.name: values[field.key] for field in self.fields}, ensure_ascii=False)


def instruction_text(rubric: Rubric, wording: str) -> str:
    """The rubric's instruction in one of its wordings. Raises UserError for a wording it does not have."""
    if wording not in rubric.instructions:
        raise UserError(
            f"the rubric {rubric.name} has no instruction '{wording}', which a model's entry in config.yaml asks for",
            nearest(wording, rubric.instructions),
        )
    return rubric.instructions[wording]


def _one_line(text: str) -> str:
    if not text or text != text.strip() or "\n" in text:
        raise mistake(f"is {text!r}", "write a name of one line there, without spaces at its ends")
    return text


def _not_blank(text: str) -> str:
    if not text.strip():
        raise mistake(f"is {text!r}", "write a text there")
    return text


def _key(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", text):
        raise mistake(f"is {text!r}")
    return text


_Name = Annotated[str, AfterValidator(_one_line)]
_Text = Annotated[str, AfterValidator(_not_blank)]
_Label = Annotated[str, AfterValidator(_one_line)]


class _NotApplicable(Section):
    """The label of a field that stands for 'not applicable'."""

    label: str
    """The label that stands for 'not applicable'."""
    written_as: list[str] = FieldInfo(default=[])
    """Other ways in which replies write that label."""


class _FieldEntry(Section):
    """A field of a reply: a label field has labels, a text field has none."""

    name: _Name
    """The field's name as it stands in the replies."""
    key: Annotated[str, AfterValidator(_key)]
    """A short name for metrics and tables, of letters, digits and underscores, such as 'action'."""
    labels: Annotated[dict[_Label, _Text], FieldInfo(min_length=2)] | None = None
    """Each label with its meaning, such as `a: incorrect`; leave the key out for a field of free text."""
    not_applicable: _NotApplicable | None = None
    """Which label stands for 'not applicable', and how else it is written: {label: g, written_as: [n/a]}."""
    name_written_as: list[_Name] = FieldInfo(default=[])
    """Other names of the field in conversation files, such as ['Action Based on the Evaluation']."""
    labels_written_as: dict[_Label, list[str]] = FieldInfo(default={})
    """Other ways in which conversation files write labels, such as {'1': [Step 1, first step]}."""
    all_else: str | None = None
    """The label for all values in conversation files that are no spelling of a label, such as 'other'."""


class _ScaffoldTell(Section):
    """Pairs of labels for one situation."""

    field: str
    """The key of the label field."""
    pairs: Annotated[list[Annotated[list[str], FieldInfo(min_length=2, max_length=2)]], FieldInfo(min_length=1)]
    """Pairs of labels, the one that scaffolds and the one that tells, such as [['1', '2']]."""


class _File(Section):
    """A rubric's file. Every scalar is read as text."""

    name: _Name
    """The name of the label scheme, as reports show it."""
    fields: Annotated[list[_FieldEntry], FieldInfo(min_length=2)]
    """The fields of a reply, in the order in which they are written, each with a name and a key."""
    spoken: str
    """The key of the text field that the student reads."""
    scaffold_tell: _ScaffoldTell | None = None
    """Pairs of labels for one situation, one scaffolds and one tells: {field: action, pairs: [['1', '2']]}."""
    instructions: Annotated[dict[str, _Text], FieldInfo(min_length=1)]
    """The instruction that opens each conversation, in one or more wordings, such as `compact: You are a tutor.`"""


def load_rubric(path: Path) -> Rubric:
    """Read a rubric (docs/reference/rubrics.md). Raises UserError with the place and the mistake.

    Labels are read as text: YAML itself reads `yes`, `1` and `010` as other values.
    """
    data = read(_File, read_settings_file(path, as_text=True), str(path), _REFERENCE)
    fields = tuple(_field(entry, f"{path}: fields[{at}] ({entry.name})") for at, entry in enumerate(data.fields))
    for what, names in (("key", [field.key for field in fields]), ("name", [field.name for field in fields])):
        if twice := _equal(names):
            raise UserError(
                f"{path}: fields: {_pair(twice)} are the {what}s of two fields", f"give each its own {what}"
            )
    named: dict[str, str] = {}
    for field in fields:
        for name in (field.name, *field.spellings.names):
            if named.setdefault(name.casefold(), field.name) != field.name:
                raise UserError(
                    f"{path}: fields: '{name}' stands for '{named[name.casefold()]}' and for '{field.name}'",
                    "take it out of one field's name_written_as",
                )
    label_fields = {field.key: field for field in fields if field.is_label}
    if not label_fields:
        raise UserError(
            f"{path}: fields: none of them has labels, so there is nothing to score",
            "add 'labels:' to a field, each label with its meaning",
        )
    spoken, scaffold = data.spoken, data.scaffold_tell
    if spoken not in [field.key for field in fields if not field.is_label]:
        remedy = nearest(spoken, (field.key for field in fields if not field.is_label))
        raise UserError(f"{path}: spoken: '{spoken}' is not the key of a text field (one without labels)", remedy)
    if scaffold is not None:
        _check_pairs(scaffold, label_fields, f"{path}: scaffold_tell")
    return Rubric(
        name=data.name,
        fields=fields,
        spoken=spoken,
        instructions={wording: " ".join(text.split()) for wording, text in data.instructions.items()},
        scaffold_field=scaffold.field if scaffold else None,
        scaffold_tell=tuple((scaffolds, tells) for scaffolds, tells in scaffold.pairs) if scaffold else (),
    )


def _field(entry: _FieldEntry, place: str) -> Field:
    labels = entry.labels or {}
    if twice := _equal(labels):
        raise UserError(f"{place}: labels {_pair(twice)} differ in case alone", "rename one of them")
    label = entry.not_applicable.label if entry.not_applicable else None
    ways = dict(entry.labels_written_as)
    for key, one in (
        ("not_applicable", label),
        ("all_else", entry.all_else),
        *(("labels_written_as", o) for o in ways),
    ):
        if one is not None and one not in labels:
            raise UserError(f"{place}: {key}: '{one}' is no label of the field", nearest(one, labels))
    not_applicable = _folded(entry.not_applicable.written_as if entry.not_applicable else ())
    spelled: dict[str, str] = {}
    for key, read_as, written in (
        ("not_applicable.written_as", label or "", not_applicable),
        *((f"labels_written_as.{one}", one, _folded(values)) for one, values in ways.items()),
    ):
        for folded, value in written.items():
            head = folded.partition(")")[0].strip()  # "b) …" is read as b without a spelling
            is_label = next((other for other in labels if other.casefold() in (folded, head)), None)
            other = is_label or spelled.get(folded, read_as)
            if other != read_as:
                is_what = "is the label" if is_label else "is also a spelling of"
                raise UserError(
                    f"{place}: {key}: '{value}' {is_what} '{other}', which would be read as '{read_as}'",
                    "take it out of the list, or rename the label",
                )
            spelled[folded] = read_as
    spellings = Spellings(tuple(entry.name_written_as), spelled, entry.all_else)
    return Field(entry.name, entry.key, labels, label, frozenset(not_applicable), spellings)


def _folded(values: Iterable[str]) -> dict[str, str]:
    """Casefolded spelling → spelling."""
    return {value.strip().casefold(): value for value in values}


def _check_pairs(scaffold: _ScaffoldTell, label_fields: Mapping[str, Field], place: str) -> None:
    if scaffold.field not in label_fields:
        remedy = nearest(scaffold.field, label_fields)
        raise UserError(f"{place}.field: '{scaffold.field}' is not the key of a field with labels", remedy)
    labels = label_fields[scaffold.field].labels
    for label in (label for pair in scaffold.pairs for label in pair):
        if label not in labels:
            raise UserError(f"{place}.pairs: '{label}' is no label of '{scaffold.field}'", nearest(label, labels))
    both = {scaffolds for scaffolds, _ in scaffold.pairs} & {tells for _, tells in scaffold.pairs}
    if both:
        raise UserError(
            f"{place}.pairs: '{min(both)}' stands in both places of the pairs",
            "of each pair, the first label scaffolds and the second tells",
        )


def _equal(names: Iterable[str]) -> tuple[str, str] | None:
    """The first two names that are equal but for case."""
    seen: dict[str, str] = {}
    for name in names:
        if name.casefold() in seen:
            return seen[name.casefold()], name
        seen[name.casefold()] = name
    return None


def _pair(names: tuple[str, str]) -> str:
    return " and ".join(f"'{name}'" for name in names)
