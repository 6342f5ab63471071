"""What a stage made, in a line: the last that its script prints before the time it took.

Of most artifacts the script itself prints it: `results/tiny/base: 37,792 parameters`. A call of Snakemake tells it as
the job ends (scripts/snakemake_logger_plugin_pedalign), and so leaves it out of what its jobs print meanwhile.
The figures are read from the artifact, not told by the stage: so their wording is no stage's code, and reruns nothing.
"""

import csv
import json
import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

SHORT = "PEDALIGN_SHORT"  # is set for the jobs of a call of Snakemake that tells what they made
DETAIL = "- "  # begins a line that is for the log alone
_TAIL = 2**16  # bytes of a log's end in which its last lines are
# Lines for the log alone, beside details and results; the last one is DeepSpeed's.
_ROUTINE = ("time: ", DETAIL, "engine: shared_prefix\n", "replies will be given by the engine: ")
_BANNER = "Setting accelerator to CPU"

_made: list[Path] = []


def made(artifacts: Iterable[Path]) -> None:
    """The running script has made these."""
    _made.extend(artifacts)


def closing() -> str:
    """`results/tiny/sft/test/metrics.json: valid format 99.6%, ...`; empty where the script has said so itself."""
    for path in _made:
        if path.name in _FIGURES:
            with suppress(OSError, ValueError, LookupError, TypeError):  # told or not, it is made
                return f"{path}: {_FIGURES[path.name](path)}"
    return ""


def figures(log: Path, artifacts: Sequence[str]) -> str:
    """What the log says at its end of one of these artifacts; empty where it says nothing."""
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
    """Whether a line, with its end, is for the log alone where the call tells what was made: of this artifact."""
    return line.startswith(_ROUTINE) or _BANNER in line or bool(artifact and line.startswith(f"{artifact}: "))


def tee_function() -> str:
    """In bash: a `tee LOG` that prints no routine lines. LOG is <results>/logs/..., and what stands there is a result.

    Its status is that of the true tee, which fails where the log can't be written.
    """
    words = "|".join([*(re.escape(one.rstrip("\n")) for one in _ROUTINE), f".*{_BANNER}"])
    pattern = f'"^({words}|${{1%%/logs/*}}/[^ ]+: )"'
    return f'tee() {{ command tee "$@" | {{ LC_ALL=C grep --line-buffered -avE {pattern} || true; }}; }};'


def _splits(path: Path) -> str:
    report = json.loads(path.read_bytes())
    drawn = ", ".join(f"{split} {found['conversations']}" for split, found in report["splits"].items())
    shared = (
        f"{found['conversations']} of {found['of']} test conversations share their problem with {name.split('_')[-1]}"
        for name, found in report["leaks"].items()
    )
    return "; ".join([f"{drawn} conversations", f"{sum(report['cut_by_reason'].values())} cut short", *shared])


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
