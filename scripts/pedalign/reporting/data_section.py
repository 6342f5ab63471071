"""The report's section on the data: what was drawn, left out, trained on and tested on."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from pedalign.data import spellings
from pedalign.reporting import charts
from pedalign.reporting.report import Report, Section, Table, counted


def data(report: Report) -> Section:
    """The data that tutors were trained and tested on."""
    splits = report.splits
    text = "What each step leaves, from the conversation files to the replies that are scored."
    if splits["simulated"]:
        text += f" Of the conversations that were drawn, {splits['simulated']:,} are simulated."
    if splits["cut"]:
        why = ", ".join(f"{reason.replace('_', ' ')} {n:,}" for reason, n in splits["cut_by_reason"].items())
        text += f" Replies that are not valid: {len(splits['cut']):,} ({why}); what follows one is not used."
    if spelled := spellings.told(splits.get("read_as", {"labels": [], "names": []})):
        text += f" {spelled}."
    section = Section("data", "The data", text)
    section.tables += [steps(report), *_imported(splits.get("imported")), *_tables(report)]
    for one in report.rubric.label_fields:
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
    for model, found in report.counts.items():
        rows = [{"name": reason, "value": n, "kind": "pairs"} for reason, n in found["reasons"].items()]
        told = ", ".join(f"{row['name']} {row['value']}" for row in rows)
        chart = charts.bars(rows, "pairs")
        section.add(f"Mistakes that make pairs, {model}", chart, f"Preference pairs of {model} by the mistake: {told}")
    return section


def _imported(found: dict[str, Any] | None) -> list[Table]:
    """What the import of the raw files used, changed, cut and rejected; nothing if there was none."""
    if not found:
        return []
    if "bank" in found:
        rows = [(f"problems of {found['bank']}, about which conversations are simulated", f"{found['usable']:,}")]
        rows += [(f"rejected: {reason}", f"{number:,}") for reason, number in found["rejected"].items()]
        return [(("import (problem bank)", "problems"), rows)]
    rows = []
    for one in found["files"]:
        rows.append((f"{one['file']}: {one['rows']:,} rows", f"{one['conversations']:,}"))
        for what in ("changed", "cut", "rejected"):
            rows += [(f"{what}: {reason}", f"{number:,}") for reason, number in one[what].items()]
    return [((f"import ({found['format']})", "conversations"), rows)]


def _tables(report: Report) -> list[Table]:
    """Problems of each split, leaks between splits, and tokens of each model that was fine-tuned here."""
    splits = report.splits
    shared = [
        (f"test shares a problem with {name.rpartition('_')[2]}", f"{leak['conversations']:,} of {leak['of']:,}")
        for name, leak in splits.get("leaks", {}).items()
    ]
    lengths = ("min", "median", "mean", "p95", "max")
    tokens = [
        (model, *(f"{audit['tokens'][name]:g}" for name in lengths), f"{audit['trained_share']:.1%}")
        for model, audit in report.audits.items()
    ]
    return [
        (("split", "problems"), [(name, f"{one['problems']:,}") for name, one in splits["splits"].items()]),
        (("leaks", "conversations"), shared),
        (("tokens of an SFT conversation", *lengths, "trained share"), tokens),
    ]


def steps(report: Report) -> Table:
    """How much each step from the files to the scored replies leaves, and why the rest is left out."""
    splits, scored = report.splits, {name: int(report.rows[0][name]) for name in ("conversations", "replies")}
    there = sum(one["conversations"] for one in splits["files"])
    eligible = sum(one["eligible"] for one in splits["files"])
    dropped = Counter(one["split"] for one in splits["dropped"])
    gone = {(one["split"], one["id"]) for one in splits["dropped"]}
    cut = Counter(one["split"] for one in splits["cut"] if (one["split"], one["id"]) not in gone)
    drawn = sum(one["conversations"] for one in splits["splits"].values()) + dropped.total()
    sizes = ", ".join(f"{name} {size}" for name, size in splits["wanted_per_file"].items())
    single = splits.get("min_turns", 2) == 1
    short = "a single turn" if single else "two turns or fewer"
    rows: list[Sequence[str]] = [
        ("in the files", f"{there:,}", "", counted(len(splits["files"]), "file")),
        ("long enough", f"{eligible:,}", "", _left(there - eligible, "has", "have", short)),
        ("drawn", f"{drawn:,}", "", f"by the method '{splits['method']}', from each file: {sizes}"),
    ]
    for name, one in splits["splits"].items():
        why = [_left(dropped[name], "opens", "open", "with a reply that is not valid")] if dropped[name] else []
        why += [f"{cut[name]:,} cut before a reply that is not valid"] if cut[name] else []
        rows.append((f"the {name} split", f"{one['conversations']:,}", f"{one['tutor_turns']:,}", "; ".join(why)))
    test = splits["splits"]["test"]
    left_out = 0 if single else test["of_one_turn"]
    answered = test["conversations"] - left_out
    why = [_left(left_out, "has", "have", "a single tutor turn")] if left_out else []
    rows.append(("test: answered", f"{answered:,}", f"{report.asked:,}", "; ".join(why)))
    first = 0 if report.first_turn else answered
    why = [f"the first reply of each has nothing to judge ({first:,})"] if first else []
    defect = report.asked - first - scored["replies"]
    why += [f"the gold reply is not valid ({defect:,})"] if defect else []
    rows.append(("test: scored", f"{scored['conversations']:,}", f"{scored['replies']:,}", "; ".join(why)))
    return (("step", "conversations", "tutor turns", "what is left out, and why"), rows)


def _left(number: int, one: str, many: str, why: str) -> str:
    return f"{number:,} {one if number == 1 else many} {why}" if number else ""
