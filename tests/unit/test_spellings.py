"""Labels as people write them are read as the rubric's in conversation files, and every spelling is counted."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pedalign.data.conversations import turn_reader
from pedalign.data.preferences import mistake
from pedalign.data.rubric import Rubric, load_rubric
from pedalign.data.spellings import told
from pedalign.data.splits import SplitSettings, draw

RUBRIC = """
name: Steps
fields:
  - name: Evaluation
    key: evaluation
    name_written_as: [Evaluation of the Student, evaluation]
    labels: {a: incorrect, b: correct, g: not applicable}
    not_applicable: {label: g, written_as: [n/a]}
    labels_written_as: {b: [right, B], a: [wrong]}
  - name: Step
    key: step
    labels: {1: the first, 2: the second, 12: the twelfth, other: another one}
    labels_written_as: {1: [Step 1], 2: [Step 2]}
    all_else: other
  - name: Tutor
    key: tutor
    name_written_as: [Tutorbot]
spoken: tutor
instructions: {compact: You are a tutor.}
"""


@pytest.fixture(scope="module")
def steps(tmp_path_factory: pytest.TempPathFactory) -> Rubric:
    path = tmp_path_factory.mktemp("rubric") / "steps.yaml"
    path.write_text(RUBRIC)
    return load_rubric(path)


def reply(evaluation: str = "a", step: str = "1") -> str:
    return json.dumps({"Evaluation": evaluation, "Step": step, "Tutor": "Look again."})


def conversations(folder: Path, *replies: str) -> Path:
    """A file of one conversation of two turns for each reply."""
    records = [
        {
            "id": str(at),
            "conversations": [*({"from": "human", "value": f"Q. {at}"}, {"from": "gpt", "value": text}) * 2],
        }
        for at, text in enumerate(replies)
    ]
    path = folder / "own-dataset-1.json"
    path.write_text(json.dumps(records))
    return path


READ = {
    "b": [
        "b",
        "b)",
        " b) Evaluating Correct Response ",
        "b)  correct",
        "right",
        "RIGHT",
        "B",
        "B) Correct",
        "right) so",
    ],
    "g": ["g) N/A", "n/a", "N/A)"],
    "a": ["a) the student forgot a) and more", "wrong", "a) incorrect"],
}
NOT_READ = [
    "A",
    "A) wrong",
    "b: right",
    "(b)",
    "",
    ")",
    ") b",
    "ab) Hm",
    "b) or g)",
    "b) g",
    "b), a)",
    "a) and b",
    "b) N/A",
    "b) wrong",
    "a) Correct",
]
CASES = [(one, label) for label, written in READ.items() for one in written] + [(one, None) for one in NOT_READ]


@pytest.mark.parametrize(("written", "label"), CASES)
def test_a_label_before_a_bracket_is_read_and_one_that_names_two_is_not(steps, written, label) -> None:
    read = steps.canonical(reply(written), spellings=True)
    assert (read.defect, read.detail) == ((None, "") if label else ("unknown_label", f"'Evaluation' is {written!r}"))
    if label:
        assert read.text == reply(label)
        assert bool(read.read_as) == (written.strip() != label)


ELSE = {
    "2 and 3": "other",
    "4b": "other",
    "": "other",
    "1) and 2)": "other",
    "other": "other",
    "Other": None,
    "OTHER) 7": None,
}
NOT_ELSE = {"12) N/A": "12", "Step 1": "1", "step 2": "2", "Step 1)": "1"}


@pytest.mark.parametrize(("written", "label"), [*ELSE.items(), *NOT_ELSE.items()])
def test_all_else_is_a_label_but_for_a_label_in_other_case(steps, written, label) -> None:
    read = steps.parse(reply(step=written), spellings=True)
    assert (read.defect is None, read.values["step"]) == (label is not None, label or written)


@pytest.mark.parametrize("name", ["Evaluation of the Student", "evaluation"])
def test_another_name_of_a_field_is_read_and_two_that_disagree_are_not(steps, name) -> None:
    other = reply().replace("Evaluation", name)
    assert steps.canonical(other, spellings=True).text == reply()
    assert steps.parse(other).detail == "'Evaluation' is missing"
    for second, defect in (("a", None), ("b", "incomplete")):
        both = json.dumps({**json.loads(reply()), name: second})
        assert steps.parse(both, spellings=True).defect == defect


def test_a_tutors_own_reply_is_held_to_the_form_it_was_trained_on(steps) -> None:
    """Else the share of valid replies would hide that a tutor does not keep to the form; pairs can teach it."""
    for text in (reply("b) Correct"), reply("right"), reply(step="Step 1"), reply(step="4b")):
        assert steps.parse(text).defect == "unknown_label"
        assert steps.canonical(text).defect == "unknown_label"
        assert mistake(steps.canonical(text, spellings=True).text, text, steps)
    assert steps.parse(reply("n/a")).values["evaluation"] == "g"


def test_the_papers_rules_read_what_they_read_before(steps) -> None:
    for text in (reply("b) Correct"), reply(step="Step 1"), reply("right", "4b")):
        assert turn_reader(steps, paper_rules=True).reply(text).text == text
    renamed = reply().replace("Evaluation", "evaluation")
    assert turn_reader(steps, paper_rules=True).reply(renamed).defect == "incomplete"


@settings(deadline=None, max_examples=200)
@given(
    st.lists(st.sampled_from(["a", "b", "g", ")", "(", " ", "right", "N/A", "and", "Step 1", "é", "\0"]), max_size=8)
)
def test_what_is_read_is_canonical_and_reads_as_itself(steps, parts) -> None:
    read = steps.canonical(reply("".join(parts), "".join(parts)), spellings=True)
    if read.defect is None:
        assert steps.parse(read.text).defect is None
        assert steps.canonical(read.text, spellings=True).text == read.text
        assert steps.canonical(read.text, spellings=True).read_as == ()


def test_every_spelling_of_the_drawn_replies_is_counted_and_told(steps, tmp_path) -> None:
    named = reply().replace("Evaluation", "evaluation")
    replies = [
        reply("b) Correct"),
        reply("b) So it is"),
        reply("b)"),
        reply("n/a"),
        reply(step="Step 1"),
        named,
        reply(),
    ]
    cut = [json.dumps({"Evaluation": "right"}), reply("hm", "Step 1")]  # what is cut is not counted
    path = conversations(tmp_path, *replies, reply("right"), *cut)
    _, report = draw([path], steps, SplitSettings(sft=5, dpo=2, test=3, seed=3))
    assert report["read_as"] == {
        "names": [{"field": "evaluation", "written": "evaluation", "replies": 2}],
        "labels": [
            {"field": "evaluation", "written": "b) …", "label": "b", "replies": 4},
            {"field": "evaluation", "written": "b)", "label": "b", "replies": 2},
            {"field": "evaluation", "written": "n/a", "label": "g", "replies": 2},
            {"field": "evaluation", "written": "right", "label": "b", "replies": 2},
            {"field": "step", "written": "Step 1", "label": "1", "replies": 2},
        ],
    }
    assert told(report["read_as"]) == (
        "12 labels and 2 field names read from another spelling: evaluation 'b) …' as 'b' × 4, "  # noqa: RUF001
        "evaluation 'b)' as 'b' × 2, evaluation 'n/a' as 'g' × 2 and 3 others"  # noqa: RUF001
    )
    assert report["warnings"] == []


def test_values_of_everything_else_are_listed_the_rest_summed_and_many_are_warned_of(steps, tmp_path) -> None:
    replies = [reply(step=f"step {at}") for at in range(30, 60)] + [reply(step="last")] * 2 + [reply()] * 8
    _, report = draw([conversations(tmp_path, *replies)], steps, SplitSettings(sft=20, dpo=10, test=10, seed=1))
    labels = report["read_as"]["labels"]
    assert labels[0] == {"field": "step", "written": "last", "label": "other", "replies": 4, "otherwise": True}
    assert labels[-1] == {"field": "step", "values": 11, "label": "other", "replies": 22, "otherwise": True}
    assert (
        sum(one["replies"] for one in labels)
        == 64
        == sum(found["labels"]["step"]["other"] for found in report["splits"].values())
    )
    (warning,) = report["warnings"]
    assert warning.startswith("64 of 80 replies have the label 'other' of 'step' as it stands for all other values")
    assert "'last' × 4" in warning and "labels_written_as" in warning  # noqa: RUF001
