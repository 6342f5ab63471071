"""Times several ways of doing the same work, in turn on one machine, and reports how many times faster ours is."""

import gc
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

OURS = "pedalign"


@dataclass(frozen=True)
class Way:
    """A way of doing the work. `prepare` does what is not timed (such as loading a model), and returns the work as a
    function, which returns its result."""

    description: str
    prepare: Callable[[], Callable[[], Any]]


@dataclass(frozen=True)
class Comparison:
    """Ways of doing `amount` of `unit`; the last one, named OURS, is compared with the others.

    `check` gets each way's result of the last round, and returns how they differ.
    """

    unit: str
    amount: float
    ways: dict[str, Way]
    check: Callable[[dict[str, Any]], dict[str, Any]] = field(default=lambda made: {})


def measure(comparison: Comparison, rounds: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Time all ways. Rates are amounts per second; ratios are taken within a round."""

    def in_words(taken: float) -> str:
        return f"{comparison.amount / taken:.1f} {comparison.unit}/s"

    seconds, made = in_turn(comparison.ways, rounds, say, in_words)
    return {
        "unit": comparison.unit,
        "amount": comparison.amount,
        "ways": {
            name: {
                "description": comparison.ways[name].description,
                "seconds": spread(taken),
                "rate": spread([comparison.amount / one for one in taken]),
            }
            for name, taken in seconds.items()
        },
        "ours_is_faster": {
            name: spread([one / other for one, other in zip(taken, seconds[OURS], strict=True)])
            for name, taken in seconds.items()
            if name != OURS
        },
        **comparison.check(made),
    }


def in_turn(
    ways: dict[str, Way], rounds: int, say: Callable[[str], None], in_words: Callable[[float], str]
) -> tuple[dict[str, list[float]], dict[str, Any]]:
    """Run each way once per round. Returns its seconds in every round, and its result of the last one."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    made: dict[str, Any] = {}
    for number in range(1, rounds + 1):
        for name, way in ways.items():
            work = way.prepare()
            gc.collect()
            started = time.perf_counter()
            made[name] = work()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            seconds[name].append(time.perf_counter() - started)
            say(f"round {number}/{rounds}: {name}: {in_words(seconds[name][-1])}")
    return seconds, made


def spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "least": min(values), "most": max(values)}


def matrix_product_rate(dtype: torch.dtype, device: torch.device) -> float:
    """Peak floating-point operations per second of this machine: the fastest of some large matrix products.

    Ten products, or as many as fit into two seconds: bfloat16 is two hundred times slower on a processor without it.
    """
    size = 8192 if device.type == "cuda" else 1536
    one, other = (torch.randn(size, size, dtype=dtype, device=device) for _ in range(2))
    seconds: list[float] = []
    while len(seconds) < 10 and sum(seconds) < 2:
        started = time.perf_counter()
        one @ other
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return 2 * size**3 / min(seconds)


def benchmark_report(found: dict[str, Any]) -> list[str]:
    """A benchmark.json as lines of Markdown, for docs/explanation/speed.md."""
    machine = found["machine"]
    where = " ".join([*machine["gpus"], f"{machine['cpu']}, {machine['cores']} cores,"])
    versions = ", ".join(f"{package} {number}" for package, number in machine["versions"].items())
    lines = [f"{machine['date']}; {where} {machine['threads']} threads; {versions}; size {found['size']}.", ""]
    lines += ["| | way | rate | ours is faster |", "|---|---|---|---|"]
    notes = []
    for comparison in found["comparisons"]:
        name = f"{comparison['name']} ({comparison['model']})"
        first = f"{name}, {comparison['amount']} {comparison['unit']}"
        for way, timed in comparison["ways"].items():
            rate = f"{_range(timed['rate'])} {comparison['unit']}/s"
            faster = comparison["ours_is_faster"].get(way)
            times = f"{_range(faster)} times" if faster else ""
            lines.append(f"| {first} | {way}: {timed['description']} | {rate} | {times} |")
            first = ""
        for way, difference in comparison.get("differences", {}).items():
            others, gap = difference["other_replies"], difference["largest_gap"]
            notes.append(
                f"- {name}: {others} of {comparison['amount']} replies of {way} are not those of one at a time"
                + (f"; where they part, the log-probabilities are {gap:.1g} apart at most." if others else ".")
            )
        if "operations" in comparison:
            rate = comparison["operations"] / comparison["ways"][OURS]["seconds"]["median"]
            notes.append(
                f"- {name}: ours does {rate / 1e9:.0f} GFLOP/s, {rate / comparison['peak']:.0%} of what a matrix "
                f"product does here at the same time ({comparison['peak'] / 1e9:.0f})."
            )
    if "waits" in found:
        notes += ["", "Seconds before anything is computed (of a stage: up to the first line of its work):", ""]
        notes += ["| | seconds |", "|---|---|"]
        notes += [f"| `{name}` | {_range(seconds)} |" for name, seconds in found["waits"].items()]
    if "whole_runs" in found:
        whole = found["whole_runs"]
        notes += ["", f"Seconds of a whole run (rounds: {whole['rounds']}) with {json.dumps(whole['changes'])}:", ""]
        notes += ["| | seconds | ours is faster |", "|---|---|---|"]
        for name, seconds in whole["seconds"].items():
            times = "" if name == OURS else f"{_range(whole['ours_is_faster'])} times"
            notes.append(f"| {name} | {_range(seconds)} | {times} |")
    return [*lines, "", *notes]


def _range(values: dict[str, float]) -> str:
    median, least, most = (f"{values[name]:.3g}" if values[name] < 100 else f"{values[name]:.0f}" for name in values)
    return f"{median} [{least}, {most}]"


def machine() -> dict[str, Any]:
    """The machine and the versions to which the figures belong."""
    cpu = next(
        (line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")),
        platform.processor(),
    )
    gpus = [torch.cuda.get_device_name(at) for at in range(torch.cuda.device_count())]
    packages = ("torch", "transformers", "trl", "accelerate")
    return {
        "date": time.strftime("%Y-%m-%d"),
        "cpu": cpu,
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "gpus": gpus,
        "python": platform.python_version(),
        "versions": {package: version(package) for package in packages},
    }


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).is_file() else []
