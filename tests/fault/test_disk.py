"""Disks that are full or cannot be written: two lines say so, nothing is half-written, and what is finished stays."""

import re
import shutil
import subprocess

import pytest
from broken import results_of
from checkouts import Checkout

pytestmark = pytest.mark.fault

# In a mount namespace, so that no root is needed and nothing stays mounted.
PRIVATE = ["unshare", "--user", "--map-root-user", "--mount", "bash", "-euc"]


def privately(checkout: Checkout, script: str) -> subprocess.CompletedProcess:
    answer = subprocess.run([*PRIVATE, script], cwd=checkout.path, capture_output=True, text=True, timeout=900)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    return answer


# By the outputs that are taken away; the jobs of a rule are alike.
TRAINING = ("base", "audit", "sft", "generate", "reference", "align", "perplexity")
DATA = ("split", "pair", "score", "compare", "summarize", "card", "report")


@pytest.mark.parametrize(
    "rule",
    [pytest.param(rule, marks=[] if rule in ("align", "score") else pytest.mark.long) for rule in (*TRAINING, *DATA)],
)
def test_a_stage_on_a_full_disk_says_so_and_goes_on_when_there_is_room(rule, finished_copy, whole, jobs):
    job = next(job for job in jobs if job.rule == rule)
    for output in job.outputs:
        path = finished_copy.path / output
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    shutil.move(finished_copy.path / "results", finished_copy.path / "before")
    privately(
        finished_copy,
        """
        mkdir results
        size=$(( $(du --summarize --block-size=1 before | cut -f1) + 40 * 2**20 ))
        mount -t tmpfs -o size=$size none results
        cp --archive before/. results
        dd if=/dev/zero of=results/filler bs=4k status=none 2> /dev/null || true
        snakemake --cores 1 > said 2>&1 && exit 1
        cp --archive results during
        rm results/filler
        python scripts/unlock.py
        snakemake --cores 1 > then 2>&1
        cp --archive results after
        """,
    )
    said = (finished_copy.path / "said").read_text()
    assert re.search(r"error: results/\S+: No space left on device\n +fix: make room on that disk", said), said
    assert "Traceback" not in said, said
    before, during = results_of(finished_copy, "before"), results_of(finished_copy, "during")
    assert before == {name: found for name, found in during.items() if name != "filler" and ".state-" not in name}
    assert results_of(finished_copy, "after") == results_of(whole)


def test_results_that_cannot_be_written_are_said_so_before_anything_starts(finished_copy):
    for name in ("summary.csv", "report.html"):  # else Snakemake itself says first that they are write-protected
        (finished_copy.path / "results" / name).unlink()
    shutil.rmtree(finished_copy.path / "results/charts")
    before = results_of(finished_copy)
    answer = privately(
        finished_copy,
        """
        mount --bind results results
        mount -o remount,bind,ro results
        snakemake --cores 1 > said 2>&1 && exit 1
        tail --lines=2 said
        """,
    )
    assert answer.stdout.startswith("error: results: ")
    assert "fix: " in answer.stdout
    assert "Traceback" not in (finished_copy.path / "said").read_text()
    assert results_of(finished_copy) == before
