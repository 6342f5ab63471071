"""The data of which the report page is made, and the parts of its sections."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pedalign.data.rubric import Field, Rubric
from pedalign.reporting import charts
from pedalign.reporting.summary import Key


@dataclass(frozen=True)
class Report:
    """All that a section of the page can show.

    `rows`: of summary.csv, one per tutor, then one per group of seeds; its numbers are texts. By tutor (model, policy):
    `metrics`, `perplexities` and `manifests` (metrics.json, perplexity.json, checkpoint.json), of those that have one.
    By model: `audits` (audit.json) and `counts` (preferences_counts.json). `splits`: splits.json. `papers_data`:
    whether these are the paper's conversations. `asked`: the number of test turns that the tutors answered. `turns`:
    the scored turns of the transcripts, with the `id` of their conversation; the `replies` of a turn are in the order
    of `tutors`. `first_turn`: whether first turns are scored. By stage: `seconds` of all its jobs, `gigabytes` of its
    largest one.
    """

    rubric: Rubric
    tutors: Sequence[Key]
    rows: Sequence[Mapping[str, str]]
    metrics: Mapping[Key, Mapping[str, Any]]
    perplexities: Mapping[Key, Mapping[str, Any]]
    manifests: Mapping[Key, Mapping[str, Any]]
    audits: Mapping[str, Mapping[str, Any]]
    counts: Mapping[str, Mapping[str, Any]]
    splits: Mapping[str, Any]
    papers_data: bool
    asked: int
    turns: Sequence[Mapping[str, Any]]
    first_turn: bool
    seconds: Mapping[str, float]
    gigabytes: Mapping[str, float]

    @property
    def main_field(self) -> Field:
        """The field that says whether a tutor scaffolds; if the rubric names none, its last label field."""
        named = self.rubric.scaffold_field
        return self.rubric.field(named) if named else self.rubric.label_fields[-1]


@dataclass(frozen=True)
class Figure:
    """A chart, its title, its description for screen readers, and its caption."""

    title: str
    svg: str
    described: str
    caption: str

    @property
    def width(self) -> int:
        """The width in pixels at which the chart's text has its size."""
        found = re.search(r'width="([0-9.]+)"', self.svg)
        return round(float(found[1])) if found else 0


Table = tuple[Sequence[str], Sequence[Sequence[str]]]  # header and rows


@dataclass
class Section:
    """A part of the page; links name its `id`. `legend`: the title and the content of a collapsed table."""

    id: str
    title: str
    text: str = ""
    figures: list[Figure] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    legend: tuple[str, Table] | None = None

    def add(self, title: str, chart: Any, described: str, caption: str = "") -> None:
        """Draw an Altair chart; `described`: what it shows, in words, for screen readers."""
        self.figures.append(Figure(title, charts.svg(chart), described, caption))


def scored(conversations: Iterable[Mapping[str, Any]], first_turn: bool) -> list[Mapping[str, Any]]:
    """The scored turns of transcripts: those whose gold reply has no defect; first ones only if `first_turn`."""
    turns = [{"id": one["id"], **turn} for one in conversations for turn in one["turns"] if turn["turn"] or first_turn]
    return [turn for turn in turns if not turn["gold"]["defect"]]


def counted(number: float | str, one: str, many: str = "") -> str:
    """A number and its noun: 1 turn, 1,200 turns"""
    return f"{int(number):,} {one if int(number) == 1 else many or f'{one}s'}"


def name_of(row: Mapping[str, str]) -> str:
    """A tutor's name, by its row of summary.csv."""
    return f"{row['model']} {row['policy']}"


def kind_of(policy: str) -> str:
    """The kind by which charts colour a tutor."""
    return {"base": "untrained", "sft": "fine-tuned"}.get(policy, "aligned")
