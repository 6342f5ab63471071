"""What the report page says: an answer in a sentence, then sections of charts and tables."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pedalign.data.rubric import Field, Rubric
from pedalign.reporting import charts
from pedalign.reporting.summary import Key
from pedalign.reporting.timing import fitting_unit

SIGNIFICANT = 0.05
LEAKED = 0.1  # share of the test conversations about a problem that was trained on, above which the page warns
FEW = 30  # replies at a turn, below which its accuracy is not drawn
# The paper's own headline figures: points of accuracy, aligned over fine-tuned (arXiv 2402.05000, v2 and v3).
PAPER = {"Mistral (v2)": 37.0, "Zephyr (v2)": 23.0, "Llama (v3)": 13.1, "Mistral (v3)": 8.7}


@dataclass(frozen=True)
class Figure:
    """A chart, what stands over it, what a screen reader says of it, and what stands under it."""

    title: str
    svg: str
    described: str
    caption: str


Table = tuple[Sequence[str], Sequence[Sequence[str]]]  # header and rows


@dataclass
class Section:
    """`legend`: a table that is folded, with the words that stand on it."""

    id: str
    title: str
    text: str = ""
    figures: list[Figure] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    legend: tuple[str, Table] | None = None

    def add(self, title: str, chart: Any, described: str, caption: str = "") -> None:
        self.figures.append(Figure(title, charts.svg(chart), described, caption))


def _counted(number: float | str, one: str, many: str = "") -> str:
    return f"{int(number):,} {one if int(number) == 1 else many or f'{one}s'}"


def _points(share: float) -> str:
    return f"{100 * share:+.1f}".replace("-", "\N{MINUS SIGN}")


def _p(value: float) -> str:
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}"


def main_field(rubric: Rubric) -> Field:
    """The field that says whether a tutor scaffolds; of a rubric that names none, its last label."""
    return rubric.field(rubric.scaffold_field) if rubric.scaffold_field else rubric.label_fields[-1]


def answers(rows: Sequence[Mapping[str, str]], rubric: Rubric) -> list[str]:
    """Whether alignment helped: a sentence for each aligned tutor; of more than three, one for all of them.

    `rows` are those of summary.csv; told are the replies in valid format in both tutors, and beside them the valid
    format itself; p-values are Holm's, over all tested tutors. Of a tutor that is not tested no gain is told.
    """
    key = main_field(rubric).key
    compared = [row for row in rows if row["both_valid_replies"]]
    first = rows[0]
    on = f"On {_counted(first['replies'], 'test reply', 'test replies')} of "
    on += f"{_counted(first['conversations'], 'conversation')}, {first['data']},"
    if not compared:
        return [f"{on} no aligned tutor was measured."]
    if len(compared) <= 3:
        return [f"{on} {_answer(row, key)}" for row in compared]
    tested = [row for row in compared if _is_tested(row)]
    untested = len(compared) - len(tested)
    without = f" {untested} of {len(compared)} are not tested: too few replies are in valid format." if untested else ""
    if not tested:
        return [f"{on} no gain of the {len(compared)} aligned tutors can be told.{without}"]
    name = f"{key}_both_valid"
    differences = [float(row[f"{name}_difference"]) for row in tested]
    better = sum(_significant(row, name) and one > 0 for row, one in zip(tested, differences, strict=True))
    worse = sum(_significant(row, name) and one < 0 for row, one in zip(tested, differences, strict=True))
    best = tested[differences.index(max(differences))]
    return [
        f"{on} {better} of {len(tested)} aligned tutors pick the right {key} significantly more often than their "
        f"fine-tuned tutor, {worse} less often, where both replies are in valid format (p < {SIGNIFICANT}, Holm); "
        f"differences {_points(min(differences))} to {_points(max(differences))} points, the largest of {_name(best)}."
        f"{without}"
    ]


def _answer(row: Mapping[str, str], key: str) -> str:
    shares = float(row["valid_format_reference"]), float(row["valid_format"])
    if not _is_tested(row):
        return (
            f"nothing can be told of what the aligned tutor {_name(row)} gained: {shares[1]:.1%} of its replies are in "
            f"valid format, {shares[0]:.1%} of its fine-tuned tutor's, and that is too few to tell judging from format."
        )
    name = f"{key}_both_valid"
    before, after = (float(row[f"{name}_{which}"]) for which in ("reference", "aligned"))
    told = f"where both replies are in valid format ({int(row['both_valid_replies']):,}), the aligned tutor "
    told += f"{_name(row)} picks the right {key} in {after:.1%} of its replies, its fine-tuned tutor in {before:.1%}: "
    told += f"{_told(row, name)}, which is {'' if _significant(row, name) else 'not '}significant. In valid format are "
    told += f"{shares[1]:.1%} of its replies, {shares[0]:.1%} of its fine-tuned tutor's: {_told(row, 'valid_format')}."
    return told


def _told(row: Mapping[str, str], name: str) -> str:
    difference, low, high = (_points(float(row[f"{name}_difference{end}"])) for end in ("", "_low", "_high"))
    return f"{difference} points, 95% interval {low} to {high}, {_p(float(row[f'{name}_p_holm']))}"


def _is_tested(row: Mapping[str, str]) -> bool:
    return bool(row["valid_format_p_holm"])


def _significant(row: Mapping[str, str], name: str) -> bool:
    return float(row[f"{name}_p_holm"]) < SIGNIFICANT


def scored(conversations: Iterable[Mapping[str, Any]], first_turn: bool) -> list[Mapping[str, Any]]:
    """The turns of transcripts that are scored: not those whose gold reply has a defect, the first ones if asked."""
    turns = [turn for one in conversations for turn in one["turns"] if turn["turn"] or first_turn]
    return [turn for turn in turns if not turn["gold"]["defect"]]


def changes(
    turns: Sequence[Mapping[str, Any]], rows: Sequence[Mapping[str, str]], tutors: Sequence[Key], rubric: Rubric
) -> list[str]:
    """What each tested tutor mended and spoiled in the scored `turns`, and how much of it is format alone; of more than
    three, nothing. `rows` are those of summary.csv."""
    key = main_field(rubric).key
    aligned = [tutor for row in rows if _is_tested(row) and (tutor := (row["model"], row["policy"])) in tutors]
    told = []
    for tutor in aligned if len(aligned) <= 3 else ():
        found: Counter[tuple[bool, bool]] = Counter()
        old, new = tutors.index((tutor[0], "sft")), tutors.index(tutor)
        for turn in turns:
            before, after = turn["replies"][old], turn["replies"][new]
            was, now = (reply["labels"][key] == turn["gold"]["labels"][key] for reply in (before, after))
            if was != now:
                found[now, bool(before["defect"] or after["defect"])] += 1
        mended, spoiled = (found[now, True] + found[now, False] for now in (True, False))
        told.append(
            f"{' '.join(tutor)}: of the replies whose {key} the fine-tuned tutor had wrong, {mended:,} became right, "
            f"of those that it had right, {spoiled:,} became wrong. Where both replies are in valid format, these are "
            f"{found[True, False]:,} and {found[False, False]:,}."
        )
    return told


def comparison(rows: Sequence[Mapping[str, str]], rubric: Rubric) -> Section:
    """All tutors with their intervals, and what alignment changed."""
    section = Section(
        "runs",
        "All tutors",
        "Share of replies in valid format, and of right labels with 95% intervals, drawn over conversations; under an "
        "aligned tutor its paired differences to the fine-tuned one, in points. The first are of labels over the "
        "replies that are in valid format in both tutors, with the p-value of a permutation test. The second are over "
        "all replies: of the valid format, tested too, and of labels, where it also counts labels that a tutor's "
        "replies lack, and so mixes judging with format. Where too few replies of a tutor are in valid format, nothing "
        "is tested.",
    )
    fields = rubric.label_fields
    majority = [f"{float(rows[0][f'{one.key}_majority']):.1%}" for one in fields]
    table: list[Sequence[str]] = [("always the commonest label", "", *majority)]
    for row in rows:
        table.append((_name(row), f"{float(row['valid_format']):.1%}", *(_accuracy(row, one.key) for one in fields)))
        if row["valid_format_difference"]:
            many = f", {int(row['both_valid_replies']):,} replies" if row["both_valid_replies"] else ""
            told = [_difference(row, f"{one.key}_both_valid") for one in fields]
            table.append((f"difference where both are valid{many}", "", *told))
            is_told = _is_tested(row) or row["valid_format_difference_sd"]
            over_all = [_difference(row, one.key) if is_told else "not told" for one in fields]
            table.append(("difference over all replies", _difference(row, "valid_format"), *over_all))
    section.tables.append((("tutor", "valid format", *(one.name for one in fields)), table))

    alone = [row for row in rows if row["seeds"] == "1"]
    for one in fields:
        points = [
            {
                "name": _name(row),
                "kind": _kind(row["policy"]),
                **{end: float(row[f"{one.key}_accuracy{mark}"]) for end, mark in _ENDS},
            }
            for row in alone
        ]
        described = "; ".join(f"{at['name']} {at['value']:.1%} ({at['low']:.1%} to {at['high']:.1%})" for at in points)
        section.add(one.name, charts.intervals(points), f"Right labels, {one.name}: {described}")
    tested = [row for row in alone if _is_tested(row)]
    names = {"valid_format": "Valid format", **{f"{one.key}_both_valid": one.name for one in fields}}
    ends = [100 * float(row[f"{name}_difference{mark}"]) for row in tested for name in names for _, mark in _ENDS]
    for name, title in names.items() if tested else ():
        points = [
            {
                "name": _name(row),
                "kind": "aligned",
                **{end: 100 * float(row[f"{name}_difference{at}"]) for end, at in _ENDS},
            }
            for row in tested
        ]
        chart = charts.intervals(points, 0, "points", around=ends)
        described = "; ".join(f"{_name(row)} {_difference(row, name)}" for row in tested)
        caption = "" if name == "valid_format" else "where both replies are in valid format"
        section.add(f"{title}: difference", chart, f"Difference in points, {title}: {described}", caption)
    paper = [{"name": name, "value": points, "kind": "paper"} for name, points in PAPER.items()]
    section.add(
        "For orientation: the paper's gains",
        charts.bars(paper, "points"),
        f"The paper's gains in points: {', '.join(f'{name} {points:+.1f}' for name, points in PAPER.items())}",
        "accuracy over fine-tuning in arXiv 2402.05000, of models of 7 to 8 billion parameters on its own data; v2 and "
        "v3 are versions of the preprint, whose experiments differ",
    )
    return section


def _accuracy(row: Mapping[str, str], key: str) -> str:
    """With its interval; of a group of seeds, the mean with its standard deviation."""
    value = f"{float(row[f'{key}_accuracy']):.1%}"
    if row["seeds"] != "1":
        return f"{value} ± {100 * float(row[f'{key}_accuracy_sd']):.1f}"
    low, high = (100 * float(row[f"{key}_accuracy_{end}"]) for end in ("low", "high"))
    return f"{value} [{low:.1f}, {high:.1f}]"


def _difference(row: Mapping[str, str], name: str) -> str:
    """With its interval, and its p-value if it has one; of a group of seeds, the mean with its standard deviation."""
    if not row[f"{name}_difference"]:
        return "none"
    value = _points(float(row[f"{name}_difference"]))
    if row[f"{name}_difference_sd"]:
        return f"{value} ± {100 * float(row[f'{name}_difference_sd']):.1f}"
    if not _is_tested(row):
        return f"{value}, not tested"
    low, high = (_points(float(row[f"{name}_difference_{end}"])) for end in ("low", "high"))
    p = row.get(f"{name}_p_holm")
    return f"{value} [{low}, {high}]" + (f", {_p(float(p))}" if p else "")


_ENDS = (("value", ""), ("low", "_low"), ("high", "_high"))


def _kind(policy: str) -> str:
    return "fine-tuned" if policy == "sft" else "aligned"


def _name(row: Mapping[str, str]) -> str:
    return f"{row['model']} {row['policy']}"


def confusion_section(turns: Sequence[Mapping[str, Any]], tutors: Sequence[Key], rubric: Rubric) -> Section:
    """`turns`: the scored ones of the transcripts of the `tutors`."""
    section = Section(
        "confusion",
        "Which labels are mixed up",
        "Each square: how often a gold label got the tutor's label; the fuller its colour, the larger its share of the "
        "row (by its square root, so that rare mistakes are seen). None: the reply has no valid label there.",
    )
    meanings = [(one.name, label, meaning) for one in rubric.label_fields for label, meaning in one.labels.items()]
    section.legend = ("What the labels mean", (("field", "label", "meaning"), meanings))
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
            told = f"{right:,} of {sum(counts.values()):,} right"
            if worst:
                (left, other), often = worst
                told += (
                    f"; most often {_label(one, left)} was taken for {_label(one, other)}: {_counted(often, 'time')}"
                )
            title = f"{one.name}, {model} {policy}"
            section.add(title, charts.confusion(counts, gold, found), f"Gold and given labels of {title}", told)
    return section


def _label(one: Field, label: str) -> str:
    return f"{label} ({one.labels[label]})" if label in one.labels else label


def turns(metrics: Mapping[Key, Mapping[str, Any]], rubric: Rubric, first_turn: bool) -> Section:
    """How right each tutor is by its turn in the conversation."""
    section = Section("turns", "By turn", "Share of right labels by the tutor's turn, with 95% intervals. ")
    replies = {int(turn): at["support"] for turn, at in next(iter(metrics.values()))["by_turn"].items()}
    many = [turn for turn, support in replies.items() if support >= FEW]
    drawn = many if len(many) > 1 else list(replies)
    section.text += "Turns count from 0" + ("; " if first_turn else ", which has nothing to judge and is not scored; ")
    section.text += f"{_counted(replies[drawn[0]], 'reply', 'replies')} at turn {drawn[0]}, {replies[drawn[-1]]:,} at "
    section.text += f"turn {drawn[-1]}"
    section.text += f"; later ones are rare and not drawn (fewer than {FEW})." if len(drawn) < len(replies) else "."
    for one in rubric.label_fields:
        rows = [
            {
                **{"turn": turn, "value": at[one.key]["accuracy"], "kind": f"{model} {policy}"},
                **dict(zip(("low", "high"), at[one.key]["accuracy_ci95"], strict=True)),
            }
            for (model, policy), measures in metrics.items()
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
        chart = charts.lines(rows, "turn", percent=True, band=len(metrics) <= 3)
        section.add(one.name, chart, f"{one.name} by turn: {'; '.join(told)}")
    return section


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
    rows, shares = [], []
    for (model, policy), report in reports.items():
        name = f"{model} {policy}"
        scaffold, tell = (group["perplexity"] for group in report["groups"].values())
        rows += [
            {"name": name, "value": scaffold, "kind": "scaffolding"},
            {"name": name, "value": tell, "kind": "telling"},
        ]
        likelier = report["scaffold_likelier"]["per_token"]
        low, high = likelier["share_ci95"]
        shares.append({"name": name, "value": likelier["share"], "low": low, "high": high, "kind": _kind(policy)})
    told = "; ".join(f"{row['name']}, {row['kind']}: {row['value']:.2f}" for row in rows)
    section.add("Perplexity", charts.bars(rows), f"Perplexity. {told}")
    told = "; ".join(f"{row['name']} {row['value']:.1%} ({row['low']:.1%} to {row['high']:.1%})" for row in shares)
    chart = charts.intervals(shares, 0.5)
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
                {"step": at + 1, "value": one[name], "kind": _kind(policy)}
                for at, one in enumerate(history)
                if name in one
            ]
            if len(rows) > 1:
                chart = charts.lines(rows, "step")
                first, last = rows[0]["value"], rows[-1]["value"]
                told = f"{title} of {model} {policy} over {len(rows)} steps: from {first:.3g} to {last:.3g}"
                section.add(f"{title}, {model} {policy}", chart, told)
    return section


def leaks(splits: Mapping[str, Any]) -> list[str]:
    """What is to be minded: test conversations about problems that were trained on, and what the draw warns of."""
    warnings = list(splits.get("warnings", []))
    shared = [
        f"{leak['conversations']:,} of {leak['of']:,} ({name.rpartition('_')[2]})"
        for name, leak in splits.get("leaks", {}).items()
        if leak["conversations"] > LEAKED * leak["of"]
    ]
    if not shared:
        return warnings
    return [
        f"test conversations about a problem that is in another split too: {', '.join(shared)}. So the figures do not "
        "tell how the tutors do on new problems; 'split: method: leak_free' in config.yaml keeps problems apart.",
        *warnings,
    ]


def steps(splits: Mapping[str, Any], asked: int, scored: Mapping[str, int], first_turn: bool) -> Table:
    """What each step from the files to the scored replies leaves, and why the rest is left out.

    `asked`: the test turns that the tutors answered; `scored`: the "conversations" and "replies" that are scored.
    """
    there = sum(one["conversations"] for one in splits["files"])
    eligible = sum(one["eligible"] for one in splits["files"])
    dropped = Counter(one["split"] for one in splits["dropped"])
    gone = {(one["split"], one["id"]) for one in splits["dropped"]}
    cut = Counter(one["split"] for one in splits["cut"] if (one["split"], one["id"]) not in gone)
    drawn = sum(one["conversations"] for one in splits["splits"].values()) + dropped.total()
    sizes = ", ".join(f"{name} {size}" for name, size in splits["wanted_per_file"].items())
    rows: list[Sequence[str]] = [
        ("in the files", f"{there:,}", "", _counted(len(splits["files"]), "file")),
        ("long enough", f"{eligible:,}", "", _left(there - eligible, "has", "have", "two turns or fewer")),
        ("drawn", f"{drawn:,}", "", f"by the method '{splits['method']}', from each file: {sizes}"),
    ]
    for name, one in splits["splits"].items():
        why = [_left(dropped[name], "opens", "open", "with a reply that is not valid")] if dropped[name] else []
        why += [f"{cut[name]:,} cut before a reply that is not valid"] if cut[name] else []
        rows.append((f"the {name} split", f"{one['conversations']:,}", f"{one['tutor_turns']:,}", "; ".join(why)))
    test = splits["splits"]["test"]
    answered = test["conversations"] - test["of_one_turn"]
    why = [_left(test["of_one_turn"], "has", "have", "a single tutor turn")] if test["of_one_turn"] else []
    rows.append(("test: answered", f"{answered:,}", f"{asked:,}", "; ".join(why)))
    first = 0 if first_turn else answered
    why = [f"the first reply of each has nothing to judge ({first:,})"] if first else []
    defect = asked - first - scored["replies"]
    why += [f"the gold reply is not valid ({defect:,})"] if defect else []
    rows.append(("test: scored", f"{scored['conversations']:,}", f"{scored['replies']:,}", "; ".join(why)))
    return (("step", "conversations", "tutor turns", "what is left out, and why"), rows)


def _left(number: int, one: str, many: str, why: str) -> str:
    return f"{number:,} {one if number == 1 else many} {why}" if number else ""


def data(
    splits: Mapping[str, Any],
    audits: Mapping[str, Any],
    counts: Mapping[str, Any],
    rubric: Rubric,
    asked: int,
    scored: Mapping[str, int],
    first_turn: bool,
) -> Section:
    """What was trained and tested on. `audits` and `counts` (of pairs): by model; `asked`, `scored` as in `steps`."""
    text = "What each step leaves, from the conversation files to the replies that are scored."
    if splits["simulated"]:
        text += f" Of the conversations that were drawn, {splits['simulated']:,} are simulated."
    if splits["cut"]:
        why = ", ".join(f"{reason.replace('_', ' ')} {n:,}" for reason, n in splits["cut_by_reason"].items())
        text += f" Replies that are not valid: {len(splits['cut']):,} ({why}); what follows one is not used."
    section = Section("data", "The data", text)
    section.tables.append(steps(splits, asked, scored, first_turn))
    section.tables.append(
        (("split", "problems"), [(name, f"{one['problems']:,}") for name, one in splits["splits"].items()])
    )
    shared = [
        (f"test shares a problem with {name.rpartition('_')[2]}", f"{leak['conversations']:,} of {leak['of']:,}")
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
        told = "; ".join(
            f"{label} " + ", ".join(f"{row['value']:.0%}" for row in rows if row["name"] == label)
            for label in one.labels
        )
        told = f"Shares of the labels of {one.name} in the splits {', '.join(splits['splits'])}: {told}"
        section.add(f"{one.name}: shares", charts.bars(rows, percent=True), told)
    for model, found in counts.items():
        rows = [{"name": reason, "value": n, "kind": "pairs"} for reason, n in found["reasons"].items()]
        told = ", ".join(f"{row['name']} {row['value']}" for row in rows)
        chart = charts.bars(rows, "pairs")
        section.add(f"Mistakes that make pairs, {model}", chart, f"Preference pairs of {model} by the mistake: {told}")
    return section


def costs(seconds: Mapping[str, float], gigabytes: Mapping[str, float]) -> Section:
    """What each stage took; of memory, its largest job."""
    total = sum(seconds.values())
    unit, length = fitting_unit(total)
    minutes = f"{total / 60:,.0f}" if total > 90 else f"{total / 60:.1f}"
    section = Section(
        "costs",
        "Time and memory",
        f"Of the newest jobs of each stage, in the order in which they ended: {minutes} minutes in all.",
    )
    times = {stage: value / length for stage, value in seconds.items()}
    for title, found, of in (("Time", times, unit), ("Memory of the largest job", gigabytes, "GB")):
        rows = [{"name": stage, "value": value, "kind": "jobs"} for stage, value in found.items()]
        told = ", ".join(f"{row['name']} {row['value']:.3g}" for row in rows)
        if rows:
            section.add(title, charts.bars(rows, of), f"{title} in {of}: {told}")
    return section
