"""Adds up where the time of a run went, by stage and activity, from Snakemake's benchmark files and the logs."""

import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import altair as alt
import vl_convert

from pedalign.core.artifacts import write_text
from pedalign.core.paths import Paths
from pedalign.reporting.charts import COLOURS, NEUTRAL

# The phases of a job, in order, with their colours. Waiting: for GPUs in use by other jobs. Starting: the rest of the
# time before the script's first line, mostly imports of libraries.
PHASES = {"waiting": "#c8c8c8", "starting": NEUTRAL} | dict(
    zip(("loading", "working", "training", "generating", "saving"), COLOURS, strict=False)
)
_ACCOUNT = re.compile(r"^time: (.*)$", re.MULTILINE)
_SHARE = re.compile(r"([0-9.]+) s (\w+)")
_WAITED = re.compile(r"^launch: waited ([0-9.]+) s for GPUs$", re.MULTILINE)
_HELD = re.compile(r"^launch: the largest process held ([0-9.]+) GB$", re.MULTILINE)


def spent(paths: Paths) -> dict[tuple[str, str], float]:
    """(stage, phase) → seconds of the newest jobs, stages in the order in which they ended.

    A job whose log has no account of its phases counts as working all the time.
    """
    found: dict[tuple[str, str], float] = defaultdict(float)
    for inside, measured, log in _jobs(paths):
        seconds = float(measured["s"])
        waited = max(map(float, _WAITED.findall(log)), default=0.0)
        phases = {"waiting": waited} if waited else {}
        accounts = _ACCOUNT.findall(log)
        phases |= {phase: float(share) for share, phase in _SHARE.findall(accounts[-1])} if accounts else {}
        rest = max(seconds - sum(phases.values()), 0.0)
        for phase, share in {**phases, "starting" if accounts else "working": rest}.items():
            found[stage(inside), phase] += share
    return dict(found)


def by_stage(found: dict[tuple[str, str], float]) -> dict[str, float]:
    """Stage → seconds of what `spent` found, without the time that its jobs waited for GPUs."""
    seconds: dict[str, float] = defaultdict(float)
    for (name, phase), share in found.items():
        seconds[name] += share if phase != "waiting" else 0.0
    return dict(seconds)


def memory(paths: Paths) -> dict[str, float]:
    """Stage → GB of the largest of its newest jobs; 0 for jobs too short to be measured.

    The larger of what Snakemake measured, at intervals, and what the log says of the largest process.
    """
    found: dict[str, float] = {}
    for inside, measured, log in _jobs(paths):
        megabytes = float(measured["max_rss"]) if measured["max_rss"] not in ("-", "NA") else 0.0
        held = [float(gigabytes) for gigabytes in _HELD.findall(log)]
        found[stage(inside)] = max(found.get(stage(inside), 0.0), megabytes / 1000, *held)
    return found


def _jobs(paths: Paths) -> Iterator[tuple[Path, dict[str, str], str]]:
    """Path among the benchmark files, what Snakemake measured, and log of each job; in the order of their ends."""
    folder = Path(paths.benchmarks)
    for path in sorted(folder.rglob("*.tsv"), key=lambda path: path.stat().st_mtime):
        header, values, *_ = path.read_text(encoding="utf-8").splitlines()
        inside = path.relative_to(folder)
        log = Path(paths.logs) / inside.with_suffix(".log")
        told = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
        yield inside, dict(zip(header.split("\t"), values.split("\t"), strict=True)), told


def stage(path: Path) -> str:
    """`tiny/dpo-b0.1/test/responses.tsv` → `aligned/test/responses`: one for all models and their aligned tutors."""
    parts = list(path.with_suffix("").parts)
    if len(parts) > 1 and parts[0] != "data":
        del parts[0]  # the model
        if len(parts) > 1 and parts[0] != "sft":
            parts[0] = "aligned"
    if "shards" in parts:
        parts[parts.index("shards") :] = ["responses"]
    return "/".join(parts)


def in_words(found: dict[tuple[str, str], float]) -> str:
    """`4 min 2 s of jobs: training 58%, generating 14%, ...`"""
    by_phase: dict[str, float] = defaultdict(float)
    for (_, phase), seconds in found.items():
        by_phase[phase] += seconds
    total = sum(by_phase.values())
    ranked = sorted(by_phase.items(), key=lambda one: -one[1])
    shares = ", ".join(f"{phase} {seconds / total:.0%}" for phase, seconds in ranked)
    hours, minutes = divmod(round(total) // 60, 60)
    return f"{f'{hours} h ' if hours else ''}{minutes} min {round(total) % 60} s of jobs: {shares}"


def fitting_unit(seconds: float) -> tuple[str, int]:
    """The unit in which a chart shows a time as long as this, and its length in seconds."""
    return ("hours", 3600) if seconds > 7200 else ("seconds", 1)


def draw(found: dict[tuple[str, str], float], output: Path) -> None:
    """Write an SVG with a bar for each stage, divided by what its jobs did."""
    stages = list(dict.fromkeys(stage for stage, _ in found))
    unit, length = fitting_unit(sum(found.values()))
    phases = [phase for phase in PHASES if any(phase == of for _, of in found)]
    rows = [
        {"stage": stage, "phase": phase, "time": seconds / length, "order": phases.index(phase)}
        for (stage, phase), seconds in found.items()
    ]
    colours = alt.Scale(domain=phases, range=[PHASES[phase] for phase in phases])
    chart = (
        alt.Chart(alt.Data(values=rows), title=in_words(found), width=600)
        .mark_bar()
        .encode(
            x=alt.X("time:Q", title=unit),
            y=alt.Y("stage:N", sort=stages, title=None),
            color=alt.Color("phase:N", scale=colours, title=None),
            order="order:Q",
        )
    )
    write_text(output, vl_convert.vegalite_to_svg(chart.to_dict()))
