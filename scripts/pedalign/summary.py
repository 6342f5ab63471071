"""All runs in one table: rows for summary.csv, and the same as text for people."""

from collections.abc import Mapping, Sequence
from typing import Any

from pedalign.rubric import Rubric

Key = tuple[str, str]  # model, policy


def summary_rows(
    metrics: Mapping[Key, dict[str, Any]], comparisons: Mapping[Key, dict[str, Any]], rubric: Rubric, data: str
) -> tuple[list[str], list[list[Any]]]:
    """Header and one row per tutor; `data` says what was tested on. Shares are 0 to 1, differences too.

    The columns of the comparison are empty for tutors that are not compared (the fine-tuned ones).
    """
    fields = [field.key for field in rubric.label_fields]
    measured = ("accuracy", "accuracy_low", "accuracy_high", "macro_f1", "majority")
    compared = ("difference", "difference_low", "difference_high", "p_value")
    header = ["model", "policy", "data", "conversations", "replies", "valid_format"]
    header += [f"{field}_{name}" for field in fields for name in (*measured, *compared)]
    rows = []
    for (model, policy), measures in metrics.items():
        row = [model, policy, data, measures["n_conversations"], measures["n_rows"], measures["valid_format"]]
        comparison = comparisons.get((model, policy))
        for field in fields:
            one = measures[field]
            row += [one["accuracy"], *one["accuracy_ci95"], one["macro_f1"], measures["majority_baseline"][field]]
            if comparison:
                other = comparison[field]
                row += [other["difference"], *other["difference_ci95"], other["p_value"]]
            else:
                row += [""] * len(compared)
        rows.append(row)
    return header, rows


def table(rows: Sequence[Mapping[str, str]]) -> str:
    """The rows of a summary.csv as lines that fit a terminal: percentages with 95% intervals."""
    first = rows[0]
    fields = [name.removesuffix("_macro_f1") for name in first if name.endswith("_macro_f1")]
    lines = [["tutor", "valid format", *fields]]
    lines.append(["always the commonest label", "", *(_percent(first[f"{field}_majority"]) for field in fields)])
    for row in rows:
        cells = [f"{row['model']} {row['policy']}", _percent(row["valid_format"])]
        for field in fields:
            low, high = (100 * float(row[f"{field}_accuracy_{end}"]) for end in ("low", "high"))
            cells.append(f"{_percent(row[f'{field}_accuracy'])} [{low:.1f}, {high:.1f}]")
        lines.append(cells)
        if row[f"{fields[0]}_difference"]:
            cells = ["  difference to sft", ""]
            for field in fields:
                value, low, high = (100 * float(row[f"{field}_difference{end}"]) for end in ("", "_low", "_high"))
                cells.append(f"{value:+.1f} [{low:+.1f}, {high:+.1f}] {_p(float(row[f'{field}_p_value']))}")
            lines.append(cells)
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    body = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    title = (
        f"{first['data']}: accuracy on {first['replies']} test replies of {first['conversations']} conversations, "
        "in %, with 95% intervals; differences in points"
    )
    return "\n".join([title, "", body[0], "-" * len(max(body, key=len)), *body[1:]])


def _percent(share: str) -> str:
    return f"{100 * float(share):.1f}"


def _p(value: float) -> str:
    return "p<0.001" if value < 0.001 else f"p={value:.3f}"
