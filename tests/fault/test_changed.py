"""Artifacts that changed after they were made are noticed before they are used, and the named command mends it."""

import os
import random
import re
import time
from pathlib import Path

import pytest
from broken import Job, command, expect_same, results_of
from checkouts import Checkout

pytestmark = pytest.mark.fault

# Every artifact that a stage reads, and a stage that reads it.
READ = {
    "results/data/bio-sft.json": "sft",
    "results/data/bio-dpo.json": "audit",
    "results/data/bio-test.json": "audit",
    "results/data/bio-dpo_formatted.json": "pair",
    "results/data/bio-test_formatted.json": "score",
    "results/data/splits.json": "summarize",
    "results/tiny/base.json": "sft",
    "results/tiny/base/config.json": "audit",
    "results/tiny/base/tokenizer.json": "audit",
    "results/tiny/base/model.safetensors": "sft",
    "results/tiny/sft/checkpoint.json": "generate",
    "results/tiny/sft/checkpoint/config.json": "reference",
    "results/tiny/sft/checkpoint/tokenizer.json": "reference",
    "results/tiny/sft/checkpoint/model.safetensors": "align",
    "results/tiny/sft/dpo/responses.csv": "pair",
    "results/tiny/preferences.json": "align",
    "results/tiny/sft/reference.json": "align",
    "results/tiny/dpo-b0.1/checkpoint.json": "perplexity",
    "results/tiny/dpo-b0.1/checkpoint/model.safetensors": "perplexity",
    "results/tiny/sft/test/responses.csv": "compare",
    "results/tiny/dpo-b0.1/test/responses.csv": "score",
    "results/tiny/sft/test/metrics.json": "summarize",
    "results/tiny/dpo-b0.1/test/comparison.json": "summarize",
    "results/tiny/sft/test/perplexity.json": "summarize",
    "results/tiny/sft/audit.json": "report",
    "results/tiny/preferences_counts.json": "report",
    "results/summary.csv": "report",
    "results/tiny/sft/test/.provenance/responses.csv.json": "compare",
}
SHORT = ("results/tiny/sft/test/metrics.json", "results/tiny/sft/test/responses.csv")


def test_every_artifact_that_a_stage_reads_is_tried(jobs):
    """All files that jobs read of those that jobs made; those that are alike for another tutor but once."""
    made = {output for job in jobs for output in job.outputs}
    read = {source for job in jobs for source in job.inputs if source in made}
    tried = {re.sub(r"/(base|checkpoint)/.*", r"/\1", path) for path in READ}
    assert {re.sub("dpo-b0.1", "sft", path) for path in read} <= {re.sub("dpo-b0.1", "sft", path) for path in tried}


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: -max(1, path.stat().st_size // 3)])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[random.Random(str(path.name)).randrange(len(content))] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    "artifact", [pytest.param(path, marks=[] if path in SHORT else pytest.mark.long) for path in READ]
)
def test_a_changed_artifact_is_refused_by_its_reader_and_the_named_command_mends_it(
    artifact, finished_copy, whole, jobs
):
    path = finished_copy.path / artifact
    content, times = path.read_bytes(), path.stat()
    reader = next(job for job in jobs if job.rule == READ[artifact] and reads(job, artifact))
    for how in (truncate, flip):
        path.write_bytes(content)
        how(path)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))  # as where a disk lost it, and nobody wrote
        answer = command(finished_copy, f"snakemake --cores 1 --forcerun {reader.outputs[-1]}")
        assert answer.returncode != 0
        said = answer.stdout + answer.stderr
        problem, fix = re.search(r"error: (.*: is not as it was made: .*)\n +fix: (.*) makes it anew", said).groups()
        assert problem.startswith(artifact), said
        assert "Traceback" not in said
    answer = command(finished_copy, fix)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    expect_same(finished_copy, whole)


def reads(job: Job, artifact: str) -> bool:
    artifact = re.sub(r"\.provenance/(.*)\.json$", r"\1", artifact)  # what a record is of
    return any(artifact == source or artifact.startswith(f"{source}/") for source in job.inputs)


def test_a_changed_artifact_costs_no_finished_one(finished_copy, whole):
    """Snakemake would remove a job's outputs as it starts: here a checkpoint, since what it was trained on is newer."""
    truncate(finished_copy.path / "results/data/bio-sft.json")
    before = results_of(finished_copy)
    answer = command(finished_copy, "snakemake --cores 1")
    assert answer.returncode != 0
    assert "results/data/bio-sft.json: is not as it was made" in answer.stderr
    assert results_of(finished_copy) == before


@pytest.mark.parametrize("artifact", ["results/summary.csv", "results/tiny/sft/checkpoint/model.safetensors"])
def test_provenance_names_what_changed(artifact, finished_copy):
    flip(finished_copy.path / artifact)
    answer = command(finished_copy, "python scripts/provenance.py results/summary.csv")
    assert answer.returncode == 1
    assert f"PROBLEM: {artifact}: is not as it was made: its sha256" in answer.stdout + answer.stderr or (
        f"PROBLEM: {artifact}: is not as it was made: it is another" in answer.stdout
    )


DAY = 24 * 3600


@pytest.mark.parametrize(
    "moved",
    [
        pytest.param(lambda path, draw: -3000 * DAY, id="all in the past"),
        pytest.param(lambda path, draw: 3000 * DAY, id="all in the future", marks=pytest.mark.long),
        pytest.param(lambda path, draw: draw.randrange(-3000, 3000) * DAY, id="at random"),
    ],
)
def test_times_that_were_moved_change_no_result(moved, finished_copy, whole):
    draw, now = random.Random(1), time.time()
    for path in sorted((finished_copy.path / "results").rglob("*")):
        moment = now + moved(path, draw)
        os.utime(path, (moment, moment))
    finish_and_compare(finished_copy, whole)


@pytest.mark.long
def test_a_clock_that_was_behind_for_a_while_changes_no_result(fresh, whole):
    half_a_run(fresh, -400 * DAY)
    finish_and_compare(fresh, whole)


def test_after_a_clock_was_ahead_the_files_from_the_future_are_named_with_what_helps(fresh, whole):
    half_a_run(fresh, 400 * DAY)
    before = results_of(fresh)
    answer = command(fresh, "snakemake --cores 1")
    problem, fix = re.search(r"error: (.*)\n +fix: set the clock right, then: (.*)", answer.stderr).groups()
    assert "was changed in the future (20" in problem
    assert results_of(fresh) == before
    assert command(fresh, fix).returncode == 0
    finish_and_compare(fresh, whole)


def half_a_run(checkout: Checkout, shift: float) -> None:
    """Its files have the times that a clock gave them that was wrong by `shift` seconds."""
    answer = command(checkout, "snakemake --cores 1 results/tiny/sft/test/metrics.json")
    assert answer.returncode == 0, answer.stdout + answer.stderr
    for path in (checkout.path / "results").rglob("*"):
        moment = path.stat().st_mtime + shift
        os.utime(path, (moment, moment))


def finish_and_compare(checkout: Checkout, whole: Checkout) -> None:
    answer = command(checkout, "snakemake --cores 1")
    assert answer.returncode == 0, answer.stdout + answer.stderr
    expect_same(checkout, whole)
    assert "Nothing to be done" in command(checkout, "snakemake --cores 1").stderr
