"""Whole runs for the benchmark: by the workflow, and by a shell script that calls the stages one after another."""

import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from pedalign.benchmarks.comparison import OURS, Way, in_turn, spread

ROOT = Path(__file__).parents[3]
OTHER_WAYS = ("sft", "generate", "align")  # stages that scripts/baseline.py does in other ways
NOT_NEEDED = ("audit", "reference", "card", "report")  # stages without which the other ways work
SHELL_SCRIPT = "shell script"


def whole_runs(changes: dict[str, Any], rounds: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Seconds of both (median, least, most) for config.yaml with `changes`, and how many times faster the workflow is.

    They run in turn, each from nothing in a folder of its own.
    """
    seconds, _ = in_turn(
        {SHELL_SCRIPT: Way("", partial(_script, changes)), OURS: Way("", partial(_workflow, changes))},
        rounds,
        say,
        lambda taken: f"{taken:.0f} s",
    )
    faster = [one / ours for one, ours in zip(seconds[SHELL_SCRIPT], seconds[OURS], strict=True)]
    return {
        "changes": changes,
        "rounds": rounds,
        "seconds": {name: spread(taken) for name, taken in seconds.items()},
        "ours_is_faster": spread(faster),
    }


def shell_script(plan: str) -> str:
    """A script of the commands that a dry run with --printshellcmds prints, with the baselines in place of our ways."""
    commands = re.findall(r"^Shell command: (?:exec )?(.* .*)$", plan, re.MULTILINE)
    commands = [line for line in commands if not re.search(rf"scripts/({'|'.join(NOT_NEEDED)})\.py", line)]
    ways = re.compile(rf"(\S*)scripts/launch\.py .*? -- \S*scripts/({'|'.join(OTHER_WAYS)})\.py")
    launched = re.compile(r"\S*scripts/launch\.py .*? -- ")
    commands = [launched.sub("", ways.sub(r"\1scripts/baseline.py \2", line)) for line in commands]
    made = re.findall(r"^    (?:output|log): (.*)$", plan, re.MULTILINE)
    folders = sorted({str(Path(file).parent) for files in made for file in files.split(", ")})
    return "\n".join(["set -euo pipefail", f"mkdir --parents {' '.join(folders)}", *commands, ""])


def _workflow(changes: dict[str, Any]) -> Callable[[], None]:
    folder = _folder(changes)
    return partial(_call, folder, *_snakemake("--quiet", "all"))


def _script(changes: dict[str, Any]) -> Callable[[], None]:
    folder = _folder(changes)
    command = _snakemake("--dry-run", "--printshellcmds", "--verbose")
    plan = subprocess.run(command, cwd=folder.name, check=True, capture_output=True, text=True)
    Path(folder.name, "run.sh").write_text(shell_script(plan.stdout + plan.stderr), encoding="utf-8")
    return partial(_call, folder, "bash", "run.sh")


def _folder(changes: dict[str, Any]) -> tempfile.TemporaryDirectory:
    folder = tempfile.TemporaryDirectory()
    Path(folder.name, "changes.yaml").write_text(yaml.safe_dump(changes), encoding="utf-8")
    return folder


def _snakemake(*options: str) -> list[str]:
    workflow = ["--snakefile", str(ROOT / "Snakefile"), "--configfile", "changes.yaml"]
    return [sys.executable, "-m", "snakemake", "--cores", "all", *workflow, *options]


def _call(folder: tempfile.TemporaryDirectory, *command: str) -> None:
    """Run a command in the folder, then remove the folder."""
    with folder as path, Path(path, "said").open("w+") as said:
        if subprocess.run(command, cwd=path, stdout=said, stderr=subprocess.STDOUT).returncode:
            said.seek(0)
            raise RuntimeError(f"{' '.join(command)} failed:\n{said.read()[-3000:]}")
