"""What the rules share: the checked config, names, and the questions they ask of it."""

import functools
import os
import re
import subprocess
import sys
from pathlib import Path

# Of this workflow, whether it is called itself or is a module of another.
ROOT = Path(workflow.current_basedir.get_path_or_uri(secret_free=False)).parent
SCRIPTS = os.path.relpath(ROOT / "scripts")
sys.path.insert(0, str(ROOT / "scripts"))
# The library beside this Snakefile, where plugins of an environment that another checkout installed brought that one's.
if "pedalign" in sys.modules and Path(sys.modules["pedalign"].__file__).parents[1] != ROOT / "scripts":
    for name in [name for name in sys.modules if name.partition(".")[0] == "pedalign"]:
        del sys.modules[name]

from pedalign.core.artifacts import read_csv, read_json
from pedalign.cluster.snakemake_calls import check_clock, check_writable, live
from pedalign.core.code_digest import digest
from pedalign.core.config import (
    adopted,
    answering_settings,
    complete,
    cut_length,
    model_entry,
    parse_policy,
    runs,
    settings,
    validate,
)
from pedalign.core.errors import UserError
from pedalign.models.length_limits import LengthSettings, expect_lengths_fit
from pedalign.cluster.gpu_locks import visible_devices
from pedalign.core.progress import TERMINAL
from pedalign.core.checkpoint_folders import checkpoint_state
from pedalign.core.provenance import accept, check_recorded
from pedalign.data.sources.published import PUBLISHED, check_published
from pedalign.cluster.resources import check_machine, gpu_count, runtime
from pedalign.generation.vllm_environment import vllm_python
from pedalign.data.rubric import instruction_text, load_rubric
from pedalign.data.splits import SPLITS, dataset_files, perplexity_file
from pedalign.core.staleness import in_words
from pedalign.cluster.stopping import Stop
from pedalign.cluster.job_registry import mark_unfinished, records, refuse_beside
from pedalign.reporting.table import table
from snakemake.iocontainers import InputFiles, Wildcards

# Keep freed memory instead of handing it back to the system: with the large, short-lived tensors of training on the
# CPU, glibc's defaults spend a third of the time on fetching it again.
os.environ.setdefault("MALLOC_MMAP_THRESHOLD_", str(2**30))
os.environ.setdefault("MALLOC_TRIM_THRESHOLD_", str(2**30))
# A thread that waits for the others of its job keeps its core for a while, in vain where another job has theirs. With the
# default, two trainings on the same cores get a twentieth of the speed of one; with this, four tenths each, and one alone
# loses a twentieth.
os.environ.setdefault("GOMP_SPINCOUNT", "5000")
# The scripts tell themselves how far they are: by a bar on this call's terminal, and lines in their logs. The bars of
# libraries only fill these.
os.environ.setdefault("TQDM_DISABLE", "1")
if workflow.is_main_process and sys.stderr.isatty():
    os.environ[TERMINAL] = os.ttyname(sys.stderr.fileno())
else:
    os.environ.pop(TERMINAL, None)


def beside(path):
    """A file or folder that comes with the workflow, where the folder it is called from has none of its name."""
    own = os.path.relpath(ROOT / path)
    return own if os.path.exists(own) and not os.path.exists(path) else path


def checked(question, *arguments):
    """Ask; a user's mistake ends the workflow with its two lines."""
    try:
        return question(*arguments)
    except UserError as error:
        sys.exit(str(error))  # not a WorkflowError: Snakemake would wrap it in a trace of the Snakefile


checked(complete, config, ROOT / "config.yaml")
checked(validate, config)
STOP = Stop()
if workflow.is_main_process:
    STOP.at_once()
    live()

# Slurm jobs of a call that was killed: what they make counts as unfinished until they are taken up.
SUBMITTED = records() if workflow.is_main_process else []
mark_unfinished(SUBMITTED)

RESULTS = config["results"].rstrip("/")
RUBRIC = beside(config["rubric"])
rubric = checked(load_rubric, Path(RUBRIC))
DATASET = config["dataset"]
SIMULATED = beside("datasets/simulated")
SOURCE = {"simulated": SIMULATED, "published": "datasets/published"}.get(config["source"], config["source"])
PUBLISHED_FLAG = "--published" if config["source"] == "published" else ""
SPLIT_FILES = [f"{RESULTS}/data/{DATASET}-{split}.json" for split in SPLITS]
RUNS = list(runs(config))
MODELS = list(dict.fromkeys(model for model, _ in RUNS))
for model in MODELS:
    checked(instruction_text, rubric, config["models"][model]["instruction"])
TUTORS = [f"{model}/sft" for model in MODELS] + [f"{model}/{policy}" for model, policy in RUNS]
ADOPTED = checked(adopted, config)
# Rules whose jobs fail where a text is too long.
LENGTH_LIMITED = ("finetune", "respond", "respond_shard", "reference", "optimize")
# Models whose replies to a split are made by several jobs.
SHARDED = [name for name, model in config["models"].items() if model["generation"]["shards"] > 1]
# Models of which a run trains an aligned tutor, and so needs preference pairs.
ALIGNED_HERE = list(dict.fromkeys(model for model, policy in RUNS if f"{model}/{policy}" not in ADOPTED))

if any(config["models"][model]["generation"].get("engine") == "vllm" for model in MODELS):
    checked(vllm_python)


def artifacts():
    """Every artifact of the config's runs. `all` names each, so that one that was deleted is made again."""
    data = [f"{RESULTS}/data/{DATASET}-{split}_formatted.json" for split in ("dpo", "test")]
    paths = [*SPLIT_FILES, *data, f"{RESULTS}/data/splits.json", f"{RESULTS}/summary.csv"]
    for model in (model for model in MODELS if f"{model}/sft" not in ADOPTED):
        base = [] if "path" in config["models"][model] else ["base", "base.json"]
        paths += [f"{RESULTS}/{model}/{name}" for name in [*base, "sft/audit.json"]]
    for model in ALIGNED_HERE:
        names = ("sft/dpo/responses.csv", "sft/reference.json", "preferences.json", "preferences_counts.json")
        paths += [f"{RESULTS}/{model}/{name}" for name in names]
    for tutor in TUTORS:
        names = ("checkpoint", "checkpoint.json", "test/responses.csv", "test/metrics.json", "README.md")
        paths += [f"{RESULTS}/{tutor}/{name}" for name in names]
    paths += [f"{RESULTS}/{model}/{policy}/test/comparison.json" for model, policy in RUNS]
    return paths + perplexity_artifacts() + [f"{RESULTS}/report.html"]


def perplexity_artifacts():
    return [f"{RESULTS}/{tutor}/test/perplexity.json" for tutor in TUTORS] if has_perplexity_pairs() else []


wildcard_constraints:
    model=r"[^/]+",
    policy=r"[^/]+",
    split="dpo|test",


def code(name, *files):
    """A digest of what a rule's script computes, all modules that it imports included, and of other files it reads."""
    return digest(ROOT / "scripts" / f"{name}.py", *(ROOT / "scripts" / file for file in files))


def source_file(part):
    return f"{SOURCE}/{DATASET}-dataset-{part}.json"


def published_files(wildcards):
    """The paper's conversation files. Those that are there already are checked."""
    files = [f"datasets/published/{name}" for name in PUBLISHED]
    checked(check_published, map(Path, files))
    return files


def conversation_files():
    """The conversation files to read; those that a rule makes or downloads need not be there yet."""
    if config["source"] == "simulated":
        return [source_file(number) for number in range(1, config["simulation"]["files"] + 1)]
    if config["source"] == "published":
        files = [source_file(number) for number in (1, 2, 3)]
        if workflow.is_main_process:
            checked(check_published, map(Path, [*files, source_file("ppl")]))
        return files
    return [str(path) for path in checked(dataset_files, Path(SOURCE), DATASET)]


def has_perplexity_pairs():
    """Whether there are pairs to compute the perplexity on; the summary says so where there are none."""
    return config["source"] in ("simulated", "published") or Path(source_file("ppl")).is_file()


def perplexity_pairs(wildcards):
    return source_file("ppl") if has_perplexity_pairs() else checked(perplexity_file, Path(SOURCE), DATASET)


def comparison_of(wildcards):
    """An aligned tutor's; nothing for a fine-tuned one."""
    folder = f"{RESULTS}/{wildcards.model}/{wildcards.policy}/test"
    return [] if wildcards.policy == "sft" else f"{folder}/comparison.json"


def audits():
    """Of the models that are fine-tuned here."""
    return [f"{RESULTS}/{model}/sft/audit.json" for model in MODELS if f"{model}/sft" not in ADOPTED]


def audit_of(wildcards):
    return [] if isinstance(entry(wildcards)["sft"], str) else f"{RESULTS}/{wildcards.model}/sft/audit.json"


def perplexity_of(wildcards):
    folder = f"{RESULTS}/{wildcards.model}/{wildcards.policy}/test"
    return f"{folder}/perplexity.json" if has_perplexity_pairs() else []


def origin(wildcards):
    """The model that a tutor's training began with, in words: of one that was fine-tuned elsewhere, that tutor."""
    model = entry(wildcards)
    return model["sft"] if isinstance(model["sft"], str) else model.get("path", "random weights")


def perplexity_before(wildcards):
    """That of the fine-tuned tutor that an aligned one came from; nothing for a fine-tuned one."""
    found = f"{RESULTS}/{wildcards.model}/sft/test/perplexity.json"
    return found if has_perplexity_pairs() and wildcards.policy != "sft" else []


def simulation_arguments():
    """Numbers only, so nothing in them needs quoting."""
    numbers = {name: value for name, value in sorted(config["simulation"].items()) if name != "problems"}
    return " ".join(f"--{name} {value}" for name, value in numbers.items())


def entry(wildcards):
    return checked(model_entry, config, wildcards.model)


def policy(wildcards):
    return checked(parse_policy, wildcards.policy, config["seed"])


def resource(stage, name):
    """What a model's entry asks for one of its stages."""
    return lambda wildcards: entry(wildcards)["resources"][stage][name]


def minutes(stage):
    """The runtime of a job; each further attempt gets more."""
    return lambda wildcards, attempt: runtime(entry(wildcards)["resources"][stage], attempt)


def gpus(stage):
    """GPUs of a job, over all its nodes."""
    return lambda wildcards: gpu_count(entry(wildcards), stage, machine())


def nodes(stage):
    return lambda wildcards: entry(wildcards)["resources"][stage].get("nodes", 1)


def mpi(stage):
    """For jobs over several nodes alone: the launcher starts itself on each of them."""
    return lambda wildcards: "srun" if nodes(stage)(wildcards) > 1 else None


def tasks(stage):
    return lambda wildcards: nodes(stage)(wildcards) if nodes(stage)(wildcards) > 1 else None


@functools.cache
def machine():
    """The number of GPUs of this machine; None where the jobs run elsewhere."""
    elsewhere = workflow.remote_exec or workflow.dryrun or not workflow.local_exec
    return None if elsewhere else len(checked(visible_devices))


def check_before_start():
    """End the workflow before anything starts, so before Snakemake removes what is to be made anew: where a file that
    jobs read is not as it was made, where a job asks for more than this machine has, or runs elsewhere already."""
    here = workflow.is_main_process and workflow.local_exec
    if here:
        STOP.at_once()  # again: Snakemake has set a handler of its own since
    if workflow.is_main_process:
        checked(check_writable, Path(RESULTS))
        jobs = list(workflow.dag.needrun_jobs())
        made = {file for job in jobs for file in job.output}
        read = sorted({str(file) for job in jobs for file in job.input} - made)
        checked(check_clock, read)
        checked(check_recorded, *read)
        for model in {job.wildcards.model for job in jobs if job.rule.name in LENGTH_LIMITED}:
            audit = Path(RESULTS, model, "sft/audit.json")
            # An audit that is made now checks itself.
            if audit.is_file() and str(audit) not in made:
                checked(expect_lengths_fit, read_json(audit), LengthSettings(**limits(model)))
    if machine() is not None and not workflow.touch:
        if SUBMITTED:
            checked(refuse_beside, SUBMITTED)
        jobs = [job for job in workflow.dag.needrun_jobs() if job.resources.get("gpu")]
        checked(check_machine, [(str(job), job.resources.gpu, job.resources.nodes) for job in jobs], machine())
    if workflow.touch:  # which says: what the code and settings of now make is the same
        for job in jobs:
            for file in job.output:
                checked(accept, Path(file), in_words(str(workflow.dag.reason(job)), [file]))
    if here:
        STOP.saving(workflow.scheduler.exit_gracefully)


def base_inputs(wildcards):
    """The manifest and the folder of a model made from scratch; nothing for a pretrained one."""
    if "path" in entry(wildcards):
        return []
    return [f"{RESULTS}/{wildcards.model}/base.json", ancient(f"{RESULTS}/{wildcards.model}/base")]


def base_model(wildcards):
    return entry(wildcards).get("path", f"{RESULTS}/{wildcards.model}/base")


def adopted_source(wildcards):
    return ADOPTED[wildcards.tutor]


def state_of(source):
    """What tells whether a checkpoint's folder was changed, as a parameter: Snakemake compares no checksums of large
    files, and takes a folder that was put in another's place for unchanged where its files are older than the results.
    Of a model that a rule makes, which `source` gives as None, the manifest tells it.
    """
    return lambda wildcards: settings(**checkpoint_state(given) if (given := source(wildcards)) else {})


def rendering(wildcards):
    """The settings of the one renderer, for every stage that uses it."""
    return {name: entry(wildcards)[name] for name in ("template", "instruction")}


def architecture(wildcards):
    return {name: entry(wildcards)[name] for name in ("architecture", "vocab_size")}


def limits(model):
    """LengthSettings of a model of the catalogue."""
    found = checked(model_entry, config, model)
    return {
        "max_length": found.get("max_length"),
        "allow_truncation": found.get("allow_truncation", False),
        "fine_tuned": f"{model}/sft" not in ADOPTED,
        "max_new_tokens": found["generation"]["max_new_tokens"],
        "trained_share": config["checks"]["trained_share"],
        "pairs": "alignment" in found,
    }


def training(wildcards, stage, seed):
    """TrainingSettings of a model's stage. Only what `max_length` really cuts is part of them: pairs are never cut."""
    model, audit = entry(wildcards), Path(RESULTS, wildcards.model, "sft/audit.json")
    cut = cut_length(model, audit) if stage == "sft" else None
    return {**model[stage], "max_length": cut, "dtype": model["dtype"], "seed": seed}


def answering(wildcards):
    """How a tutor answers a split: GenerationSettings, and the responses per prompt."""
    return checked(answering_settings, config, wildcards.model, wildcards.split)


def shards(wildcards):
    """The parts of a split's responses that jobs side by side make."""
    number = entry(wildcards)["generation"]["shards"]
    folder = f"{RESULTS}/{wildcards.model}/{wildcards.policy}/{wildcards.split}/shards"
    return [f"{folder}/{shard}-of-{number}.csv" for shard in range(1, number + 1)]


def choices():
    """PreferenceSettings that config.yaml lists under `preferences`; the others belong to other rules."""
    return {name: config["preferences"][name] for name in ("samples", "per_prompt", "reject", "balance", "most")}


def adapter(wildcards):
    """AdapterSettings of a model, as a part of a stage's settings; nothing where all weights are trained."""
    return {name: entry(wildcards)[name] for name in ("adapter",) if name in entry(wildcards)}


def alignment(wildcards):
    """AlignmentSettings of a policy; what its algorithm does not look at is 0."""
    aligned = policy(wildcards)
    noise = config["preferences"]["label_noise"] if aligned.algorithm == "cdpo" else 0.0
    return {"algorithm": aligned.algorithm, "beta": aligned.beta, "label_noise": noise}


def benchmark_settings(model):
    """The threads, and how a model of the catalogue is rendered, trained and asked, to measure with."""
    chosen = Wildcards(fromdict={"model": model, "split": "test"})
    if f"{model}/sft" in ADOPTED or model not in ALIGNED_HERE:
        sys.exit(f"error: benchmark: {model} is not trained here\n  fix: put a model first under 'runs' that is")
    return entry(chosen)["resources"]["sft"]["threads"], settings(
        size=config["benchmark"],
        model=model,
        dtype=entry(chosen)["dtype"],
        sft={**training(chosen, "sft", config["seed"]), "max_length": entry(chosen)["max_length"]},
        alignment={**training(chosen, "alignment", config["seed"]), "max_length": entry(chosen)["max_length"]},
        generation=answering(chosen)["generation"],
        **rendering(chosen),
    )


def evaluation():
    return settings(**config["evaluation"], seed=config["seed"])


def shown_settings():
    """What the report shows of the config: what decides results, of the models that have a run."""
    how = {"benchmark", "trackers", "training_state", "resources"}

    def without(values):
        return {name: value for name, value in values.items() if name not in how}

    return settings(**{**without(config), "models": {model: without(config["models"][model]) for model in MODELS}})


def print_summary():
    """The summary table, where the time went, and the page to look at, at the end of a call that asked for them."""
    path, page = Path(RESULTS, "summary.csv"), Path(RESULTS, "report.html")
    asked = set(workflow.dag_settings.targets or ["all"])
    if {"all", str(path)} & asked:
        print(f"\n{table(read_csv(path))}\n\n{path}", flush=True)
        subprocess.run([sys.executable, str(ROOT / "scripts/timing.py"), RESULTS])
    if {"all", "report", str(page)} & asked:
        print(f"{page}: open it in a browser; charts, and what each tutor said", flush=True)


def request(rule, **wildcards):
    """What a job of the rule asks for, with what the profile adds to it."""
    found = workflow.get_rule(rule).expand_resources(Wildcards(fromdict=wildcards), InputFiles(), attempt=1)
    return {"threads": found["_cores"], **{name: value for name, value in found.items() if not name.startswith("_")}}


def stage_requests(model):
    """Stage → what its jobs ask for, of the stages that run for a model."""
    rules = {"sft": "finetune", "alignment": "optimize", "generation": "respond"}
    skipped = {"sft": f"{model}/sft" in ADOPTED, "alignment": model not in ALIGNED_HERE}
    policy = next(name for owner, name in RUNS if owner == model)
    return {
        stage: {
            **config["models"][model]["resources"][stage],
            **request(rule, model=model, policy=policy, split="test"),
        }
        for stage, rule in rules.items()
        if not skipped.get(stage)
    }


def status_command():
    """The command that tells how a Slurm job ended; none where jobs do not go to Slurm."""
    slurm = "slurm" in workflow.executor_plugin.name
    return (getattr(workflow.executor_settings, "status_command", None) or "sacct") if slurm else None


def repeat_problems():
    """What a preflight found wrong, below Snakemake's own account of how its job ended."""
    log = Path(RESULTS, "logs/preflight.log")
    if "preflight" in workflow.dag_settings.targets and log.is_file():
        print(f"\n{log.read_text().rpartition(chr(10) * 2)[2]}")
