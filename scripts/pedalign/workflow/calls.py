"""What happens in a call of Snakemake around its jobs: the config is read, mistakes are told in two lines, what would
fail is refused before anything starts, and the summary is shown at the end."""

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

_LENGTH_LIMITED = ("sft", "generate", "generate_shard", "reference", "align")  # fail where a text is too long


class Told:
    """Answers like `asked`; a user's mistake ends the call with its two lines.

    Not by a WorkflowError, which Snakemake would wrap in a trace of the Snakefile.
    """

    def __init__(self, asked: object) -> None:
        self._asked = asked

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._asked, name)
        return told(found) if callable(found) else found


def told(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function; a user's mistake in it, or in a function that it returns, ends the call with its two lines."""

    @functools.wraps(function)
    def answer(*arguments: Any, **named: Any) -> Any:
        try:
            found = function(*arguments, **named)
        except UserError as error:
            sys.exit(str(error))
        return told(found) if callable(found) else found

    return answer


def read_config(given: dict[str, Any], defaults: Path) -> Config:
    """The config of a call: what is `given`, and the rest as the workflow's own file `defaults` has it.

    Raises UserError with the first mistake.
    """
    values = load_configfile(defaults)
    update_config(values, given)
    return read(Config, values, "config")


def environment(workflow: Any) -> None:
    """Sets what all jobs of a call inherit."""
    # A thread that waits for the others of its job keeps its core for a while, in vain where another job has theirs.
    # With the default, two trainings on the same cores get a twentieth of the speed of one; with this, four tenths
    # each, and one alone loses a twentieth.
    os.environ.setdefault("GOMP_SPINCOUNT", "5000")
    # The scripts tell themselves how far they are: by a bar on this call's terminal, and lines in their logs. The bars
    # of libraries only fill these.
    os.environ.setdefault("TQDM_DISABLE", "1")
    if workflow.is_main_process and sys.stderr.isatty():
        os.environ[TERMINAL] = os.ttyname(sys.stderr.fileno())
    else:
        os.environ.pop(TERMINAL, None)


def check_before_start(
    workflow: Any, plan: Plan, settings: JobSettings, stop: Stop, submitted: Sequence[Record]
) -> None:
    """Ends the workflow before anything starts, so before Snakemake removes what is to be made anew: where a file that
    jobs read is not as it was made, where a job asks for more than this machine has, or runs elsewhere already.

    `submitted`: Slurm jobs of a call that was killed. Raises UserError.
    """
    here = workflow.is_main_process and workflow.local_exec
    if here:
        stop.at_once()  # again: Snakemake has set a handler of its own since
    if workflow.is_main_process:
        jobs = list(workflow.dag.needrun_jobs())
        check_writable(Path(plan.paths.results))
        made = {file for job in jobs for file in job.output}
        files = sorted({str(file) for job in jobs for file in job.input} - made)
        check_clock(files)
        check_recorded(*files)
        _check_lengths(plan, settings, jobs, made)
        for job in jobs:
            if job.rule.name in ("sft", "align"):
                plan.check_batch(job.rule.name, job.wildcards, job.resources.gpu)
        if workflow.touch:  # which says: what the code and settings of now make is the same
            for job in jobs:
                for file in job.output:
                    accept(Path(file), in_words(str(workflow.dag.reason(job)), [file]))
        elif (machine := plan.machine()) is not None:
            if submitted:
                refuse_beside(submitted)
            asking = [job for job in jobs if job.resources.get("gpu")]
            check_machine([(str(job), job.resources.gpu, job.resources.nodes) for job in asking], machine)
    if here:
        stop.saving(workflow.scheduler.exit_gracefully)


def _check_lengths(plan: Plan, settings: JobSettings, jobs: Iterable[Any], made: set[Any]) -> None:
    for model in {job.wildcards.model for job in jobs if job.rule.name in _LENGTH_LIMITED}:
        audit = plan.paths.model(model).audit
        if Path(audit).is_file() and audit not in made:  # an audit that is made now checks itself
            expect_lengths_fit(read_json(Path(audit)), LengthSettings(**settings.limits(model)))


def show_results(workflow: Any, plan: Plan) -> None:
    """The summary table, where the time went, and the page to look at, at the end of a call that asked for them."""
    paths = plan.paths
    asked = set(workflow.dag_settings.until or workflow.dag_settings.targets or ["all"])
    if {"all", "summarize", paths.summary} & asked:
        print(f"\n{table(read_csv(Path(paths.summary)))}\n\n{paths.summary}", flush=True)
        subprocess.run([sys.executable, str(plan.root / "scripts/timing.py"), paths.results])
    if {"all", "report", paths.report} & asked:
        print(f"{paths.report}: open it in a browser; charts, and what each tutor said", flush=True)


def repeat_problems(workflow: Any, plan: Plan) -> None:
    """What a preflight found wrong, below Snakemake's own account of how its job ended."""
    log = Path(plan.paths.logs, "preflight.log")
    if "preflight" in workflow.dag_settings.targets and log.is_file():
        print(f"\n{log.read_text().rpartition(chr(10) * 2)[2]}")


def request(workflow: Any, rule: str, **wildcards: str) -> dict[str, Any]:
    """What a job of the rule asks for, with what the profile adds to it."""
    found = workflow.get_rule(rule).expand_resources(Wildcards(fromdict=wildcards), InputFiles(), attempt=1)
    return {"threads": found["_cores"], **{name: value for name, value in found.items() if not name.startswith("_")}}


def status_command(workflow: Any) -> str | None:
    """The command that tells how a Slurm job ended; none where jobs do not go to Slurm."""
    slurm = "slurm" in workflow.executor_plugin.name
    return (getattr(workflow.executor_settings, "status_command", None) or "sacct") if slurm else None
