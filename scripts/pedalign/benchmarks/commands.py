"""Measures the wait before any work begins: until a stage has started, and until Snakemake has planned."""

import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from pedalign.benchmarks.comparison import Way, in_turn, spread

ROOT = Path(__file__).parents[3]
STAGES = (
    *("split", "base", "audit", "sft", "generate", "pair", "reference", "align"),
    *("score", "perplexity", "compare", "summarize"),
)
SWEEP = {"model": "tiny", "algorithm": ["dpo", "ipo", "kto", "rso", "cdpo"], "beta": [n / 100 for n in range(1, 101)]}


def waits(rounds: int, say: Callable[[str], None]) -> dict[str, dict[str, float]]:
    """Seconds (median, least, most) of a dry run with the default run, of one with 500 runs, and of each stage's script
    up to the first line of its work. Each round measures all of them in turn."""
    with tempfile.TemporaryDirectory() as folder:
        sweep = Path(folder, "sweep.yaml")
        sweep.write_text(yaml.safe_dump({"runs": [SWEEP]}), encoding="utf-8")
        plan = [sys.executable, "-m", "snakemake", "--dry-run", "--cores", "1"]
        commands: dict[str, list[Any]] = {
            "snakemake -n": plan,
            "snakemake -n, 500 runs": [*plan, "--configfile", sweep],
            **{f"scripts/{name}.py": [sys.executable, ROOT / f"scripts/{name}.py", "--help"] for name in STAGES},
        }
        call = partial(subprocess.run, cwd=ROOT, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        ways = {name: Way("", partial(partial, call, command)) for name, command in commands.items()}
        seconds, _ = in_turn(ways, rounds, say, lambda taken: f"{taken:.1f} s")
    return {name: spread(taken) for name, taken in seconds.items()}
