"""Findings of the preflight checks, and their report."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pedalign.core.errors import UserError
from pedalign.reporting.table import aligned


@dataclass(frozen=True)
class Finding:
    """`status` is ok, unknown, warning or problem; only a problem means that a job would fail."""

    status: str
    about: str
    words: str
    remedy: str = ""


def problem(about: str, error: UserError) -> Finding:
    return Finding("problem", about, error.problem, error.remedy)


def judged(about: str, question: Callable[..., str], *arguments: Any) -> Finding:
    """A finding from a function: "ok" with the words that it returns, or a problem if it raises UserError."""
    try:
        return Finding("ok", about, question(*arguments))
    except UserError as error:
        return problem(about, error)


def report(findings: Sequence[Finding]) -> str:
    """A line for each finding; then warnings and problems again, with their fixes, the problems last."""
    lines = [["", "checked", "found"], *([one.status, one.about, one.words] for one in findings)]
    closing = [
        f"{one.status}: {one.about}: {one.words}\n  fix: {one.remedy}"
        for status in ("warning", "problem")
        for one in findings
        if one.status == status
    ]
    problems = sum(one.status == "problem" for one in findings)
    found = "1 problem: a job would fail" if problems == 1 else f"{problems} problems: jobs would fail"
    closing.append(found if problems else "no problem found")
    return "\n".join([*aligned(lines), "", *closing])
