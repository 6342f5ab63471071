"""What a call of Snakemake does around its jobs: it reads the config, reports mistakes in two lines, refuses before the
start what would fail, and shows the summary at the end."""

import functools
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from snakemake.common.configfile import load_configfile
from snakemake.iocontainers import InputFiles, Wildcards
from snakemake.utils import update_config

from pedalign.cluster.job_registry import Record, refuse_beside
from pedalign.cluster.resources import check_machine
from pedalign.cluster.snakemake_calls import check_clock, check_writable
from pedalign.cluster.stopping import Stop
from pedalign.core.artifacts import read_csv, read_json
from pedalign.core.errors import UserError
from pedalign.core.progress import TERMINAL
from pedalign.core.provenance import accept, check_recorded
from pedalign.core.section import read
from pedalign.core.staleness import in_words
from pedalign.models.length_limits import LengthSettings, expect_lengths_fit
from pedalign.reporting.table import table
from pedalign.workflow.config import Config
from pedalign.workflow.job_settings import JobSettings
from pedalign.workflow.plan import Plan

_LENGTH_LIMITED = ("sft", "generate", "generate_shard", "reference", "align")  # rules that fail if a text is too long


class Told:
    """A proxy for `asked`: a UserError in one of its methods ends the call with the error's two lines.

    A WorkflowError would not do: Snakemake wraps it in a trace of the Snakefile.
    """

    def __init__(self, asked: object) -> None:
        self._asked = asked

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._asked, name)
        return told(found) if callable(found) else found


def told(function: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a function: a UserError in it, or in a function that it returns, ends the call with its two lines."""

    @functools.wraps(function)
    def answer(*arguments: Any, **named: Any) -> Any:
        try:
            found = function(*arguments, **named)
        except UserError as error:
            sys.exit(str(error))
        return told(found) if callable(found) else found

    return answer


def read_config(given: dict[str, Any], defaults: Path) -> Config:
    """The config of a call: the values `given`, and for the rest those of the workflow's own file `defaults`.

    Raises UserError for the first mistake.
    """
    values = load_configfile(defaults)
    update_config(values, given)
    return read(Config, values, "config")


def environment(workflow: Any) -> None:
    """Set environment variables that all jobs of a call inherit."""
    # An OpenMP thread that waits for the others of its job spins on its core for a while, in vain if another job has
    # their cores. With the default, two trainings on the same cores get a twentieth of the speed of one; with this
    # value four tenths each, and a training alone loses a twentieth.
    os.environ.setdefault("GOMP_SPINCOUNT", "5000")
    # The scripts show their own progress: a bar on this call's terminal, and lines in their logs. Bars of libraries
    # would only fill the logs.
    os.environ.setdefault("TQDM_DISABLE", "1")
    if workflow.is_main_process and sys.stderr.isatty():
        os.environ[TERMINAL] = os.ttyname(sys.stderr.fileno())
    else:
        os.environ.pop(TERMINAL, None)


def check_before_start(
    workflow: Any, plan: Plan, settings: JobSettings, stop: Stop, submitted: Sequence[Record]
) -> None:
    """Refuse a call whose jobs would fail: an input was changed since it was made, a text is too long, a job asks for
    more than this machine has, or Slurm may still run the same job.

    Runs before Snakemake removes the files that it will make again. `submitted`: Slurm jobs of a call that was killed.
    Raises UserError.
    """
    here = workflow.is_main_process and workflow.local_exec
    if here:
        stop.at_once()  # again, because Snakemake has set its own handler since
    if workflow.is_main_process:
        jobs = list(workflow.dag.needrun_jobs())
        check_writable(Path(plan.paths.results))
        made = {file for job in jobs for file in job.output}
        files = sorted({str(file) for job in jobs for file in job.input} - made)
        check_clock(files)
        check_recorded(*files)
        _check_lengths(plan, settings, jobs, made)
        if workflow.touch:  # --touch says: the present code and settings make the same files
            for job in jobs:
                for file in job.output:
                    accept(Path(file), in_words(str(workflow.dag.reason(job)), [file]))
        elif (machine := plan.machine()) is not None:
            if submitted:
                refuse_beside(submitted)
            asking = [job for job in jobs if job.resources.get("gpu")]
            check_machine([(str(job), job.resources.gpu, job.resources.nodes) for job in asking], machine)
        for job in jobs:
            if job.rule.name in ("sft", "align"):
                plan.check_batch(job.rule.name, job.wildcards, job.resources.gpu)
    if here:
        stop.saving(workflow.scheduler.exit_gracefully)


def _check_lengths(plan: Plan, settings: JobSettings, jobs: Iterable[Any], made: set[Any]) -> None:
    for model in {job.wildcards.model for job in jobs if job.rule.name in _LENGTH_LIMITED}:
        audit = plan.paths.model(model).audit
        if Path(audit).is_file() and audit not in made:  # an audit that runs in this call makes this check itself
            expect_lengths_fit(read_json(Path(audit)), LengthSettings(**settings.limits(model)))


def show_results(workflow: Any, plan: Plan) -> None:
    """Print the summary table, where the time went, and the path of the report, if the call asked for them."""
    paths = plan.paths
    asked = set(workflow.dag_settings.until or workflow.dag_settings.targets or ["all"])
    if {"all", "summarize", paths.summary} & asked:
        print(f"\n{table(read_csv(Path(paths.summary)))}\n\n{paths.summary}", flush=True)
        subprocess.run([sys.executable, str(plan.root / "scripts/timing.py"), paths.results])
    if {"all", "report", paths.report} & asked:
        print(f"{paths.report}: open it in a browser; charts, and what each tutor said", flush=True)


def repeat_problems(workflow: Any, plan: Plan) -> None:
    """Print the problems of a preflight again, below Snakemake's own report of the failed job."""
    log = Path(plan.paths.logs, "preflight.log")
    if "preflight" in workflow.dag_settings.targets and log.is_file():
        print(f"\n{log.read_text().rpartition(chr(10) * 2)[2]}")


def request(workflow: Any, rule: str, **wildcards: str) -> dict[str, Any]:
    """The resources of a job of the rule, with those that the profile adds."""
    found = workflow.get_rule(rule).expand_resources(Wildcards(fromdict=wildcards), InputFiles(), attempt=1)
    return {"threads": found["_cores"], **{name: value for name, value in found.items() if not name.startswith("_")}}


def status_command(workflow: Any) -> str | None:
    """The command that reports how a Slurm job ended; None if jobs do not go to Slurm."""
    slurm = "slurm" in workflow.executor_plugin.name
    return (getattr(workflow.executor_settings, "status_command", None) or "sacct") if slurm else None
