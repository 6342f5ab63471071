"""What the rules share: the checked config, what it means for each job, and the paths of the artifacts."""

import functools
import os
import sys
from pathlib import Path

# The root of this workflow, even if it is a module of another one.
ROOT = Path(workflow.current_basedir.get_path_or_uri(secret_free=False)).parent
SCRIPTS = os.path.relpath(ROOT / "scripts")
sys.path.insert(0, str(ROOT / "scripts"))
# Use the library next to this Snakefile: plugins may have imported that of another checkout, which made the environment.
if "pedalign" in sys.modules and Path(sys.modules["pedalign"].__file__).parents[1] != ROOT / "scripts":
    for name in [name for name in sys.modules if name.partition(".")[0] == "pedalign"]:
        del sys.modules[name]

from types import SimpleNamespace

from pedalign.cluster.gpu_locks import visible_devices
from pedalign.cluster.job_registry import mark_unfinished, records
from pedalign.cluster.snakemake_calls import live
from pedalign.cluster.stopping import Stop
from pedalign.data.splits import SPLITS
from pedalign.workflow import calls
from pedalign.workflow.calls import Told, told
from pedalign.workflow.job_settings import JobSettings, as_text
from pedalign.workflow.plan import Plan

calls.environment(workflow)
STOP = Stop()
if workflow.is_main_process:
    STOP.at_once()
    live()

# Slurm jobs of a killed call. Their outputs count as unfinished until this call has taken the jobs over.
SUBMITTED = records() if workflow.is_main_process else []
mark_unfinished(SUBMITTED)


@functools.cache
def machine():
    """The number of GPUs of this machine; None if the jobs run elsewhere."""
    elsewhere = workflow.remote_exec or workflow.dryrun or not workflow.local_exec
    return None if elsewhere else len(visible_devices())


CONFIG = told(calls.read_config)(config, ROOT / "config.yaml")
plan = told(Plan)(CONFIG, ROOT, workflow.is_main_process, machine)
job_settings = JobSettings(plan)
PLAN, SETTINGS = Told(plan), Told(job_settings)  # for the rules
PATHS = plan.paths
MODEL = PATHS.model("{model}")
TUTOR = MODEL.tutor("{policy}")  # fine-tuned or aligned


wildcard_constraints:
    model=r"[^/]+",
    policy=r"[^/]+",
    split="dpo|test",


def base_inputs(wildcards):
    """The manifest and the folder of a model made from scratch; nothing for a pretrained one."""
    found = PATHS.model(wildcards.model)
    return [] if PLAN.entry(wildcards.model).path else [found.base_manifest, ancient(found.base)]
