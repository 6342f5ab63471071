rule respond:
    """Let a tutor answer every student turn of a split."""
    input:
        manifest=f"{RESULTS}/{{model}}/{{policy}}/checkpoint.json",
        checkpoint=ancient(f"{RESULTS}/{{model}}/{{policy}}/checkpoint"),
        rows=f"{RESULTS}/data/{DATASET}-{{split}}_formatted.json",
        rubric=RUBRIC,
        code=script("respond"),
    output:
        f"{RESULTS}/{{model}}/{{policy}}/{{split}}/responses.csv",
    log:
        f"{RESULTS}/logs/{{model}}/{{policy}}/{{split}}/responses.log",
    benchmark:
        f"{RESULTS}/benchmarks/{{model}}/{{policy}}/{{split}}/responses.tsv"
    conda:
        "../envs/training.yaml"
    threads: resource("generation", "threads")
    resources:
        gpu=resource("generation", "gpu"),
        nodes=1,
        mem_mb=resource("generation", "mem_mb"),
        runtime=resource("generation", "runtime"),
    params:
        settings=lambda wildcards: settings(
            rendering=rendering(wildcards),
            dtype=entry(wildcards)["dtype"],
            **answering(wildcards),
        ),
    shell:
        "python scripts/respond.py {input.rows:q} --model {input.checkpoint:q} --rubric {input.rubric:q}"
        " --output {output:q} --settings {params.settings:q} 2>&1 | tee {log:q}"


rule pair:
    """Preference pairs from the fine-tuned tutor's mistakes on the DPO split."""
    input:
        rows=f"{RESULTS}/data/{DATASET}-dpo_formatted.json",
        responses=f"{RESULTS}/{{model}}/sft/dpo/responses.csv",
        rubric=RUBRIC,
        code=script("pair"),
    output:
        pairs=f"{RESULTS}/{{model}}/preferences.json",
        counts=f"{RESULTS}/{{model}}/preferences_counts.json",
    log:
        f"{RESULTS}/logs/{{model}}/preferences.log",
    benchmark:
        f"{RESULTS}/benchmarks/{{model}}/preferences.tsv"
    conda:
        "../envs/data.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        settings=settings(**choices(), paper_rules=config["paper_rules"], seed=config["seed"]),
    shell:
        "python scripts/pair.py {input.rows:q} {input.responses:q} --rubric {input.rubric:q}"
        " --output {output.pairs:q} --counts {output.counts:q} --settings {params.settings:q} 2>&1 | tee {log:q}"
