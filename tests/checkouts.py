"""Copies of the repository in which workflows run."""

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import forked
from filelock import FileLock

ROOT = Path(__file__).parents[1]
QUICK = "tests/config/quick.yaml"
PARTS = (
    "Snakefile",
    "README.md",
    "slurm",
    "config.yaml",
    "rules",
    "scripts",
    "envs",
    "profiles",
    "datasets",
    "examples",
    "tests/config",
)


class Checkout:
    """A copy of the repository in which workflows run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def snakemake(self, *arguments: str, config: str = QUICK) -> subprocess.CompletedProcess:
        command = ["snakemake", "--configfile", config, *arguments]
        return subprocess.run(command, cwd=self.path, capture_output=True, text=True, timeout=900)

    def forked(self, *arguments: str, config: str = QUICK) -> subprocess.CompletedProcess:
        """The same, sooner: for a call that starts no job, or few."""
        return forked.snakemake(self.path, "--configfile", config, *arguments)

    def planned(self, *arguments: str, config: str = QUICK) -> dict[str, int]:
        """Rule → number of jobs that a dry run plans; `all` and other targets left out."""
        answer = self.forked("--dry-run", "--quiet", "rules", *arguments, config=config)
        assert answer.returncode == 0, answer.stdout + answer.stderr
        told = re.search(r"^\d+ jobs?: (.*)$", answer.stdout + answer.stderr, re.MULTILINE)
        if not told:
            assert "Nothing to be done" in answer.stdout + answer.stderr
            return {}
        return {rule: int(count or 1) for count, rule in re.findall(r"(?:(\d+) x )?(\w+)(?:, |$)", told[1])}

    def provenance(self, artifact: str) -> str:
        """What scripts/provenance.py says of an artifact."""
        command = [sys.executable, "scripts/provenance.py", artifact]
        return subprocess.run(command, cwd=self.path, capture_output=True, text=True).stdout

    def copy(self, path: Path) -> "Checkout":
        shutil.copytree(self.path, path, symlinks=True)
        return Checkout(path)


def fresh_checkout(path: Path) -> Checkout:
    for part in PARTS:
        source, target = ROOT / part, path / part
        target.parent.mkdir(parents=True, exist_ok=True)
        ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
        if source.is_symlink():
            target.symlink_to(source.readlink())
        elif source.is_dir():
            shutil.copytree(source, target, symlinks=True, ignore=ignored)
        else:
            shutil.copy2(source, target)
    return Checkout(path)


def made_once(folder: Path, make: Callable[[Path], None]) -> Checkout:
    """What `make` makes in a folder that is not there yet, once for all processes of pytest-xdist."""
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            unfinished = folder.with_name(f"unfinished-{folder.name}")
            make(unfinished)
            unfinished.rename(folder)
    return Checkout(folder)
