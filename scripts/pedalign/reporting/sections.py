"""Registry of the report page's sections: each is a function of the report, with an entry in SECTIONS."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from pedalign.data.rubric import Field
from pedalign.evaluation.label_metrics import METRICS
from pedalign.reporting import charts
from pedalign.reporting.data_section import data
from pedalign.reporting.figures import (
    Row,
    accuracies,
    difference,
    differences,
    ends,
    is_tested,
    macro_f1,
    percent,
    read_estimate,
    share,
    typeset,
)
from pedalign.reporting.report import Report, Section, Table, counted, kind_of, name_of
from pedalign.reporting.timing import fitting_unit

FEW = 30  # the accuracy at a turn with fewer replies is not drawn
# The paper's headline figures: points of accuracy, aligned over fine-tuned (arXiv 2402.05000, v2 and v3).
PAPER = {"Mistral (v2)": 37.0, "Zephyr (v2)": 23.0, "Llama (v3)": 13.1, "Mistral (v3)": 8.7}


def tutors(report: Report) -> Section:
    """All tutors with their intervals, and what alignment changed."""
    section = Section(
        "runs",
        "All tutors",
        "Share of replies in valid format, and of right labels with 95% intervals, in %, drawn over conversations; "
        "under it macro-F1, the mean F1 of all labels. Under an aligned tutor its paired differences to the fine-tuned "
        "one, in points. The first are of labels over the replies that are in valid format in both tutors, with the "
        "p-value of a permutation test. The second are over all replies: of the valid format, tested too, and of "
        "labels, where it also counts labels that a tutor's replies lack, and so mixes judging with format. Where too "
        "few replies of a tutor are in valid format, nothing is "
        "tested.",
    )
    section.tables += [_accuracies(report), _other_metrics(report)]
    alone = [row for row in report.rows if row["seeds"] == "1"]
    for one in report.rubric.label_fields:
        column = f"{one.key}_accuracy"
        told = "; ".join(f"{name_of(row)} {_told_share(row, column)}" for row in alone)
        rows = [_point(row, column) for row in alone]
        section.add(one.name, charts.intervals(rows), f"Right labels in percent, {one.name}: {told}")
    _draw_differences(section, report)
    if not report.papers_data:
        return section
    paper = [{"name": name, "value": gain, "kind": "paper"} for name, gain in PAPER.items()]
    section.add(
        "For orientation: the paper's gains",
        charts.bars(paper, "points"),
        f"The paper's gains in points: {', '.join(f'{name} {gain:+.1f}' for name, gain in PAPER.items())}",
        "accuracy over fine-tuning in arXiv 2402.05000, of models of 7 to 8 billion parameters; v2 and v3 are versions "
        "of the preprint, whose experiments differ",
    )
    return section


def _accuracies(report: Report) -> Table:
    fields = [one.key for one in report.rubric.label_fields]
    majority = [percent(float(report.rows[0][f"{field}_majority"])) for field in fields]
    table: list[Sequence[str]] = [("always the commonest label", "", *majority)]
    for row in report.rows:
        table.append((name_of(row), *accuracies(row, fields)))
        table.append(("macro-F1", *macro_f1(row, fields)))
        if row["valid_format_difference"]:
            many = f", {int(row['both_valid_replies']):,} replies" if row["both_valid_replies"] else ""
            both_valid, over_all = (map(typeset, cells) for cells in differences(row, fields))
            table.append((f"difference where both are valid{many}", *both_valid))
            table.append(("difference over all replies", *over_all))
    return ("tutor", "valid format", *(one.name for one in report.rubric.label_fields)), table


def _other_metrics(report: Report) -> Table:
    """All metrics but the accuracy, as they are in metrics.json, with their intervals."""
    table = []
    for metric in [name for name in METRICS if name != "accuracy"]:
        for (model, policy), measures in report.metrics.items():
            cells = []
            for field in report.rubric.label_fields:
                found = measures[field.key]
                low, high = found[f"{metric}_ci95"]
                cells.append(typeset(f"{found[metric]:.3f} [{low:.3f}, {high:.3f}]"))
            table.append((metric.replace("_", " "), f"{model} {policy}", *cells))
    return ("metric", "tutor", *(one.name for one in report.rubric.label_fields)), table


def _draw_differences(section: Section, report: Report) -> None:
    """Draw a chart for the valid format and for each field: intervals of the tested tutors, all on one scale."""
    tested = [row for row in report.rows if row["seeds"] == "1" and is_tested(row)]
    names = {"valid_format": "Valid format"}
    names |= {f"{one.key}_both_valid": one.name for one in report.rubric.label_fields}
    rows = {
        name: [_point(row, column, 100) for row in tested if row[column]]
        for name in names
        for column in [f"{name}_difference"]
    }
    around = [point[end] for points in rows.values() for point in points for end in _ENDS]
    for name, title in names.items():
        if not rows[name]:  # nothing is tested, or no reply is in valid format in both tutors
            continue
        told = "; ".join(
            f"{name_of(row)} {typeset(difference(read_estimate(row, f'{name}_difference'), True))}" for row in tested
        )
        caption = "" if name == "valid_format" else "where both replies are in valid format"
        chart = charts.intervals(rows[name], 0, "points", around)
        section.add(f"{title}: difference", chart, f"Difference in points, {title}: {told}", caption)


_ENDS = {"value": "", "low": "_low", "high": "_high"}


def _point(row: Row, column: str, factor: float = 1) -> dict[str, Any]:
    """A row of a chart of intervals."""
    values = {end: factor * float(row[f"{column}{mark}"]) for end, mark in _ENDS.items()}
    return {"name": name_of(row), "kind": kind_of(row["policy"]), **values}


def _told_share(row: Row, column: str) -> str:
    one = read_estimate(row, column)
    return share(one) if one else "none"


def confusion(report: Report) -> Section:
    """Gold labels against each tutor's."""
    section = Section(
        "confusion",
        "Which labels are mixed up",
        "Each square: how often a gold label got the tutor's label; the fuller its colour, the larger its share of the "
        "row (by its square root, so that rare mistakes are seen). None: the reply has no valid label there.",
    )
    meanings = [
        (one.name, label, meaning) for one in report.rubric.label_fields for label, meaning in one.labels.items()
    ]
    section.legend = ("What the labels mean", (("field", "label", "meaning"), meanings))
    for one in report.rubric.label_fields:
        for at, (model, policy) in enumerate(report.tutors):
            counts = Counter(
                (turn["gold"]["labels"][one.key], turn["replies"][at]["labels"][one.key] or "none")
                for turn in report.turns
            )
            gold = [label for label in one.labels if label in {left for left, _ in counts}]
            found = [label for label in (*one.labels, "none") if label in {*gold, *(other for _, other in counts)}]
            right = sum(count for (left, other), count in counts.items() if left == other)
            worst = max(
                ((pair, n) for pair, n in counts.items() if pair[0] != pair[1]), key=lambda at: at[1], default=None
            )
            told = f"{right:,} of {sum(counts.values()):,} right"
            if worst:
                (left, other), often = worst
                told += f"; most often {_label(one, left)} was taken for {_label(one, other)}: {counted(often, 'time')}"
            title = f"{one.name}, {model} {policy}"
            section.add(title, charts.confusion(counts, gold, found), f"Gold and given labels of {title}", told)
    return section


def _label(one: Field, label: str) -> str:
    return f"{label} ({one.labels[label]})" if label in one.labels else label


def turns(report: Report) -> Section:
    """Accuracy of each tutor, by its turn in the conversation."""
    section = Section("turns", "By turn", "Share of right labels by the tutor's turn, with 95% intervals. ")
    replies = {int(turn): at["support"] for turn, at in next(iter(report.metrics.values()))["by_turn"].items()}
    many = [turn for turn, support in replies.items() if support >= FEW]
    drawn = many if len(many) > 1 else list(replies)
    section.text += "Turns count from 0" + (
        "; " if report.first_turn else ", which has nothing to judge and is not scored; "
    )
    section.text += f"{counted(replies[drawn[0]], 'reply', 'replies')} at turn {drawn[0]}, {replies[drawn[-1]]:,} at "
    section.text += f"turn {drawn[-1]}"
    section.text += f"; later ones are rare and not drawn (fewer than {FEW})." if len(drawn) < len(replies) else "."
    for one in report.rubric.label_fields:
        rows = [
            {
                **{"turn": turn, "value": at[one.key]["accuracy"], "kind": f"{model} {policy}"},
                **dict(zip(("low", "high"), at[one.key]["accuracy_ci95"], strict=True)),
            }
            for (model, policy), measures in report.metrics.items()
            for turn in drawn
            if (at := measures["by_turn"].get(str(turn)))
        ]
        told = []
        for name in dict.fromkeys(row["kind"] for row in rows):
            of = [row for row in rows if row["kind"] == name]
            low, high = (how(of, key=lambda row: row["value"]) for how in (min, max))
            told.append(
                f"{name} from {low['value']:.1%} (turn {low['turn']}) to {high['value']:.1%} (turn {high['turn']})"
            )
        chart = charts.lines(rows, "turn", percent=True, band=len(report.metrics) <= 3)
        section.add(one.name, chart, f"{one.name} by turn: {'; '.join(told)}")
    return section


def perplexity(report: Report) -> Section:
    """How likely each tutor finds replies that scaffold, and replies that tell."""
    section = Section("perplexity", "Scaffolding or telling")
    if not report.perplexities:
        section.text = "Skipped: the data has no file of pairs of a scaffolding and a telling reply."
        return section
    pairs = next(iter(report.perplexities.values()))["pairs"]
    section.text = (
        f"Perplexity of replies that scaffold and of replies that tell, {pairs} pairs with one history each: the "
        "lower, the likelier the tutor finds them."
    )
    rows, shares = [], []
    for (model, policy), measured in report.perplexities.items():
        name = f"{model} {policy}"
        scaffold, tell = (group["perplexity"] for group in measured["groups"].values())
        rows += [
            {"name": name, "value": scaffold, "kind": "scaffolding"},
            {"name": name, "value": tell, "kind": "telling"},
        ]
        likelier = measured["scaffold_likelier"]["per_token"]
        low, high = likelier["share_ci95"]
        shares.append({"name": name, "value": likelier["share"], "low": low, "high": high, "kind": kind_of(policy)})
    told = "; ".join(f"{row['name']}, {row['kind']}: {row['value']:.2f}" for row in rows)
    section.add("Perplexity", charts.bars(rows), f"Perplexity. {told}")
    told = "; ".join(f"{row['name']} {row['value']:.1%} ({ends((row['low'], row['high']))})" for row in shares)
    chart = charts.intervals(shares, 0.5)
    section.add("Pairs with scaffolding likelier", chart, f"Share of pairs with scaffolding likelier per token: {told}")
    return section


_CURVES = {
    "loss": "Loss",
    "rewards/margins": "Margin of rewards",
    "grad_norm": "Gradient norm",
    "learning_rate": "Learning rate",
}


def trainings(report: Report) -> Section:
    """The curves of each training that was done here, by step."""
    section = Section("training", "How the trainings went", "By optimizer step, as the trainers logged it.")
    for (model, policy), manifest in report.manifests.items():
        history = manifest.get("history", ())
        for name, title in _CURVES.items():
            rows = [
                {"step": at + 1, "value": one[name], "kind": kind_of(policy)}
                for at, one in enumerate(history)
                if name in one
            ]
            if len(rows) > 1:
                chart = charts.lines(rows, "step")
                first, last = rows[0]["value"], rows[-1]["value"]
                told = f"{title} of {model} {policy} over {len(rows)} steps: from {first:.3g} to {last:.3g}"
                section.add(f"{title}, {model} {policy}", chart, told)
    return section


def costs(report: Report) -> Section:
    """The time of each stage, and the memory of its largest job."""
    total = sum(report.seconds.values())
    unit, length = fitting_unit(total)
    minutes = f"{total / 60:,.0f}" if total > 90 else f"{total / 60:.1f}"
    section = Section(
        "costs",
        "Time and memory",
        f"Of the newest jobs of each stage, in the order in which they ended: {minutes} minutes in all.",
    )
    times = {stage: value / length for stage, value in report.seconds.items()}
    for title, found, of in (("Time", times, unit), ("Memory of the largest job", report.gigabytes, "GB")):
        rows = [{"name": stage, "value": value, "kind": "jobs"} for stage, value in found.items()]
        told = ", ".join(f"{row['name']} {row['value']:.3g}" for row in rows)
        if rows:
            section.add(title, charts.bars(rows, of), f"{title} in {of}: {told}")
    return section


# In the page's order. A link to a section, and the folder of its charts, have its `id`.
SECTIONS: tuple[Callable[[Report], Section], ...] = (
    tutors,
    confusion,
    turns,
    perplexity,
    trainings,
    data,
    costs,
)
