"""Calls of the workflow in which something goes wrong, and how their results are compared."""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import yaml
from checkouts import QUICK, ROOT, Checkout, fresh_checkout
from snakemake.utils import update_config

# The quick run, with training states saved often.
CHANGES = {"training_state": {"minutes": 0, "steps": 2}}
PATIENCE = 600  # seconds


@dataclass(frozen=True)
class Job:
    """A job of the run, by what Snakemake says of it as it starts (--verbose)."""

    rule: str
    log: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    @property
    def line(self) -> str:
        """What Snakemake says as it starts."""
        return f"    log: {self.log}"

    @property
    def name(self) -> str:
        return self.log.removeprefix("results/logs/").removesuffix(".log")


def fault_checkout(path: Path) -> Checkout:
    """A checkout whose config.yaml is that of the quick run, so that a command does what a user would see it do."""
    checkout = fresh_checkout(path)
    config = yaml.safe_load((path / "config.yaml").read_text())
    for changes in (yaml.safe_load((ROOT / QUICK).read_text()), CHANGES):
        update_config(config, changes)
    (path / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    return checkout


class Call:
    """A call of Snakemake in a process group of its own."""

    def __init__(self, checkout: Checkout, cores: int = 1) -> None:
        self.said = checkout.path / f"said-{time.monotonic_ns()}"
        with self.said.open("wb") as file:
            command = [sys.executable, "-m", "snakemake", "--cores", str(cores), "--verbose"]
            self.process = subprocess.Popen(
                command,
                cwd=checkout.path,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                # A shell has processes in the background ignore SIGINT, these tests too, and whatever they start.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )

    def output(self) -> str:
        return self.said.read_text(errors="replace")

    def wait_for(self, *texts: str) -> str | None:
        """The first of the texts that was said; None where the call ended before."""
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            running = self.process.poll() is None
            said = self.output()
            found = next((text for text in texts if text in said), None)
            if found or not running:
                return found if running else None
            time.sleep(0.01)
        raise TimeoutError(f"none was said within {PATIENCE} s: {texts}\n{said}")

    def signal(self, number: signal.Signals, group: bool) -> None:
        os.killpg(self.process.pid, number) if group else self.process.send_signal(number)

    def end(self) -> int:
        return self.process.wait(PATIENCE)


def jobs_of(said: str) -> list[Job]:
    """The jobs, in the order in which they started."""
    blocks = re.findall(r"^(?:local)?rule (\w+):\n((?:    .*\n)+)", said, re.MULTILINE)
    found = []
    for rule, block in blocks:
        facts = dict(re.findall(r"^    (\w+): (.*)$", block, re.MULTILINE))
        if "log" in facts:
            files = (tuple(facts[name].split(", ")) for name in ("input", "output"))
            found.append(Job(rule, facts["log"].split(" (")[0], *files))
    return found


def seconds_of(job: Job, checkout: Checkout) -> float:
    """How long the job took, by Snakemake's benchmark file."""
    header, values = (checkout.path / f"results/benchmarks/{job.name}.tsv").read_text().splitlines()
    return float(dict(zip(header.split("\t"), values.split("\t"), strict=True))["s"])


def results_of(checkout: Checkout, folder: str = "results") -> dict[str, str]:
    """Every file of the results as a hash, but for what tells of the run itself: logs, times, records."""
    root = checkout.path / folder
    found = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if not path.is_file() or re.match(
            r"(logs|benchmarks)/|time\.svg$|report\.html$|charts/|(.*/)?\.(provenance/|snakemake_)", name
        ):
            continue
        content = path.read_bytes()
        if re.search(r"(checkpoint|base)\.json$", name):
            manifest = json.loads(content)
            of_the_run = ("seconds", "peak_memory_bytes")
            content = json.dumps({key: value for key, value in manifest.items() if key not in of_the_run}).encode()
        found[name] = hashlib.sha256(content).hexdigest()
    return found


def command(checkout: Checkout, line: str) -> subprocess.CompletedProcess:
    """What a user types."""
    return subprocess.run(
        ["bash", "-c", line],
        cwd=checkout.path,
        capture_output=True,
        text=True,
        timeout=3 * PATIENCE,
        env=_environment(),
    )


def _environment() -> dict[str, str]:
    return {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


def finish(checkout: Checkout, line: str = "python scripts/unlock.py && snakemake --cores 1") -> None:
    """Start again, as `make run` does; once is enough."""
    answer = command(checkout, line)
    assert answer.returncode == 0, answer.stdout + answer.stderr


def expect_same(checkout: Checkout, whole: Checkout) -> None:
    """The results are those of a run in which nothing went wrong, to the byte, and every record holds."""
    assert results_of(checkout) == results_of(whole)
    answer = command(checkout, "python scripts/provenance.py results/summary.csv")
    assert answer.returncode == 0, answer.stdout + answer.stderr


def copy_of(whole: Checkout, path: Path) -> Checkout:
    shutil.copytree(whole.path, path, symlinks=True)
    return Checkout(path)
