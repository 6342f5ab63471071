# It looks at the machine where Snakemake runs, and from there at Slurm.
localrules:
    preflight,


rule preflight:
    """Check in seconds, before anything starts, what the runs need against what there is."""
    input:
        rubric=RUBRIC,
    log:
        f"{RESULTS}/logs/preflight.log",
    retries: 0
    conda:
        "../envs/training.yaml"
    threads: 1
    resources:
        scripts=SCRIPTS,
        mem_mb=2000,
        runtime=10,
    params:
        settings=lambda wildcards: settings(
            results=RESULTS,
            here=machine() is not None,
            status_command=status_command(),
            models={name: config["models"][name] for name in MODELS},
            runs=RUNS,
            jobs={name: stage_requests(name) for name in MODELS},
            data_job=request("split"),
            data={
                "files": conversation_files(),
                "perplexity": source_file("ppl") if has_perplexity_pairs() else None,
                "splits": {**config["splits"], "seed": config["seed"], "paper_rules": config["paper_rules"]},
            },
            lengths={name: limits(name) for name in MODELS},
            seed=config["seed"],
        ),
    shell:
        "python {resources.scripts:q}/preflight.py --rubric {input.rubric:q} --settings {params.settings:q} 2>&1 | tee {log:q}"
