"""The sentences at the top of the report page: whether alignment helped, what it changed, and warnings."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from pedalign.reporting.figures import Row, ends, is_tested, p_value, points, read_estimate, typeset
from pedalign.reporting.report import Report, counted, name_of

SIGNIFICANT = 0.05
LEAKED = 0.1  # the page warns if a larger share of test conversations is about a problem that was trained on


def answers(report: Report) -> list[str]:
    """Whether alignment helped: a sentence for each aligned tutor; for more than three, one for all of them.

    Sentences report the gain on replies in valid format in both tutors, and that in valid format itself; p-values are
    Holm's, over all tested tutors. For a tutor that is not tested they report no gain.
    """
    key = report.main_field.key
    compared = [row for row in report.rows if row["both_valid_replies"]]
    first = report.rows[0]
    on = f"Measured on {counted(first['replies'], 'scored test reply', 'scored test replies')} of "
    on += f"{counted(first['conversations'], 'conversation')}, {first['data']}."
    if not compared:
        return [f"No aligned tutor was measured. {on}"]
    if len(compared) <= 3:
        return [f"{_answer(row, key)} {on}" for row in compared]
    return [f"{_of_many(compared, key)} {on}"]


def _of_many(compared: Sequence[Row], key: str) -> str:
    tested = [row for row in compared if _is_told(row, key)]
    untested = len(compared) - len(tested)
    without = f" {untested} of {len(compared)} are not tested: too few replies are in valid format." if untested else ""
    if not tested:
        return f"No gain of the {len(compared)} aligned tutors can be told.{without}"
    name = f"{key}_both_valid"
    gains = [float(row[f"{name}_difference"]) for row in tested]
    better, worse = (
        sum(_significant(row, name) and sign * gain > 0 for row, gain in zip(tested, gains, strict=True))
        for sign in (1, -1)
    )
    return (
        f"{better} of {len(tested)} aligned tutors pick the right {key} significantly more often than their "
        f"fine-tuned tutor, {worse} less often, where both replies are in valid format (p < {SIGNIFICANT}, Holm); "
        f"differences {typeset(ends((min(gains), max(gains)), points))} points, the largest of "
        f"{name_of(tested[gains.index(max(gains))])}.{without}"
    )


def _answer(row: Row, key: str) -> str:
    shares = float(row["valid_format_reference"]), float(row["valid_format"])
    if not _is_told(row, key):
        return (
            f"Nothing can be told of what the aligned tutor {name_of(row)} gained: {shares[1]:.1%} of its replies are "
            f"in valid format, {shares[0]:.1%} of its fine-tuned tutor's, and that is too few to tell judging from "
            "format."
        )
    name = f"{key}_both_valid"
    before, after = (float(row[f"{name}_{which}"]) for which in ("reference", "aligned"))
    told = f"The aligned tutor {name_of(row)} picks the right {key} "
    if _significant(row, name):
        told += f"{'more' if float(row[f'{name}_difference']) > 0 else 'less'} often than its fine-tuned tutor"
    else:
        told += "as often as its fine-tuned tutor, as far as can be told"
    told += f": in {after:.1%} of its replies, against {before:.1%} ({_gain(row, name)}, of the "
    told += (
        f"{int(row['both_valid_replies']):,} replies that both tutors gave in valid format). The share in valid format "
    )
    return f"{told}is {shares[1]:.1%}, against {shares[0]:.1%} ({_gain(row, 'valid_format')})."


def _is_told(row: Row, key: str) -> bool:
    """Whether a tutor's gain can be reported: it is tested, and some replies are in valid format in both."""
    return is_tested(row) and bool(row[f"{key}_both_valid_p_holm"])


def _gain(row: Row, name: str) -> str:
    one = read_estimate(row, f"{name}_difference")
    if one is None or one.interval is None or one.p is None:
        raise ValueError(f"summary.csv has no test of {name}")
    interval = f"95% interval {ends(one.interval, points)}"
    return typeset(f"{points(one.value)} points, {interval}, {p_value(one.p)}")


def _significant(row: Row, name: str) -> bool:
    return float(row[f"{name}_p_holm"]) < SIGNIFICANT


def changes(report: Report) -> list[str]:
    """How many of the scored replies each tested tutor corrected and spoiled, and in how many of these both replies are
    in valid format. Empty for more than three tutors."""
    key, tutors = report.main_field.key, report.tutors
    aligned = [tutor for row in report.rows if is_tested(row) and (tutor := (row["model"], row["policy"])) in tutors]
    told = []
    for tutor in aligned if len(aligned) <= 3 else ():
        found: Counter[tuple[bool, bool]] = Counter()
        old, new = tutors.index((tutor[0], "sft")), tutors.index(tutor)
        for turn in report.turns:
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


def leaks(splits: Mapping[str, Any]) -> list[str]:
    """Warnings from splits.json: test conversations about problems that were trained on, and warnings of the draw."""
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
