"""What a call of Snakemake prints: a line when a job starts (what it makes, and why), and one when it is done.

A job's output goes to its log; only its warnings, errors and progress are printed here. `--verbose` prints Snakemake's
own messages and all that jobs print. Snakemake's log file under .snakemake/log always has Snakemake's messages.
"""

import logging
import os
import re
import sys
import time
from pathlib import Path
from typing import Any

from snakemake.logging import ColorizingTextHandler, DefaultFormatter, get_event, show_logs
from snakemake.shell import shell
from snakemake_interface_logger_plugins.base import LogHandlerBase
from snakemake_interface_logger_plugins.common import LogEvent

# Beginnings of Snakemake's own messages that are not printed.
_SKIPPED = (
    "Assuming unrestricted shared filesystem usage",
    "Building DAG of jobs",
    "Complete log(s)",
    "Conda environments: ignored",
    "Config file ",
    "Elapsed time",
    "Group jobs: inactive",
    "If you are sure that a change for a certain output file",
    "If you prefer that only modification time is used",
    "Reasons:",
    "Rules with ",
    "Select jobs to execute",
    "Shutting down, this might take some time",
    "Singularity containers: ignored",
    "Some jobs were triggered by provenance information",
    "Using shell",
    "Will exit after finishing currently running jobs",
    "WorkflowError:\nAt least one job did not complete successfully",
)
_DRY_RUN = "This was a dry-run"
_MISSING = "jobs have missing provenance/metadata"
_ACCEPT = "\nIf new code makes the same results: the same call with --touch in place of -n keeps the files as they are."
# If a job's command failed, Snakemake prints the whole command.
_COMMAND_FAILED = re.compile(
    r"RuleException:\nCalledProcessError in file .*(returned non-zero exit status \d+|died with <Signals\.\w+)",
    re.DOTALL,
)
_SKIPPED_EVENTS = {LogEvent.WORKFLOW_STARTED, LogEvent.RESOURCES_INFO, LogEvent.JOB_STARTED, LogEvent.PROGRESS}


class Lines(DefaultFormatter):
    """One line for a job that starts, and one for a job that ends."""

    def __init__(self, dry_run: bool, quiet: Any, show_failed_logs: bool) -> None:
        super().__init__(quiet, show_failed_logs)
        self.dry_run = dry_run
        self.started: dict[int, tuple[str, float, dict[str, Any]]] = {}
        self.total = self.done = 0
        self.other_code = False
        self.touch = not {"--touch", "-t"}.isdisjoint(sys.argv)

    def format(self, record: logging.LogRecord) -> str:
        event = get_event(record)
        text = str(record.msg).strip() if event in (None, LogEvent.ERROR) else ""
        if text.startswith(_SKIPPED) or event in _SKIPPED_EVENTS or _MISSING in text:
            return ""
        if text.startswith(_DRY_RUN):
            return f"{_DRY_RUN}: nothing was made.{_ACCEPT if self.other_code else ''}"
        if failed := _COMMAND_FAILED.match(text):  # with status 1 the script itself has said what is wrong
            return "" if failed[1].endswith(" 1") else f"a job's command {failed[1].replace('<Signals.', '')}"
        return super().format(record)

    def format_run_info(self, msg: dict[str, Any]) -> str:
        """The number of jobs of each rule; empty at the second call, at the end of a dry run."""
        jobs = {rule: count for rule, count in msg["stats"].items() if rule not in ("all", "total")}
        again, self.total = bool(self.total), sum(jobs.values())
        told = ", ".join(f"{count} x {rule}" if count > 1 else rule for rule, count in jobs.items())
        return "" if again or not jobs else f"{self.total} job{'s' * (self.total > 1)}: {told}"

    def format_job_info(self, msg: dict[str, Any]) -> str:
        from pedalign.core.staleness import in_words  # late: the Snakefile sets the path to its own checkout

        if not msg["output"] and not msg["shellcmd"]:  # a target without a command
            return ""
        name = " ".join([msg["rule_name"], *msg["output"][:1]])
        self.started[msg["jobid"]] = name, time.monotonic(), msg
        why = in_words(msg["reason"], msg["output"])
        self.other_code |= "code changed" in why
        return "" if self.touch else f"{self._time()}{name} ({why})"

    def format_job_finished(self, msg: dict[str, Any]) -> str:
        if msg["job_id"] not in self.started:
            return ""
        self.done += 1
        name, since, job = self.started[msg["job_id"]]
        how = "taken as it is" if self.touch else f"done in {time.monotonic() - since:.0f} s"
        told = f"{self._time()}{name} {how} ({self.done} of {self.total})"
        return f"{told}: {made}" if not self.touch and (made := _made(job)) else told

    def format_job_error(self, msg: dict[str, Any]) -> str:
        """A failed job and its log. The job's own message was printed before; `rule_msg` is Slurm's message."""
        name = " ".join([msg["rule_name"], *msg["output"][:1]])
        told = f"{self._time()}{name} failed; its log: {', '.join(msg['log']) or 'none'}"
        told += f"\n    {msg['rule_msg']}" if msg["rule_msg"] else ""
        aux = "".join(f"\n    {key}: {value}" for key, value in msg["aux"].items())
        return "\n".join([told + aux, *(show_logs(msg["log"]) if self.show_failed_logs else ())])

    def _time(self) -> str:
        return "" if self.dry_run else time.strftime("%H:%M:%S ")


def _made(job: dict[str, Any]) -> str:
    from pedalign.core.told import figures

    return figures(Path(job["log"][0]), job["output"]) if job["log"] else ""


class LogHandler(LogHandlerBase):
    """Snakemake's own handler for terminals, with our lines."""

    def __post_init__(self) -> None:
        settings = self.common_settings
        usual = DefaultFormatter(settings.quiet, settings.show_failed_logs)
        ours = Lines(settings.dryrun, settings.quiet, settings.show_failed_logs)
        stream = sys.stdout if settings.stdout else sys.stderr
        if not settings.verbose:
            from pedalign.core.told import SHORT, tee_function

            os.environ[SHORT] = "1"
            # Snakemake's own prefix of each command, and our `tee`.
            shell.prefix(f"set -euo pipefail; {tee_function()}".replace("{", "{{").replace("}", "}}"))
        self._terminal = ColorizingTextHandler(settings.nocolor, stream, usual if settings.verbose else ours)

    def emit(self, record: logging.LogRecord) -> None:
        self._terminal.last_msg_was_job_info = True  # no empty lines between jobs
        self._terminal.emit(record)

    @property
    def writes_to_stream(self) -> bool:
        return True

    @property
    def writes_to_file(self) -> bool:
        return False

    @property
    def has_filter(self) -> bool:
        return False

    @property
    def has_formatter(self) -> bool:
        return True

    @property
    def needs_rulegraph(self) -> bool:
        return False
