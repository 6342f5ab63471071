"""Snakemake's Slurm executor for jobs of days: it notices all that a cluster does to them, and submits none twice.

It submits as snakemake-executor-plugin-slurm does, and differs in how it watches jobs:

- If a status command gives no answer, it keeps all jobs; if that lasts, it ends the workflow with a message. (The
  original loses its jobs after one such check, and the workflow waits for ever.)
- squeue lists active jobs and why they wait; sacct lists jobs that ended. So it waits for a requeued job, does not wait
  for a job that is gone, and cancels a job that can never start.
- Submitted jobs are on record (cluster/job_registry.py). If Snakemake is killed and started again, it takes these jobs
  over: it watches those that run and records those that finished, instead of submitting them again.
- An error says what Slurm did, and how to fix it.
- Only the Snakemake that watches a failed job removes its outputs. A job that Slurm lost sight of may still run when
  another one has done its work, and must not remove that.
"""

import asyncio
import hashlib
import json
import shlex
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import snakemake_executor_plugin_slurm as slurm
from snakemake_executor_plugin_slurm import common_settings  # noqa: F401 (the plugin interface looks for it here)
from snakemake_executor_plugin_slurm.job_status_query import query_job_status_sacct, query_job_status_squeue
from snakemake_interface_common.exceptions import WorkflowError
from snakemake_interface_executor_plugins.executors.base import SubmittedJobInfo

from pedalign.cluster.job_registry import Record, forget, records, remember

# Slurm's states of a job that ended, and what to do about them. In all other states the job goes on.
_CAUSES = {
    "BOOT_FAIL": "its node did not start",
    "CANCELLED": "it was cancelled (scancel)",
    "DEADLINE": "its deadline passed",
    "FAILED": "its command failed; its log says why",
    "NODE_FAIL": "its node failed, and Slurm did not queue it again",
    "OUT_OF_MEMORY": "it used more memory than it asked for: raise mem_mb in the model's resources in config.yaml",
    "PREEMPTED": "it was preempted, and Slurm did not queue it again",
    "TIMEOUT": "it reached its time limit: raise runtime, or max_runtime, in the model's resources in config.yaml",
}

# States that may be temporary: Slurm may queue the job again, or not have updated its database yet.
_PASSING = ("NODE_FAIL", "PREEMPTED", "UNLISTED")
_PAUSE = 5  # seconds between questions to Slurm while it gives no answer
_DOUBT = 60  # seconds after which they are final

# What the log of a job in state FAILED may contain, and what it means.
_TOLD_BY_LOG = {
    "exceeded memory limit": _CAUSES["OUT_OF_MEMORY"],
    "oom_kill": _CAUSES["OUT_OF_MEMORY"],
    "oom-kill": _CAUSES["OUT_OF_MEMORY"],
    "ended by SIGTERM after step": "it got SIGTERM (its time limit or a preemption is near) and saved its state",
}

# Reasons for which a job waits for ever, unless someone changes the job.
_HOPELESS = {
    "BadConstraints": "no node is as it asks for: see gpu, threads, mem_mb in the model's resources, and the profile",
    "DependencyNeverSatisfied": "it depends on a job that failed",
    "PartitionNodeLimit": "it asks for more nodes than the partition gives",
    "PartitionTimeLimit": "it asks for more time than the partition gives: lower runtime and max_runtime",
    "launch failed requeued held": "its node could not start it, and Slurm holds it",
}


@dataclass
class ExecutorSettings(slurm.ExecutorSettings):
    """The settings of snakemake-executor-plugin-slurm, and one more."""

    unanswered_minutes: int = field(
        default=10,
        metadata={"help": "Minutes without an answer from Slurm after which the workflow ends.", "required": False},
    )


class Executor(slurm.Executor):
    def __post_init__(self, test_mode: bool = False) -> None:
        super().__post_init__(test_mode)
        # The same name for all calls in a folder, so that a call finds the jobs of a killed one.
        self.run_uuid = f"pedalign-{hashlib.sha256(str(Path.cwd()).encode()).hexdigest()[:12]}"
        self.unheard = time.monotonic()  # when Slurm last answered
        self.doubted: dict[str, float] = {}  # job id → since when it is in a state of _PASSING
        self.said: set[str] = set()
        self.gave_up = False
        self.submitted = False
        self._refuse_silent_status_command()
        self._cancel_unrecorded()

    def _status_queries(self) -> tuple[str, str]:
        """The commands that list active jobs (id|state|reason) and jobs that ended (id|state)."""
        active = f"squeue --noheader --name {self.run_uuid} --format {shlex.quote('%i|%T|%r')}"
        sacct = self.get_status_command() == "sacct"
        return active, (query_job_status_sacct if sacct else query_job_status_squeue)(self.run_uuid)

    def _refuse_silent_status_command(self) -> None:
        for command in self._status_queries():
            tool = command.split()[0]
            try:
                answer = subprocess.run(shlex.split(command), capture_output=True, text=True, timeout=60)
                problem = "" if answer.returncode == 0 else " ".join((answer.stderr + answer.stdout).split())
            except (OSError, subprocess.TimeoutExpired) as error:
                problem = str(error)
            if problem:
                fix = "set slurm-steady-status-command: squeue in profiles/slurm/profile.yaml"
                raise WorkflowError(
                    f"Slurm's {tool} gives no answer: {problem}",
                    f"fix: {fix}" if tool == "sacct" else "fix: run Snakemake where squeue works: on a login node",
                )

    def _cancel_unrecorded(self) -> None:
        """Cancel jobs that are not on record, because a call was killed just after it had submitted them."""
        known = {record.id for record in records()}
        strays = self._active() - known
        if strays:
            subprocess.run(["scancel", *sorted(strays)], check=False)

    def _active(self) -> set[str]:
        return self._listed(self._status_queries()[0])

    def _listed(self, command: str) -> set[str]:
        """The jobs that a status command lists. Asks again until Slurm answers: a job that is not listed is lost."""
        while True:
            with suppress(subprocess.TimeoutExpired):
                answer = subprocess.run(shlex.split(command), capture_output=True, text=True, timeout=60)
                if answer.returncode == 0:
                    return set(_jobs(answer.stdout))
            self.logger.warning(f"Slurm's {command.split()[0]} gives no answer; asking again.")
            time.sleep(_PAUSE)

    # Submission. A job that an earlier call has submitted is only watched.

    def run_job(self, job: Any) -> None:
        if not job.resources.get("gpu") and job.resources.get("gpu_model"):
            job.resources.gpu_model = None  # from the profile, for jobs with GPUs; this job would get one, too
        earlier = next((record for record in records() if record.outputs == _outputs(job)), None)
        if earlier:
            # Slurm must still know its state.
            if earlier.fingerprint == _fingerprint(job) and earlier.id in self._listed(self._status_queries()[1]):
                self.logger.info(f"Job {job.jobid} is Slurm job {earlier.id} of an earlier call: taken up.")
                info = SubmittedJobInfo(job, external_jobid=earlier.id, aux={"slurm_logfile": Path(earlier.log)})
                self._report_job_submission_threadsafe(info)
                return
            subprocess.run(["scancel", "--quiet", earlier.id], check=False)
            while earlier.id in self._active():
                time.sleep(1)
            forget(earlier.id)
        super().run_job(job)

    def additional_general_args(self) -> str:
        return f"{super().additional_general_args()} --keep-incomplete"

    def _report_job_submission_threadsafe(self, job_info: SubmittedJobInfo) -> None:
        self.submitted = True
        job, log = job_info.job, str(job_info.aux["slurm_logfile"])
        remember(Record(str(job_info.external_jobid), _outputs(job), _fingerprint(job), log))
        super()._report_job_submission_threadsafe(job_info)

    # Watching.

    async def check_active_jobs(self, active_jobs: list[SubmittedJobInfo]) -> AsyncIterator[SubmittedJobInfo]:
        """Report the jobs that ended, and yield the others."""
        if not active_jobs:
            self.unheard = time.monotonic()  # nothing was asked, so no answer is missed
            return
        states = await self._states({info.external_jobid for info in active_jobs})
        for info in active_jobs:
            if states is None or not self._report_end(info, *states.get(info.external_jobid, ("UNLISTED", ""))):
                yield info

    async def _states(self, jobids: set[str | None]) -> dict[str, tuple[str, str]] | None:
        """Job id → state and reason; None if Slurm gives no answer. Raises WorkflowError if that lasts too long."""
        states: dict[str, tuple[str, str]] = {}
        for command in self._status_queries():
            answer = await _ask(command)
            if answer is None:
                break
            states = answer | states  # squeue's answer takes precedence
            if jobids <= states.keys():
                break
        if answer is not None:
            self.unheard = time.monotonic()
            return states
        silence = time.monotonic() - self.unheard
        tool, limit = command.split()[0], self.workflow.executor_settings.unanswered_minutes
        if silence > 60 * limit:
            self.gave_up = True
            raise WorkflowError(
                f"Slurm's {tool} has given no answer for {limit} minutes. Its jobs may still run: "
                f"{', '.join(sorted(map(str, jobids)))}",
                "fix: start Snakemake again when Slurm answers; it takes them up",
            )
        self.logger.warning(f"Slurm's {tool} gives no answer (for {silence:.0f} s); asking again.")
        return None

    def _report_end(self, info: SubmittedJobInfo, state: str, reason: str) -> bool:
        """Report the job if it has ended. Returns whether it has."""
        jobid = str(info.external_jobid)
        state = state.split()[0]  # "CANCELLED by 1000"
        if state not in _PASSING:
            self.doubted.pop(jobid, None)
        elif time.monotonic() - self.doubted.setdefault(jobid, time.monotonic()) < _DOUBT:
            return False
        log = info.aux["slurm_logfile"]
        if state == "COMPLETED":
            self.report_job_success(info)
            if not self.workflow.executor_settings.keep_successful_logs:
                Path(log).unlink(missing_ok=True)
            forget(jobid)
            return True
        if state == "UNLISTED":
            cause = "Slurm does not know it any more (raise MinJobAge, or set slurm-steady-status-command: sacct)"
        elif state == "PENDING" and reason in _HOPELESS:
            subprocess.run(["scancel", "--quiet", jobid], check=False)
            cause = f"it can't start: {_HOPELESS[reason]}"
        elif state in _CAUSES:
            told = [cause for sign, cause in _TOLD_BY_LOG.items() if state == "FAILED" and sign in _tail(Path(log))]
            cause = told[0] if told else _CAUSES[state]
        else:
            if state == "PENDING" and reason.startswith("JobHeld") and jobid not in self.said:
                self.said.add(jobid)
                self.logger.warning(f"Slurm job {jobid} ({info.job.name}) is held: scontrol release {jobid}")
            return False
        forget(jobid)
        self.report_job_error(info, msg=f"Slurm job {jobid} ended as {state}: {cause}. ", aux_logs=[str(log)])
        return True

    def shutdown(self) -> None:
        """Shut down; if nothing was submitted, without waiting for the watching thread."""
        if not self.submitted:
            self.wait_thread.join = lambda timeout=None: None
        super().shutdown()

    def cancel_jobs(self, active_jobs: list[SubmittedJobInfo]) -> None:
        if not self.gave_up:
            super().cancel_jobs(active_jobs)
            for info in active_jobs:
                forget(str(info.external_jobid))


async def _ask(command: str) -> dict[str, tuple[str, str]] | None:
    """Job id → state and, if the command prints it, reason; None if the command fails or hangs."""
    process = await asyncio.create_subprocess_exec(
        *shlex.split(command), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        output, _ = await asyncio.wait_for(process.communicate(), timeout=60)
    except TimeoutError:
        process.kill()
        return None
    return _jobs(output.decode()) if process.returncode == 0 else None


def _jobs(text: str) -> dict[str, tuple[str, str]]:
    rows = [[*line.split("|"), ""] for line in text.splitlines() if "|" in line]
    return {row[0]: (row[1], row[2]) for row in rows}


def _tail(log: Path) -> str:
    return log.read_text(errors="replace")[-100_000:] if log.is_file() else ""


def _outputs(job: Any) -> list[str]:
    return sorted(map(str, job.output))


def _fingerprint(job: Any) -> str:
    """A digest of a job's command and inputs: an earlier job with another digest is not the same job."""
    inputs = [(str(file), Path(file).stat().st_mtime) for file in job.input if Path(file).exists()]
    text = json.dumps([job.name, job.shellcmd, inputs])
    return hashlib.sha256(text.encode()).hexdigest()
