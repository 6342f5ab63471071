"""A tutor's reply is text that no one can trust: it is read the same way however it is written, and never hurts."""

import ast
import json
import re
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pedalign.data import literal
from pedalign.data.literal import MAX_CHARACTERS, scan_mapping
from pedalign.data.rubric import Reply, Rubric, load_rubric

FOLDER = Path(__file__).parents[2] / "datasets/rubrics"
CLASS, MATHDIAL = (load_rubric(FOLDER / f"{name}.yaml") for name in ("class", "mathdial"))
RUBRICS = pytest.mark.parametrize("rubric", [CLASS, MATHDIAL], ids=lambda rubric: rubric.name)
DEFECTS = {None, "unparseable", "incomplete", "unknown_label"}

SYNTAX = [
    "{",
    "}",
    "[",
    "]",
    "(",
    ")",
    ":",
    ",",
    "'",
    '"',
    "\\",
    "\\u",
    "\\ud83d",
    "\\x4",
    "\0",
    "\ud800",
    "\n",
    "None",
]
SYNTAX += ["1e9", "nan", "Tutorbot", '{"Tutorbot": "', "é", " "]


def some_values(rubric: Rubric) -> st.SearchStrategy[dict[str, str]]:
    """Values of a valid reply: labels of the rubric, and any text that does not begin or end in a blank."""
    text = st.text().map(str.strip)
    return st.fixed_dictionaries({f.key: st.sampled_from(list(f.labels)) if f.labels else text for f in rubric.fields})


def named(rubric: Rubric, **changed: object) -> dict[str, object]:
    """A valid reply by field names, as a language model writes it; what is given replaces its values."""
    values = {field.key: next(iter(field.labels), "Go on.") for field in rubric.fields} | changed
    return {field.name: values[field.key] for field in rubric.fields}


@pytest.mark.parametrize("length", [MAX_CHARACTERS, 100_000])
@pytest.mark.parametrize(
    "unit", [*SYNTAX, '{"a":', "{'a':[", "'' ", '{"', "{'\\", '{"a": "b",', "{ ", "{9", "{" * 7 + "'"]
)
def test_no_text_takes_a_second_or_raises(unit: str, length: int) -> None:
    started = time.perf_counter()
    for text in ((unit * length)[:length], ("{" + unit * length)[:length], ("{'" + unit * length)[:length]):
        assert CLASS.parse(text).defect in ("unparseable", "incomplete")
    assert time.perf_counter() - started < 1


@settings(deadline=None, max_examples=60)
@given(st.lists(st.sampled_from(SYNTAX) | st.text(st.characters(), max_size=5), max_size=40).map("".join))
def test_any_text_gives_a_reply(text: str) -> None:
    for start in ("", "{", json.dumps(named(CLASS))[:-2]):
        assert CLASS.parse(start + text).defect in DEFECTS


@RUBRICS
@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_a_canonical_reply_is_read_back_as_it_was(rubric: Rubric, data: st.DataObject) -> None:
    values = data.draw(some_values(rubric))
    assert rubric.parse(rubric.serialize(values)) == Reply(values)


@RUBRICS
@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_python_and_json_forms_are_the_same_reply(rubric: Rubric, data: st.DataObject) -> None:
    mapping = named(rubric, **data.draw(some_values(rubric)))
    forms = (repr(mapping), json.dumps(mapping), json.dumps(mapping, ensure_ascii=False, indent=2))
    replies = [rubric.parse(f"Sure, here it is:\n{form}\nAnything else?") for form in forms]
    assert replies[0] == replies[1] == replies[2]
    assert replies[0].defect is None


@settings(deadline=None, max_examples=60)
@given(st.dictionaries(st.text(), st.text()))
def test_mappings_of_texts_read_as_python_and_json_read_them(mapping: dict[str, str]) -> None:
    assert scan_mapping(repr(mapping)) == ast.literal_eval(repr(mapping)) == mapping
    assert scan_mapping(json.dumps(mapping)) == json.loads(json.dumps(mapping)) == mapping


def scanned(text: str) -> str:
    try:
        return repr(scan_mapping(text))
    except literal.NotALiteral as error:
        return str(error)


PIECES = st.sampled_from(['"', "'", '"a"', "'b'", '""', ":", ",", " ", "\u2003", "{", "}", "\\", "9", '"a": "b", '])
TEXTS = st.text(st.sampled_from("ab{}:,\n\ud83d\\\"'"), max_size=3)
SEPARATORS = st.sampled_from([", ", " ", ","])
ITEMS = st.tuples(TEXTS, TEXTS).map(lambda item: f"\"{item[0]}\": '{item[1]}'")


@settings(deadline=None, max_examples=300)
@given(st.lists(PIECES, max_size=12).map("".join) | st.lists(ITEMS | SEPARATORS, max_size=5).map("".join))
def test_a_flat_mapping_read_at_once_is_what_the_scanner_reads(text: str) -> None:
    for one in (text, "{" + text, "{" + text + "}", '{"a": "b", ' + text + '": "c"}'):
        at_once = scanned(one)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(literal, "_FLAT", re.compile("(?!)"))
            assert at_once == scanned(one)


def test_a_canonical_reply_and_one_of_python_are_read_at_once() -> None:
    for text in (json.dumps(named(CLASS)), repr(named(CLASS))):
        assert literal._FLAT.fullmatch(text)


CASES = st.sampled_from(["python", "json", "indented"])


@RUBRICS
@settings(deadline=None, max_examples=60)
@given(data=st.data(), form=CASES, share=st.floats(0, 1))
def test_labels_that_stand_complete_before_a_cut_are_read_and_no_other(
    rubric: Rubric, data: st.DataObject, form: str, share: float
) -> None:
    """Each field is read once the quote that closes its value is there, and never before: "1 may become "12"."""
    mapping = named(rubric, **data.draw(some_values(rubric)))
    dump = {"python": repr, "json": json.dumps, "indented": lambda one: json.dumps(one, indent=2)}[form]
    text = dump(mapping)
    cut = text[: round(share * (len(text) - 1))]
    reply = rubric.parse(f"Sure: {cut}")
    whole = rubric.parse(text).values
    items = list(mapping.items())
    closed = [at for at in range(len(items)) if len(dump(dict(items[: at + 1])).rstrip("}").rstrip()) <= len(cut)]
    assert reply.values == {field.key: whole[field.key] for field in rubric.fields[: len(closed)]}
    assert (reply.defect, reply.cut) == ("unparseable", "{" in cut)


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ('{"Action Based on Evaluation": "1', {}),
        ('{"Action Based on Evaluation": "1"', {"action": "1"}),
        ('{"Action Based on Evaluation": "1" "', {}),  # two strings side by side are one
        ('{"Action Based on Evaluation": "1", "Subproblem State": "', {"action": "1"}),
        ('{"Action Based on Evaluation": "1", "Mood": ["calm", {"Subproblem State": "x"', {"action": "1"}),
        ('{"Action Based on Evaluation": "1", "Mood": Tru', {"action": "1"}),
        ('{"Action Based on Evaluation": "1", "Mood": -', {"action": "1"}),
        ('{"Action Based on Evaluation": "1", "Mood": "\\u00', {"action": "1"}),
        ('{"Action Based on Evaluation": "1", "Mood": "\\', {"action": "1"}),
        ('{"Tutorbot": "Write \\"Action Based on Evaluation\\": \\"1\\", and ', {}),
        ('{\'Tutorbot\': \'{"Action Based on Evaluation": "1", ', {}),
        ('{"Evaluation of Student Response": "n/a", "Act', {"evaluation": "g"}),
    ],
)
def test_a_reply_that_is_cut_off_keeps_what_is_closed(text: str, values: dict[str, str]) -> None:
    reply = CLASS.parse(text)
    assert (reply.values, reply.defect, reply.cut) == (values, "unparseable", True)
    assert reply.detail.startswith("cut off")


def test_a_reply_that_is_broken_and_not_cut_has_no_values() -> None:
    for text in ('{"Action Based on Evaluation": "1", "Mood": calm}', '{"Action Based on Evaluation": "1" x', "{" * 9):
        reply = CLASS.parse(text)
        assert (reply.values, reply.defect, reply.cut) == ({}, "unparseable", False)


@RUBRICS
def test_what_is_wrong_is_named(rubric: Rubric) -> None:
    label, text = rubric.label_fields[0], rubric.field(rubric.spoken)
    two_labels = ", ".join(list(label.labels)[:2])
    without = {name: value for name, value in named(rubric).items() if name != text.name}

    assert rubric.parse(json.dumps(named(rubric))[:-1]).defect == "unparseable"
    assert rubric.parse(json.dumps(named(rubric)) * 2).defect == "unparseable"
    assert rubric.parse("I would rather not say.").defect == "unparseable"
    for missing in (named(rubric, **{text.key: ["Go on."]}), named(rubric, **{label.key: None}), without):
        assert rubric.parse(json.dumps(missing)).defect == "incomplete"
    assert rubric.parse(json.dumps(named(rubric, **{label.key: two_labels}))).defect == "unknown_label"
    both = named(rubric, **{label.key: two_labels, text.key: 3})
    assert rubric.parse(json.dumps(both)).defect == "incomplete"


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (1, 'is a number, 1; write it as text: "1"'),
        (-2.5, 'is a number, -2.5; write it as text: "-2.5"'),
        (True, 'is the value true, not text; write it as text: "true"'),
        (None, "is null"),
        (["1"], "is a list"),
        ({"1": "1"}, "is a mapping"),
    ],
)
def test_a_label_that_is_not_text_is_named_with_its_value_and_how_to_write_it(value, found) -> None:
    for form in (json.dumps, repr):
        assert CLASS.parse(form(named(CLASS, action=value))).detail == f"'Action Based on Evaluation' {found}"


@pytest.mark.parametrize("spelling", ["N/A", "n/a", " na ", "None", "NONE", ""])
def test_spellings_of_not_applicable_become_its_label(spelling: str) -> None:
    for field in CLASS.label_fields:
        reply = CLASS.parse(json.dumps(named(CLASS, **{field.key: spelling})))
        assert (reply.defect, reply.values[field.key]) == (None, field.not_applicable)


@RUBRICS
def test_fields_that_the_rubric_does_not_name_are_dropped(rubric: Rubric) -> None:
    more = {"Thoughts of Tutorbot": "The student is wrong.", **named(rubric), "Mood": ["calm", {"deep": None}], "n": 1}
    assert rubric.parse(repr(more)) == rubric.parse(repr(named(rubric)))
