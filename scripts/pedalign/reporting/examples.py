"""Three replies for the top of the report page: what alignment corrected, what it spoiled, and what it left right."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pedalign.data.rubric import Rubric
from pedalign.reporting.report import Report

LONGEST = 400  # characters of a text that are shown

_KINDS = {
    (False, True): "Corrected by alignment",
    (True, False): "Spoiled by alignment",
    (True, True): "Right before and after",
    (False, False): "Wrong before and after",
}
_SHOWN = 3


@dataclass(frozen=True)
class Said:
    """A text of an example. `labels`: in words, each with whether it is right; `defect`: why a reply can't be read."""

    who: str
    text: str
    labels: Sequence[tuple[str, bool | None]] = ()
    defect: str = ""


@dataclass(frozen=True)
class Example:
    """A test turn with the replies of tutors. `link`: of the transcript's reply."""

    title: str
    said: Sequence[Said]
    link: str


def compared_pair(tutors: Sequence[tuple[str, str]]) -> tuple[int, int]:
    """The places of the two tutors that the page compares first: the first aligned one, and its fine-tuned tutor."""
    for at, (model, policy) in enumerate(tutors):
        if policy not in ("base", "sft") and (model, "sft") in tutors:
            return tutors.index((model, "sft")), at
    return 0, min(1, len(tutors) - 1)


def examples(report: Report) -> list[Example]:
    """The first scored turn of each kind, by the main field's label of the compared pair of tutors; at most three."""
    key, pair = report.main_field.key, compared_pair(report.tutors)
    if pair[0] == pair[1]:
        return []
    found: dict[tuple[bool, bool], Mapping[str, Any]] = {}
    for turn in report.turns:
        before, after = (turn["replies"][at]["labels"][key] == turn["gold"]["labels"][key] for at in pair)
        found.setdefault((before, after), turn)
    kinds = [kind for kind in _KINDS if kind in found][:_SHOWN]
    return [_example(_KINDS[kind], found[kind], report, pair) for kind in kinds]


def _example(title: str, turn: Mapping[str, Any], report: Report, pair: tuple[int, int]) -> Example:
    model = report.tutors[pair[1]][0]
    untrained = [at for at, tutor in enumerate(report.tutors) if tutor == (model, "base")]
    said = [Said("student", _short(turn["student"])), _said("gold reply", turn["gold"], None, report.rubric)]
    for at in (*untrained, *pair):
        said.append(_said(" ".join(report.tutors[at]), turn["replies"][at], turn["gold"], report.rubric))
    return Example(title, said, f"#reply={turn['id']}:{turn['turn']}")


def _said(who: str, reply: Mapping[str, Any], gold: Mapping[str, Any] | None, rubric: Rubric) -> Said:
    labels = []
    for field in rubric.label_fields:
        label = reply["labels"][field.key]
        words = field.labels[label] if label is not None else f"no valid {field.key}"
        labels.append((words, None if gold is None else label == gold["labels"][field.key]))
    return Said(who, _short(reply["text"]), labels, reply["defect"] or "")


def _short(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST].rstrip()} …"
