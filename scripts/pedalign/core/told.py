"""The result line of a stage, which says what it made: `results/tiny/base: 37,792 parameters`.

It is the last line of a script's log before the time spent. Snakemake prints it when the job ends
(scripts/snakemake_logger_plugin_pedalign), and so leaves it out of the lines that a running job prints.
Most scripts print their own. For others it is made here from the artifact: its wording is then not part of a stage's
code, and a change of it reruns nothing.
"""

import csv
import json
import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

SHORT = "PEDALIGN_SHORT"  # set for jobs of a Snakemake call that prints their result lines
DETAIL = "- "  # begins a line that only the log shows
_TAIL = 2**16  # bytes at a log's end that hold its last lines
# Beginnings of lines that only the log shows. _BANNER is DeepSpeed's, anywhere in a line.
_ROUTINE = ("time: ", DETAIL, "engine: shared_prefix\n", "replies will be given by the engine: ")
_BANNER = "Setting accelerator to CPU"

_made: list[Path] = []


def made(artifacts: Iterable[Path]) -> None:
    """Note the artifacts that the running script has made."""
    _made.extend(artifacts)


def closing() -> str:
    """The result line of the running script; empty if the script prints its own."""
    for path in _made:
        if path.name in _FIGURES:
            with suppress(OSError, ValueError, LookupError, TypeError):  # a missing line must not fail the stage
                return f"{path}: {_FIGURES[path.name](path)}"
    return ""


def figures(log: Path, artifacts: Sequence[str]) -> str:
    """The figures in the last result line of a log about one of the artifacts; empty without one."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - _TAIL))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return ""
    for line in reversed(lines):
        for artifact in artifacts:
            if line.startswith(f"{artifact}: "):
                return line.removeprefix(f"{artifact}: ").strip()
    return ""


def is_routine(line: str, artifact: str | None) -> bool:
    """Whether only the log shows a line (with its line end): a routine line, or the result line of `artifact`."""
    return line.startswith(_ROUTINE) or _BANNER in line or bool(artifact and line.startswith(f"{artifact}: "))


def tee_function() -> str:
    """A bash function `tee LOG` that prints neither routine lines nor result lines; LOG is <results>/logs/...

    Its exit status is that of the real tee, which fails if the log can't be written.
    """
    words = "|".join([*(re.escape(one.rstrip("\n")) for one in _ROUTINE), f".*{_BANNER}"])
    pattern = f'"^({words}|${{1%%/logs/*}}/[^ ]+: )"'
    return f'tee() {{ command tee "$@" | {{ LC_ALL=C grep --line-buffered -avE {pattern} || true; }}; }};'


def _splits(path: Path) -> str:
    report = json.loads(path.read_bytes())
    drawn = ", ".join(split + _drawn(found) for split, found in report["splits"].items())
    shared = (
        f"{found['conversations']} of {found['of']} test conversations share their problem with {name.split('_')[-1]}"
        for name, found in report["leaks"].items()
    )
    read_as = {word: sum(one["replies"] for one in report["read_as"][f"{word}s"]) for word in ("label", "name")}
    spelled = [f"{n} {word}{'s' * (n > 1)} read from another spelling" for word, n in read_as.items() if n]
    cut = f"{sum(report['cut_by_reason'].values())} cut short"
    return "; ".join([f"{drawn} conversations", cut, *spelled, *shared])


def _drawn(found: dict[str, int]) -> str:
    short = f" of {found['wanted']}" if found["conversations"] < found["wanted"] else ""
    return f" {found['conversations']}{short}"


def _audit(path: Path) -> str:
    report = json.loads(path.read_bytes())
    texts = f"{report['conversations']} conversations of {report['tokens']['mean']:.0f} tokens"
    longest = f"(longest {report['tokens']['max']}), replies of up to {report['gold_replies']['longest']}"
    return f"{texts} {longest}; {report['trained_share']:.0%} of the tokens are trained"


def _pairs(path: Path) -> str:
    counts = json.loads(path.read_bytes())
    reasons = ", ".join(f"{number} {reason}" for reason, number in counts["reasons"].items())
    return f"{counts['pairs'][-1]['pairs']} pairs of {counts['responses']} replies: {reasons or 'none'}"


def _metrics(path: Path) -> str:
    report = json.loads(path.read_bytes())
    right = ", ".join(f"{label} {found['accuracy']:.1%}" for label, found in _labels(report))
    return f"of {report['n_rows']} replies {report['valid_format']:.1%} in valid format; right: {right}"


def _comparison(path: Path) -> str:
    report = json.loads(path.read_bytes())
    points = {"valid format": report["valid_format"]["difference"]}
    points |= {label: found["difference"] for label, found in _labels(report)}
    changes = ", ".join(f"{label} {100 * change:+.1f}" for label, change in points.items())
    return f"{changes} points over all {report['n_rows']} replies"


def _labels(report: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    measured = {"macro_f1", "macro_f1_difference"}
    return [(name, one) for name, one in report.items() if isinstance(one, dict) and not measured.isdisjoint(one)]


def _summary(path: Path) -> str:
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    marked = sum(bool(row["marks"]) for row in rows)
    return f"{len(rows)} tutors, {marked} of them marked"


_FIGURES: dict[str, Callable[[Path], str]] = {
    "splits.json": _splits,
    "audit.json": _audit,
    "preferences_counts.json": _pairs,
    "metrics.json": _metrics,
    "comparison.json": _comparison,
    "summary.csv": _summary,
}
