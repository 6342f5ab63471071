# Settings that differ from the workflow's own config.yaml, where it is called from another folder.
if os.path.exists("config.yaml"):

    configfile: "config.yaml"


include: "rules/common.smk"
include: "rules/data.smk"
include: "rules/sft.smk"
include: "rules/preferences.smk"
include: "rules/alignment.smk"
include: "rules/evaluation.smk"
include: "rules/report.smk"
include: "rules/preflight.smk"
include: "rules/benchmark.smk"


rule all:
    """Everything that `runs:` in config.yaml asks for, and the summary table."""
    default_target: True
    input:
        artifacts(),
        f"{RESULTS}/charts",


rule published_datasets:
    """The paper's conversation files, downloaded and checked bit for bit (source: published)."""
    input:
        published_files,


rule splits:
    """The SFT, DPO and test splits."""
    input:
        SPLIT_FILES,


rule sft:
    """The fine-tuned tutors of all runs."""
    input:
        expand(f"{RESULTS}/{{model}}/sft/checkpoint.json", model=MODELS),


rule preferences:
    """The preference datasets of all runs."""
    input:
        expand(f"{RESULTS}/{{model}}/preferences.json", model=ALIGNED_HERE),


rule align:
    """The aligned tutors of all runs."""
    input:
        [f"{RESULTS}/{model}/{policy}/checkpoint.json" for model, policy in RUNS],


rule evaluate:
    """The metrics of all tutors, and each aligned tutor against its fine-tuned one."""
    input:
        [f"{RESULTS}/{tutor}/test/metrics.json" for tutor in TUTORS],
        [f"{RESULTS}/{model}/{policy}/test/comparison.json" for model, policy in RUNS],


onstart:
    check_before_start()


onsuccess:
    print_summary()


onerror:
    STOP.end_if_stopped()
    repeat_problems()
