# A config.yaml in the working directory, with settings that differ from the workflow's own config.yaml.
if os.path.exists("config.yaml"):

    configfile: "config.yaml"


include: "rules/common.smk"
include: "rules/data.smk"
include: "rules/sft.smk"
include: "rules/generate.smk"
include: "rules/pair.smk"
include: "rules/align.smk"
include: "rules/score.smk"
include: "rules/report.smk"
include: "rules/preflight.smk"
include: "rules/benchmark.smk"


rule all:
    """Everything that `runs:` in config.yaml asks for, the report and its charts. `--until sft` stops after a stage."""
    default_target: True
    input:
        PLAN.artifacts(),
        PATHS.charts,


rule published_datasets:
    """The paper's conversation files, downloaded and checked bit for bit (source: published)."""
    input:
        lambda _: PLAN.published_files(),


onstart:
    told(calls.check_before_start)(workflow, plan, job_settings, STOP, SUBMITTED)


onsuccess:
    calls.show_results(workflow, plan)


onerror:
    STOP.end_if_stopped()
    calls.repeat_problems(workflow, plan)
