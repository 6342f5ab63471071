"""Prints the rows of summary.csv as a table for a terminal."""

from collections.abc import Mapping, Sequence


def table(rows: Sequence[Mapping[str, str]]) -> str:
    """The rows of a summary.csv as lines for a terminal: percentages with 95% intervals.

    A difference of labels is told over the replies that are in valid format in both tutors, where it is tested, and
    over all; one of the valid format over all.
    """
    first = rows[0]
    fields = [name.removesuffix("_macro_f1") for name in first if name.endswith("_macro_f1")]
    compared = [row for row in rows if row["both_valid_replies"] or row["valid_format_difference"]]
    tested = sum(bool(row["valid_format_p_holm"]) for row in compared)
    lines = [["tutor", "valid format", *fields]]
    lines.append(["always the commonest label", "", *(_percent(first[f"{field}_majority"]) for field in fields)])
    for row in rows:
        name = f"{row['model']} {row['policy']}"
        lines.append([name, _percent(row["valid_format"]), *(_accuracy(row, field) for field in fields)])
        if row in compared:
            told = [_difference(row, f"{field}_both_valid") for field in fields]
            lines.append([f"  both valid{_counted(row['both_valid_replies'])}", "", *told])
            over_all = [_over_all(row, field) if _is_tested(row) else "not told" for field in fields]
            lines.append(["  all replies", _difference(row, "valid_format"), *over_all])
    body = aligned(lines)
    title = [
        f"{first['data']}: accuracy on {first['replies']} test replies of {first['conversations']} conversations, "
        "in %, with 95% intervals"
    ]
    if compared:
        title.append(
            "under an aligned tutor its differences to sft, in points: of labels where both replies are in valid "
            "format; over all replies, of valid format and of labels"
        )
    if any(not _is_tested(row) for row in compared):
        title.append("not tested, not told: too few replies are in valid format to tell judging from format")
    if tested > 1:
        title.append(f"p-values are adjusted for the {tested} aligned tutors by Holm's method")
    if any(int(row["seeds"]) > 1 for row in rows):
        title.append("(mean): over the training seeds, with the standard deviation of one seed")
    marked = [f"MARKED: {row['model']} {row['policy']}: {row['marks']}" for row in rows if row["marks"]]
    return "\n".join([*title, "", *body, "", *_perplexity(rows), *([""] if marked else []), *marked])


def aligned(lines: Sequence[Sequence[str]]) -> list[str]:
    """Columns side by side, a rule under the first line."""
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    body = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    return [body[0], "-" * len(max(body, key=len)), *body[1:]]


def _perplexity(rows: Sequence[Mapping[str, str]]) -> list[str]:
    if not rows[0]["perplexity_pairs"]:
        return ["perplexity of scaffolding and telling replies: skipped, the data has no file of such pairs"]
    lines = [["tutor", "scaffolding", "telling", "scaffolding likelier (% of pairs, per token)"]]
    for row in rows:
        likelier = _percent(row["scaffold_likelier"])
        if row["scaffold_likelier_low"]:
            low, high = (_percent(row[f"scaffold_likelier_{end}"]) for end in ("low", "high"))
            likelier += f" [{low}, {high}]"
        found = [f"{float(row[name]):.3f}" if row[name] else "" for name in ("perplexity_scaffold", "perplexity_tell")]
        lines.append([f"{row['model']} {row['policy']}", *found, likelier])
    title = (
        f"perplexity of replies that scaffold and that tell, {rows[0]['perplexity_pairs']} pairs with one history each"
    )
    return [title, "", *aligned(lines)]


def _accuracy(row: Mapping[str, str], field: str) -> str:
    if row[f"{field}_accuracy_sd"]:
        return f"{_percent(row[f'{field}_accuracy'])} ± {_percent(row[f'{field}_accuracy_sd'])}"
    low, high = (_percent(row[f"{field}_accuracy_{end}"]) for end in ("low", "high"))
    return f"{_percent(row[f'{field}_accuracy'])} [{low}, {high}]"


def _counted(replies: str) -> str:
    return f" ({replies})" if replies else ""


def _is_tested(row: Mapping[str, str]) -> bool:
    """Whether the row's difference is told with a p-value, or of a group of seeds with its standard deviation."""
    return bool(row["valid_format_p_holm"] or row["valid_format_difference_sd"])


def _difference(row: Mapping[str, str], name: str) -> str:
    """Of labels over the replies valid in both, or of the valid format itself; no interval where it is not tested."""
    if not row[f"{name}_difference"]:
        return "none"
    if row[f"{name}_difference_sd"]:
        return _with_sd(row, name)
    if not row[f"{name}_p_holm"]:
        return f"{100 * float(row[f'{name}_difference']):+.1f}, not tested"
    return f"{_with_interval(row, name)} {_p(float(row[f'{name}_p_holm']))}"


def _over_all(row: Mapping[str, str], field: str) -> str:
    return _with_sd(row, field) if row[f"{field}_difference_sd"] else _with_interval(row, field)


def _with_sd(row: Mapping[str, str], name: str) -> str:
    return f"{100 * float(row[f'{name}_difference']):+.1f} ± {_percent(row[f'{name}_difference_sd'])}"


def _with_interval(row: Mapping[str, str], name: str) -> str:
    value, low, high = (100 * float(row[f"{name}_difference{end}"]) for end in ("", "_low", "_high"))
    return f"{value:+.1f} [{low:+.1f}, {high:+.1f}]"


def _percent(share: str) -> str:
    return f"{100 * float(share):.1f}"


def _p(value: float) -> str:
    return "p<0.001" if value < 0.001 else f"p={value:.3f}"
