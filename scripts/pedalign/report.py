"""What the report page says: an answer in a sentence, then sections of charts and tables."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pedalign import charts
from pedalign.rubric import Field, Rubric
from pedalign.summary import Key

SIGNIFICANT = 0.05
# The paper's own headline figures: points of accuracy, aligned over fine-tuned (arXiv 2402.05000, v2 and v3).
PAPER = {"Mistral (v2)": 37.0, "Zephyr (v2)": 23.0, "Llama (v3)": 13.1, "Mistral (v3)": 8.7}


@dataclass(frozen=True)
class Figure:
    """A chart, what stands over it, what a screen reader says of it, and what stands under it."""

    title: str
    svg: str
    described: str
    caption: str


@dataclass
class Section:
    id: str
    title: str
    text: str = ""
    figures: list[Figure] = field(default_factory=list)
    tables: list[tuple[Sequence[str], Sequence[Sequence[str]]]] = field(default_factory=list)

    def add(self, title: str, chart: Any, described: str, caption: str = "") -> None:
        self.figures.append(Figure(title, charts.svg(chart), described, caption))


def main_field(rubric: Rubric) -> Field:
    """The field that says whether a tutor scaffolds; of a rubric that names none, its last label."""
    return rubric.field(rubric.scaffold_field) if rubric.scaffold_field else rubric.label_fields[-1]


def answers(rows: Sequence[Mapping[str, str]], rubric: Rubric) -> list[str]:
    """Whether alignment helped: a sentence for each aligned tutor; of more than three, one for all of them.

    `rows` are those of summary.csv; p-values are Holm's, over all aligned tutors.
    """
    key = main_field(rubric).key
    compared = [row for row in rows if row[f"{key}_p_holm"]]
    first = rows[0]
    on = f"On {first['replies']} test replies of {first['conversations']} conversations, {first['data']},"
    if not compared:
        return [f"{on} no aligned tutor was measured."]
    if len(compared) <= 3:
        return [f"{on} {_answer(row, key)}" for row in compared]
    better = sum(_significant(row, key) and float(row[f"{key}_difference"]) > 0 for row in compared)
    worse = sum(_significant(row, key) and float(row[f"{key}_difference"]) < 0 for row in compared)
    points = [100 * float(row[f"{key}_difference"]) for row in compared]
    return [
        f"{on} {better} of {len(compared)} aligned tutors pick the right {key} significantly more often than their "
        f"fine-tuned tutor, {worse} less often (p < {SIGNIFICANT}, Holm); differences {min(points):+.1f} to "
        f"{max(points):+.1f} points."
    ]


def _answer(row: Mapping[str, str], key: str) -> str:
    difference, low, high = (100 * float(row[f"{key}_difference{end}"]) for end in ("", "_low", "_high"))
    p = float(row[f"{key}_p_holm"])
    told = f"the tutor {row['model']} {row['policy']} picks the right {key} in {float(row[f'{key}_accuracy']):.1%}: "
    told += f"{difference:+.1f} points against its fine-tuned tutor, 95% interval {low:+.1f} to {high:+.1f}, "
    told += "p < 0.001" if p < 0.001 else f"p = {p:.3f}"
    return told + ("." if _significant(row, key) else ": not significant.")


def _significant(row: Mapping[str, str], key: str) -> bool:
    return float(row[f"{key}_p_holm"]) < SIGNIFICANT


def comparison(rows: Sequence[Mapping[str, str]], rubric: Rubric) -> Section:
    """All tutors with their intervals, and what alignment changed."""
    section = Section(
        "runs",
        "All tutors",
        "Share of right labels with 95% intervals, drawn over conversations; the dashed line is what always giving the "
        "commonest label would get. Below, the difference of each aligned tutor to its fine-tuned one, in points.",
    )
    alone = [row for row in rows if row["seeds"] == "1"]
    names = [_name(row) for row in alone]
    for one in rubric.label_fields:
        points = [
            {
                **{end: float(row[f"{one.key}_accuracy{mark}"]) for end, mark in _ENDS.items()},
                **{"name": _name(row), "kind": "fine-tuned" if row["policy"] == "sft" else "aligned"},
            }
            for row in alone
        ]
        chart = charts.intervals(points, names, float(rows[0][f"{one.key}_majority"]))
        described = "; ".join(f"{at['name']} {at['value']:.1%} ({at['low']:.1%} to {at['high']:.1%})" for at in points)
        section.add(one.name, chart, f"Right labels, {one.name}: {described}")
    compared = [row for row in alone if row[f"{rubric.label_fields[0].key}_p_holm"]]
    for one in rubric.label_fields if compared else ():
        points = [
            {
                **{end: 100 * float(row[f"{one.key}_difference{mark}"]) for end, mark in _ENDS.items()},
                **{"name": _name(row), "kind": "aligned"},
            }
            for row in compared
        ]
        chart = charts.intervals(points, [_name(row) for row in compared], 0, percent=False)
        described = "; ".join(
            f"{at['name']} {at['value']:+.1f} ({at['low']:+.1f} to {at['high']:+.1f})" for at in points
        )
        section.add(f"{one.name}: difference", chart, f"Difference in points, {one.name}: {described}")
    paper = [{"name": name, "value": points, "kind": "paper"} for name, points in PAPER.items()]
    section.add(
        "The paper's differences",
        charts.bars(paper, list(PAPER), "points"),
        f"For orientation, in points: {', '.join(f'{name} {points:+.1f}' for name, points in PAPER.items())}",
        "for orientation: arXiv 2402.05000, models of 7 to 8 billion parameters on its own data",
    )
    return section


_ENDS = {"value": "", "low": "_low", "high": "_high"}


def _name(row: Mapping[str, str]) -> str:
    return f"{row['model']} {row['policy']}"


def confusion_section(
    conversations: Iterable[Mapping[str, Any]], tutors: Sequence[Key], rubric: Rubric, first_turn: bool
) -> Section:
    """`conversations`: the transcripts of the `tutors`; turns whose gold reply has a defect are not scored."""
    turns = [turn for one in conversations for turn in one["turns"] if turn["turn"] or first_turn]
    turns = [turn for turn in turns if not turn["gold"]["defect"]]
    section = Section(
        "confusion",
        "Which labels are mixed up",
        "Each square: how often a gold label got the tutor's label; the fuller its colour, the larger its share of the "
        "row. None: the reply has no valid label there.",
    )
    for one in rubric.label_fields:
        for at, (model, policy) in enumerate(tutors):
            counts = Counter(
                (turn["gold"]["labels"][one.key], turn["replies"][at]["labels"][one.key] or "none") for turn in turns
            )
            gold = [label for label in one.labels if label in {left for left, _ in counts}]
            found = [label for label in (*one.labels, "none") if label in {*gold, *(other for _, other in counts)}]
            right = sum(count for (left, other), count in counts.items() if left == other)
            worst = max(
                ((pair, n) for pair, n in counts.items() if pair[0] != pair[1]), key=lambda at: at[1], default=None
            )
            described = f"{one.name}, {model} {policy}: {right} of {sum(counts.values())} right"
            if worst:
                described += f"; most often {worst[0][0]} was taken for {worst[0][1]} ({worst[1]})"
            section.add(f"{one.name}, {model} {policy}", charts.confusion(counts, gold, found), described, described)
    return section


def turns(metrics: Mapping[Key, Mapping[str, Any]], rubric: Rubric) -> Section:
    """How right each tutor is by its turn in the conversation."""
    section = Section(
        "turns", "By turn", "Share of right labels by the tutor's turn, with 95% intervals; turns count from 0."
    )
    for one in rubric.label_fields:
        rows = [
            {
                **{"turn": int(turn), "value": at[one.key]["accuracy"], "kind": f"{model} {policy}"},
                **dict(zip(("low", "high"), at[one.key]["accuracy_ci95"], strict=True)),
            }
            for (model, policy), measures in metrics.items()
            for turn, at in measures["by_turn"].items()
        ]
        chart = charts.lines(rows, "turn", percent=True, band=len(metrics) <= 3)
        ends = "; ".join(
            f"{name} {_first(rows, name)['value']:.0%} to {_first(rows[::-1], name)['value']:.0%}"
            for name in dict.fromkeys(row["kind"] for row in rows)
        )
        section.add(one.name, chart, f"{one.name} from the first turn to the last: {ends}")
    return section


def _first(rows: Iterable[Mapping[str, Any]], kind: str) -> Mapping[str, Any]:
    return next(row for row in rows if row["kind"] == kind)


def perplexity(reports: Mapping[Key, Mapping[str, Any]]) -> Section:
    """How likely each tutor finds replies that scaffold, and replies that tell."""
    section = Section("perplexity", "Scaffolding or telling")
    if not reports:
        section.text = "Skipped: the data has no file of pairs of a scaffolding and a telling reply."
        return section
    pairs = next(iter(reports.values()))["pairs"]
    section.text = (
        f"Perplexity of replies that scaffold and of replies that tell, {pairs} pairs with one history each: the "
        "lower, the likelier the tutor finds them."
    )
    names = [f"{model} {policy}" for model, policy in reports]
    rows, shares = [], []
    for name, report in zip(names, reports.values(), strict=True):
        scaffold, tell = (group["perplexity"] for group in report["groups"].values())
        rows += [
            {"name": name, "value": scaffold, "kind": "scaffolding"},
            {"name": name, "value": tell, "kind": "telling"},
        ]
        likelier = report["scaffold_likelier"]["per_token"]
        low, high = likelier["share_ci95"]
        shares.append({"name": name, "value": likelier["share"], "low": low, "high": high, "kind": "aligned"})
    told = "; ".join(f"{row['name']}, {row['kind']}: {row['value']:.2f}" for row in rows)
    section.add("Perplexity", charts.bars(rows, names), f"Perplexity. {told}")
    told = "; ".join(f"{row['name']} {row['value']:.1%}" for row in shares)
    chart = charts.intervals(shares, names, 0.5)
    section.add("Pairs with scaffolding likelier", chart, f"Share of pairs with scaffolding likelier per token: {told}")
    return section


_CURVES = {
    "loss": "Loss",
    "rewards/margins": "Margin of rewards",
    "grad_norm": "Gradient norm",
    "learning_rate": "Learning rate",
}


def trainings(manifests: Mapping[Key, Mapping[str, Any]]) -> Section:
    """The curves of each training that was done here, of its steps."""
    section = Section("training", "How the trainings went", "By optimizer step, as the trainers logged it.")
    for (model, policy), manifest in manifests.items():
        history = manifest.get("history", ())
        for name, title in _CURVES.items():
            rows = [
                {"step": at + 1, "value": one[name], "kind": policy} for at, one in enumerate(history) if name in one
            ]
            if len(rows) > 1:
                chart = charts.lines(rows, "step")
                first, last = rows[0]["value"], rows[-1]["value"]
                told = f"{title} of {model} {policy} over {len(rows)} steps: from {first:.3g} to {last:.3g}"
                section.add(f"{title}, {model} {policy}", chart, told)
    return section


def data(splits: Mapping[str, Any], audits: Mapping[str, Any], counts: Mapping[str, Any], rubric: Rubric) -> Section:
    """What was trained and tested on. `audits` and `counts` (of pairs): by model."""
    simulated = f" Of those in the files, {splits['simulated']} are simulated." if splits["simulated"] else ""
    total = sum(one["conversations"] for one in splits["splits"].values())
    section = Section(
        "data", "The data", f"{total} conversations, drawn by the method '{splits['method']}'.{simulated}"
    )
    section.tables.append(
        (
            ("split", "conversations", "tutor turns", "problems"),
            [
                (name, *(str(one[what]) for what in ("conversations", "tutor_turns", "problems")))
                for name, one in splits["splits"].items()
            ],
        )
    )
    shared = [
        (f"test shares a problem with {name.rpartition('_')[2]}", f"{leak['conversations']} of {leak['of']}")
        for name, leak in splits.get("leaks", {}).items()
    ]
    section.tables.append((("leaks", "conversations"), shared))
    lengths = ("min", "median", "mean", "p95", "max")
    section.tables.append(
        (
            ("tokens of an SFT conversation", *lengths, "trained share"),
            [
                (model, *(f"{audit['tokens'][name]:g}" for name in lengths), f"{audit['trained_share']:.1%}")
                for model, audit in audits.items()
            ],
        )
    )
    for one in rubric.label_fields:
        rows = [
            {
                "name": label,
                "value": found["labels"][one.key].get(label, 0) / max(found["tutor_turns"], 1),
                "kind": split,
            }
            for split, found in splits["splits"].items()
            for label in one.labels
        ]
        told = f"Shares of the labels of {one.name} in the splits"
        section.add(f"{one.name}: shares", charts.bars(rows, list(one.labels), percent=True), told)
    for model, found in counts.items():
        rows = [{"name": reason, "value": n, "kind": "pairs"} for reason, n in found["reasons"].items()]
        told = ", ".join(f"{row['name']} {row['value']}" for row in rows)
        chart = charts.bars(rows, [row["name"] for row in rows], "pairs")
        section.add(f"Mistakes that make pairs, {model}", chart, f"Preference pairs of {model} by the mistake: {told}")
    return section


def costs(seconds: Mapping[str, float], gigabytes: Mapping[str, float]) -> Section:
    """What each stage took; of memory, its largest job."""
    section = Section("costs", "Time and memory", "Of the newest jobs of each stage, in the order in which they ended.")
    for title, found, unit in (("Time", seconds, "seconds"), ("Memory of the largest job", gigabytes, "GB")):
        rows = [{"name": stage, "value": value, "kind": "jobs"} for stage, value in found.items()]
        told = ", ".join(f"{row['name']} {row['value']:.3g}" for row in rows)
        if rows:
            section.add(title, charts.bars(rows, list(found), unit), f"{title} in {unit}: {told}")
    return section
