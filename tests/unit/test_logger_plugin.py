"""What a call prints of its jobs: a line when one starts, one when it ends or fails, and nothing of Snakemake's own."""

import logging
import re
import subprocess
from typing import Any

import pytest
from snakemake_interface_logger_plugins.common import LogEvent
from snakemake_logger_plugin_pedalign import Lines

from pedalign.core.told import tee_function

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


def test_the_line_of_its_end_says_what_its_log_says_that_it_made(lines, tmp_path) -> None:
    log = tmp_path / "a.log"
    log.write_text(f"{JOB['output'][0]}: half\nsomething\n{JOB['output'][0]}: 98.1% right\ntime: 1.00 s working\n")
    line(lines, LogEvent.JOB_INFO, **{**JOB, "log": [str(log)]})
    assert line(lines, LogEvent.JOB_FINISHED, job_id=3).endswith("done in 0 s (1 of 3): 98.1% right")


SAID = """[2026-11-28 10:49:45,848] [WARNING] [real_accelerator.py:213:get_accelerator] Setting accelerator to CPU. If
warning: what a user must see
- a detail
sft: what the script says otherwise
results/tiny/base: 37,792 parameters
time: 2.08 s working
error: a file is wrong
  fix: mend it
"""
SEEN = [2, 4, 7, 8]  # lines, from 1


def test_of_a_job_in_a_pipe_routine_lines_are_in_its_log_alone(tmp_path) -> None:
    script = tmp_path / "said"
    script.write_text(SAID)
    command = f"set -euo pipefail; {tee_function()} cat said | tee results/logs/tiny/base.log"
    (tmp_path / "results/logs/tiny").mkdir(parents=True)
    answer = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True)
    assert answer.returncode == 0
    assert answer.stdout.splitlines() == [SAID.splitlines()[number - 1] for number in SEEN]
    assert (tmp_path / "results/logs/tiny/base.log").read_text() == SAID


@pytest.mark.parametrize("said", ["exit 3", "echo time: 1 s; exit 3", "echo error: a; exit 3"])
def test_a_job_in_a_pipe_fails_as_its_script_does_and_where_its_log_cannot_be_written(tmp_path, said) -> None:
    def status(said: str, log: str) -> int:
        command = f"set -euo pipefail; {tee_function()} ({said}) | tee {log}"
        return subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True).returncode

    assert status(said, "log") == 3
    assert status("true", "log") == 0
    assert status("echo a", "/dev/full") == 1


SNAKEFILE = """
rule first:
    output: "results/made"
    log: "results/logs/first.log"
    shell: "(touch {output}; echo {output}: 3 of 4; exit {config[status]}) 2>&1 | tee {log}"
"""


@pytest.mark.parametrize("status", [0, 1])
def test_a_call_tells_what_a_job_made_or_that_it_failed(tmp_path, status) -> None:
    (tmp_path / "Snakefile").write_text(SNAKEFILE)
    command = ["snakemake", "--cores", "1", "--logger", "pedalign", "--config", f"status={status}"]
    answer = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert answer.returncode == status, answer.stderr
    assert "results/made: 3 of 4" not in answer.stdout
    ends = r"first results/made (done in \d+ s \(1 of 1\): 3 of 4|failed; its log: results/logs/first.log)$"
    found = re.findall(ends, answer.stderr, re.MULTILINE)
    assert len(found) == 1 and found[0].startswith("failed" if status else "done")
    assert "RuleException" not in answer.stderr and "set -euo" not in answer.stderr


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


FAILED = 'RuleException:\nCalledProcessError in file "a.smk", line 3:\nCommand \'set -euo pipefail;\n  python {}'


def test_of_a_command_that_failed_no_more_is_told_than_the_script_said_and_what_killed_it(lines) -> None:
    assert line(lines, LogEvent.ERROR, FAILED.format("' returned non-zero exit status 1.")) == ""
    killed = line(lines, LogEvent.ERROR, FAILED.format("' died with <Signals.SIGKILL: 9>."))
    assert killed == "a job's command died with SIGKILL"
    other = line(lines, LogEvent.ERROR, FAILED.format("' returned non-zero exit status 137."))
    assert other == "a job's command returned non-zero exit status 137"
    assert re.match("RuleException", line(lines, None, "RuleException:\nKeyError in file a.smk"))


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
