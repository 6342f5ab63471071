"""Formats measured figures: shares in percent, differences in points, their 95% intervals and p-values.

The terminal's table, the report page and the model card all use this module. The terminal's form is plain; `typeset`
turns it into that of a page.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Row = Mapping[str, str]  # of summary.csv


@dataclass(frozen=True)
class Estimate:
    """A share (0 to 1) or a difference of two shares, with its uncertainty.

    `interval`: the ends of its 95% interval. `sd`: for a mean over training seeds, the standard deviation of one seed.
    `p`: the p-value of a difference.
    """

    value: float
    interval: tuple[float, float] | None = None
    sd: float | None = None
    p: float | None = None


def read_estimate(row: Row, name: str) -> Estimate | None:
    """The estimate in a column of summary.csv, with its `<name>_low`, `_high` and `_sd`; None if the cell is empty."""
    if not row[name]:
        return None
    low, high, sd = (row.get(f"{name}_{part}") for part in ("low", "high", "sd"))
    p = row.get(f"{name.removesuffix('_difference')}_p_holm")
    return Estimate(
        float(row[name]),
        (float(low), float(high)) if low and high else None,
        float(sd) if sd else None,
        float(p) if p else None,
    )


def compared(part: Mapping[str, Any]) -> Estimate | None:
    """The difference that a part of comparison.json holds; None if it has none."""
    if part["difference"] is None:
        return None
    low, high = part["difference_ci95"]
    return Estimate(part["difference"], (low, high), p=part.get("p_value"))


def is_tested(row: Row) -> bool:
    """Whether a row's differences have p-values."""
    return bool(row["valid_format_p_holm"])


def percent(share: float) -> str:
    """0.981 → 98.1"""
    return f"{100 * share:.1f}"


def points(difference: float) -> str:
    """0.034 → +3.4"""
    return f"{100 * difference:+.1f}"


def p_value(p: float) -> str:
    return "p<0.001" if p < 0.001 else f"p={p:.3f}"


def share(one: Estimate) -> str:
    """A share in percent: 98.1 [97.8, 98.5]; a mean over seeds: 98.1 ± 0.2"""
    return _with_spread(one, percent)


def difference(one: Estimate | None, tested: bool) -> str:
    """A difference in points: +3.4 [+1.4, +5.4] p=0.010; a mean over seeds: +3.4 ± 1.0; else: +3.4, not tested"""
    if one is None:
        return "none"
    if one.sd is None and not tested:
        return f"{points(one.value)}, not tested"
    told = _with_spread(one, points)
    return f"{told} {p_value(one.p)}" if one.p is not None and one.sd is None else told


def _with_spread(one: Estimate, written: Callable[[float], str]) -> str:
    if one.sd is not None:
        return f"{written(one.value)} ± {percent(one.sd)}"
    if one.interval is None:
        return written(one.value)
    low, high = map(written, one.interval)
    return f"{written(one.value)} [{low}, {high}]"


def ends(interval: Sequence[float], written: Callable[[float], str] = percent) -> str:
    """The ends of an interval within a sentence: 97.8 to 98.5"""
    return " to ".join(map(written, interval))


def typeset(text: str) -> str:
    """The figures in a text as a page shows them: with a minus sign, and as +3.4 [+1.4, +5.4], p = 0.010"""
    text = re.sub(r"(?<![\w.])-(?=\d)", "\N{MINUS SIGN}", text)
    return re.sub(r"\bp([<=])(?=\d)", r"p \1 ", text.replace("] p", "], p"))


def accuracies(row: Row, fields: Sequence[str]) -> list[str]:
    """A tutor's cells of the table: its share in valid format, and its accuracy in each field (keys)."""
    found = [read_estimate(row, f"{field}_accuracy") for field in fields]
    return [percent(float(row["valid_format"])), *(share(one) for one in found if one)]


def macro_f1(row: Row, fields: Sequence[str]) -> list[str]:
    """A tutor's cells under `accuracies`: none for the valid format, and its macro-F1 in each field, in %."""
    return ["", *(percent(float(row[f"{field}_macro_f1"])) for field in fields)]


def differences(row: Row, fields: Sequence[str]) -> tuple[list[str], list[str]]:
    """Cells of an aligned tutor's differences to the fine-tuned one: over the replies in valid format in both (empty
    for the valid format itself), and over all replies."""
    tested = is_tested(row)

    def told(name: str) -> str:
        return difference(read_estimate(row, f"{name}_difference"), tested)

    over_all = [told(field) if tested or row["valid_format_difference_sd"] else "not told" for field in fields]
    return ["", *(told(f"{field}_both_valid") for field in fields)], [told("valid_format"), *over_all]
