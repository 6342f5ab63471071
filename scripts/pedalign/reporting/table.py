"""Prints the rows of summary.csv as a table for a terminal."""

from collections.abc import Mapping, Sequence

from pedalign.reporting.figures import accuracies, differences, is_tested, macro_f1, percent, read_estimate, share


def table(rows: Sequence[Mapping[str, str]]) -> str:
    """The rows of a summary.csv as lines for a terminal: percentages with 95% intervals.

    Differences of labels are over the replies that are in valid format in both tutors (where they are tested), and over
    all replies; those of the valid format over all replies.
    """
    first = rows[0]
    fields = [name.removesuffix("_majority") for name in first if name.endswith("_majority")]
    compared = [row for row in rows if row["both_valid_replies"] or row["valid_format_difference"]]
    tested = sum(map(is_tested, compared))
    lines = [["tutor", "valid format", *fields]]
    lines.append(["always the commonest label", "", *(percent(float(first[f"{field}_majority"])) for field in fields)])
    for row in rows:
        lines.append([f"{row['model']} {row['policy']}", *accuracies(row, fields)])
        lines.append(["  macro-F1", *macro_f1(row, fields)])
        if row in compared:
            both_valid, over_all = differences(row, fields)
            replies = f" ({row['both_valid_replies']})" if row["both_valid_replies"] else ""
            lines += [[f"  both valid{replies}", *both_valid], ["  all replies", *over_all]]
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
    if any(not (is_tested(row) or row["valid_format_difference_sd"]) for row in compared):
        title.append("not tested, not told: too few replies are in valid format to tell judging from format")
    if tested > 1:
        title.append(f"p-values are adjusted for the {tested} aligned tutors by Holm's method")
    if any(int(row["seeds"]) > 1 for row in rows):
        title.append("(mean): over the training seeds, with the standard deviation of one seed")
    marked = [f"MARKED: {row['model']} {row['policy']}: {row['marks']}" for row in rows if row["marks"]]
    return "\n".join([*title, "", *body, "", *_perplexity(rows), *([""] if marked else []), *marked])


def aligned(lines: Sequence[Sequence[str]]) -> list[str]:
    """The lines with aligned columns, and a rule under the first line."""
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    body = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    return [body[0], "-" * len(max(body, key=len)), *body[1:]]


def _perplexity(rows: Sequence[Mapping[str, str]]) -> list[str]:
    if not rows[0]["perplexity_pairs"]:
        return ["perplexity of scaffolding and telling replies: skipped, the data has no file of such pairs"]
    lines = [["tutor", "scaffolding", "telling", "scaffolding likelier (% of pairs, per token)"]]
    for row in rows:
        likelier = read_estimate(row, "scaffold_likelier")
        found = [f"{float(row[name]):.3f}" if row[name] else "" for name in ("perplexity_scaffold", "perplexity_tell")]
        lines.append([f"{row['model']} {row['policy']}", *found, share(likelier) if likelier else ""])
    title = (
        f"perplexity of replies that scaffold and that tell, {rows[0]['perplexity_pairs']} pairs with one history each"
    )
    return [title, "", *aligned(lines)]
