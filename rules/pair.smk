# Takes seconds: not worth a job in a queue.
localrules:
    pair,


rule pair:
    """Preference pairs from the fine-tuned tutor's mistakes on the DPO split."""
    input:
        rows=PATHS.formatted("dpo"),
        responses=MODEL.sft.responses("dpo"),
        rubric=PLAN.rubric,
    output:
        pairs=MODEL.preferences,
        counts=MODEL.preferences_counts,
    log:
        PATHS.log(MODEL.preferences),
    benchmark:
        PATHS.benchmark(MODEL.preferences)
    conda:
        "../envs/data.yaml"
    threads: 1
    resources:
        scripts=SCRIPTS,
        mem_mb=2000,
        runtime=30,
    params:
        code=PLAN.code("pair"),
        settings=SETTINGS.pair(),
    shell:
        "python {resources.scripts:q}/pair.py {input.rows:q} {input.responses:q} --rubric {input.rubric:q}"
        " --output {output.pairs:q} --counts {output.counts:q} --settings {params.settings:q} 2>&1 | tee {log:q}"
