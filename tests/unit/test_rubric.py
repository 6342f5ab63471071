"""A rubric file says what it means or is refused: where, what was found, what would be right."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from pedalign.data.rubric import load_rubric

FOLDER = Path(__file__).parents[2] / "datasets/rubrics"
OWN = """\
name: Yes or no
fields:
  - name: Judgement
    key: judgement
    labels:
      yes: the student is right
      no: the student is wrong
      n: nothing to judge
    not_applicable: {label: n, written_as: [N/A, null]}
  - name: Move
    key: move
    labels:
      1: give a hint
      010: tell
    name_written_as: [Next Move]
    labels_written_as: {1: [hint, clue], 010: [solution]}
    all_else: 010
  - name: Tutor
    key: tutor
spoken: tutor
scaffold_tell:
  field: move
  pairs: [[1, 010]]
instructions:
  compact: You are a tutor.
"""


@pytest.fixture
def own(tmp_path: Path) -> Callable[[str, str], Path]:
    """The rubric above with a part of it replaced, as a file."""

    def write(old: str = "", new: str = "") -> Path:
        assert old in OWN
        path = tmp_path / "own.yaml"
        path.write_text(OWN.replace(old, new, 1))
        return path

    return write


@pytest.mark.parametrize("name", ["class", "mathdial", "physics"])
def test_the_rubrics_that_come_with_the_project_are_accepted(name: str) -> None:
    rubric = load_rubric(FOLDER / f"{name}.yaml")
    assert rubric.label_fields
    assert rubric.scaffold_tell


def test_labels_are_the_text_that_stands_in_the_file_whatever_yaml_makes_of_it(own) -> None:
    rubric = load_rubric(own())
    assert [list(field.labels) for field in rubric.fields] == [["yes", "no", "n"], ["1", "010"], []]
    assert rubric.scaffold_tell == (("1", "010"),)
    reply = '{"Judgement": "%s", "Move": "010", "Tutor": "Well."}'
    assert [rubric.parse(reply % word).values["judgement"] for word in ("yes", "n/a", "NULL")] == ["yes", "n", "n"]
    assert rubric.parse(reply % "True").defect == "unknown_label"


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("labels:", "lables:", ["fields[0] (Judgement): unknown key 'lables'", "did you mean 'labels'"]),
        ("spoken: tutor\n", "", ["top level: key 'spoken' is missing", "the key of the text field that the student"]),
        ("spoken: tutor\n", "spokn: tutor\n", ["top level: unknown key 'spokn'", "did you mean 'spoken'"]),
        ("spoken: tutor\n", "spoken: Tutor\n", ["spoken: 'Tutor' is not the key of a text field", "valid: tutor"]),
        ("spoken: tutor\n", "spoken: move\n", ["spoken: 'move' is not the key of a text field", "valid: tutor"]),
        ("spoken: tutor\n", "spoken: [tutor]\n", ["spoken: is ['tutor'] (list)", "give a text", "text field"]),
        ("    key: move\n", "", ["fields[1] (Move): key 'key' is missing", "letters, digits"]),
        ("key: move", "key: my move", ["fields[1] (Move).key: is 'my move'", "letters, digits"]),
        ("key: move", "key: judgement", ["fields: 'judgement' and 'judgement' are the keys of two", "its own key"]),
        ("name: Move", "name: judgement", ["'Judgement' and 'judgement' are the names of two fields"]),
        ("name: Move", "name: ''", ["fields[1] ().name: is ''", "without spaces"]),
        ("name: Move", "name: 'Move '", ["name: is 'Move '", "without spaces at its ends"]),
        ("name: Move", "name: [Move]", ["fields[1].name: is ['Move'] (list)", "give a text"]),
        ("{label: n, written_as: [N/A, null]}", "{label: x}", ["'x' is no label of the field", "valid: n, no, yes"]),
        ("[N/A, null]", "N/A", ["not_applicable.written_as: is 'N/A' (text)", "a list"]),
        ("[N/A, null]", "[N/A, NO]", ["written_as: 'NO' is the label 'no', which would be read as 'n'", "take it out"]),
        ("{label: n, ", "{", ["not_applicable: key 'label' is missing", "stands for 'not applicable'"]),
        ("      n: nothing", "      No: nothing", ["labels 'no' and 'No' differ in case alone", "rename one"]),
        ("      n: nothing", "      no: nothing", ["key 'no' stands there twice", "line 8"]),
        ("      n: nothing to judge\n", "      n:\n", ["fields[0] (Judgement).labels.n: is ''", "write a text there"]),
        ("      n: nothing", "      '': nothing", ["fields[0] (Judgement).labels: the key ''", "write a name"]),
        (
            "      n: nothing",
            "      'n ': nothing",
            ["fields[0] (Judgement).labels: the key 'n '", "spaces at its ends"],
        ),
        ("\n      1: give a hint\n      010: tell", " [1, 010]", ["labels: is ['1', '010'] (list)", "a: incorrect"]),
        ("\n      1: give a hint\n      010: tell", "", ["labels: is '' (text)", "leave the key out"]),
        ("\n      1: give a hint\n      010: tell", " {1: hint}", ["labels: is {'1': 'hint'}", "at least 2"]),
        ("    key: tutor\n", "    key: tutor\n    not_applicable: {label: n}\n", ["'n' is no label of the field"]),
        ("{1: [hint", "{2: [hint", ["fields[1] (Move): labels_written_as: '2' is no label of the field", "valid: 010"]),
        ("[hint, clue]", "hint", ["labels_written_as.1: is 'hint' (text)", "a list"]),
        ("[hint, clue]", "['010']", ["labels_written_as.1: '010' is the label '010', which would be read as '1'"]),
        ("[hint, clue]", "['010) told']", ["labels_written_as.1: '010) told' is the label '010'", "take it out"]),
        ("[solution]", "[HINT]", ["labels_written_as.010: 'HINT' is also a spelling of '1'", "take it out"]),
        ("labels_written_as:", "label_written_as:", ["unknown key 'label_written_as'", "'labels_written_as'"]),
        ("all_else: 010", "all_else: other", ["fields[1] (Move): all_else: 'other' is no label of the field"]),
        ("[Next Move]", "[Tutor]", ["fields: 'Tutor' stands for 'Move' and for 'Tutor'", "name_written_as"]),
        ("[Next Move]", "Next", ["name_written_as: is 'Next' (text)", "a list"]),
        ("    key: tutor\n", "    key: tutor\n    all_else: n\n", ["(Tutor): all_else: 'n' is no label of the field"]),
        ("[[1, 010]]", "[[1, 10]]", ["scaffold_tell.pairs: '10' is no label of 'move'", "did you mean '010'"]),
        ("[[1, 010]]", "[[1]]", ["scaffold_tell.pairs[0]: is ['1']", "at least 2", "the one that tells"]),
        ("[[1, 010]]", "[[1, 010], [010, 1]]", ["scaffold_tell.pairs: '010' stands in both places"]),
        ("field: move", "field: tutor", ["scaffold_tell.field: 'tutor' is not the key of a field with labels", "move"]),
        ("instructions:\n  compact: You are a tutor.", "instructions: Teach.", ["instructions: is 'Teach.' (text)"]),
        ("compact: You are a tutor.", "compact:", ["instructions.compact: is ''", "write a text there"]),
        (OWN, "- a\n- b\n", ["own.yaml: top level: is ['a', 'b'] (list)", "name, fields, spoken and instructions"]),
        (OWN, "", ["own.yaml: top level: is null", "name, fields, spoken and instructions"]),
        (OWN, "name: *x\n", ["not YAML"]),
    ],
)
def test_a_mistake_in_a_rubric_is_named_with_its_place_and_what_would_be_right(own, refused, old, new, words) -> None:
    path = own(old, new)
    with refused(str(path), *words):
        load_rubric(path)


def test_two_fields_of_a_rubric_may_share_their_labels_by_an_alias(tmp_path) -> None:
    path = tmp_path / "shared.yaml"
    path.write_text(
        "name: A\nfields:\n- {name: A, key: a, labels: &yes-no {yes: right, no: wrong}}\n"
        "- {name: B, key: b, labels: *yes-no}\n- {name: C, key: c}\nspoken: c\ninstructions: {compact: Hm.}\n"
    )
    assert [list(field.labels) for field in load_rubric(path).label_fields] == [["yes", "no"]] * 2


def test_a_rubric_without_labels_is_refused(own, refused, tmp_path) -> None:
    path = tmp_path / "texts.yaml"
    path.write_text(
        "name: A\nfields: [{name: A, key: a}, {name: B, key: b}]\nspoken: a\ninstructions: {compact: Hm.}\n"
    )
    with refused(str(path), "none of them has labels", "add 'labels:'"):
        load_rubric(path)


def test_the_rubric_in_the_docs_is_accepted_and_its_reply_is_valid(tmp_path) -> None:
    text = (FOLDER.parents[1] / "docs/reference/rubrics.md").read_text()
    path = tmp_path / "docs.yaml"
    path.write_text(re.search("```yaml\n(.*?)```", text, re.DOTALL)[1])
    (reply,) = re.findall(r"A reply that fits it: `(.*)`", text)
    assert load_rubric(path).parse(reply).defect is None
    assert load_rubric(path).parse(reply.replace('"1"', "1")).detail in text
