"""What a call prints of its jobs: a line when one starts, one when it ends or fails, and nothing of Snakemake's own."""

import logging
from typing import Any

import pytest
from snakemake_interface_logger_plugins.common import LogEvent
from snakemake_logger_plugin_pedalign import Lines

JOB = {
    "jobid": 3,
    "rule_name": "score",
    "output": ["results/tiny/sft/test/metrics.json"],
    "shellcmd": "python scripts/score.py",
    "reason": "Missing output files: results/tiny/sft/test/metrics.json; Input files updated by another job: a.csv",
    "log": ["results/logs/a.log"],
    "aux": {},
    "rule_msg": None,
}


def line(lines: Lines, event: LogEvent | None, text: str = "", **facts: Any) -> str:
    record = logging.LogRecord("snakemake", logging.INFO, "a.py", 1, text, (), None)
    record.__dict__.update(facts, event=event)
    return lines.format(record)


@pytest.fixture
def lines() -> Lines:
    lines = Lines(dry_run=True, quiet=None, show_failed_logs=False)
    stats = {"score": 2, "card": 1, "all": 1, "total": 4}
    assert line(lines, LogEvent.RUN_INFO, "Job stats", stats=stats) == "3 jobs: 2 x score, card"
    assert line(lines, LogEvent.RUN_INFO, "Job stats", stats=stats) == ""  # at the end of a dry run
    return lines


def test_a_job_has_a_line_when_it_starts_and_one_when_it_ends(lines) -> None:
    assert line(lines, LogEvent.JOB_INFO, **JOB) == "score results/tiny/sft/test/metrics.json (not there yet)"
    ended = line(lines, LogEvent.JOB_FINISHED, "Finished jobid: 3", job_id=3)
    assert ended == "score results/tiny/sft/test/metrics.json done in 0 s (1 of 3)"


def test_a_target_has_none(lines) -> None:
    target = {**JOB, "jobid": 0, "rule_name": "all", "output": [], "shellcmd": None}
    assert line(lines, LogEvent.JOB_INFO, **target) == ""
    assert line(lines, LogEvent.JOB_FINISHED, job_id=0) == ""


def test_a_job_that_fails_names_its_log_and_what_slurm_said(lines) -> None:
    failed = {**JOB, "rule_msg": "Slurm job 1 ended as OUT_OF_MEMORY: raise mem_mb", "aux": {"external_jobid": "1"}}
    assert line(lines, LogEvent.JOB_ERROR, **failed).splitlines() == [
        "score results/tiny/sft/test/metrics.json failed; its log: results/logs/a.log",
        "    Slurm job 1 ended as OUT_OF_MEMORY: raise mem_mb",
        "    external_jobid: 1",
    ]


@pytest.mark.parametrize("text", ["Building DAG of jobs...", "Select jobs to execute...", "Using shell: /bin/bash"])
def test_what_snakemake_does_itself_is_not_printed(lines, text) -> None:
    assert line(lines, None, text) == ""
    assert line(lines, LogEvent.PROGRESS, done=1, total=3) == ""


def test_warnings_and_errors_are_printed(lines) -> None:
    assert line(lines, None, "WorkflowError: no such file") == "WorkflowError: no such file"


def test_a_dry_run_that_found_other_code_says_how_to_keep_what_is_there(lines) -> None:
    assert line(lines, None, "This was a dry-run (flag -n).") == "This was a dry-run: nothing was made."
    change = "Union of exclusive params before and now across all output: before: '{}' now: '{}' ".format(
        "a" * 16, "b" * 16
    )
    line(lines, LogEvent.JOB_INFO, **{**JOB, "reason": f"Params have changed since last execution: {change}"})
    assert "--touch in place of -n" in line(lines, None, "This was a dry-run (flag -n).")
