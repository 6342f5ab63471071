# Take seconds: not worth jobs in a queue.
localrules:
    score,
    compare,


rule score:
    """A tutor's labels against the gold ones, with 95% intervals."""
    input:
        rows=PATHS.formatted("test"),
        responses=TUTOR.responses(),
        rubric=PLAN.rubric,
    output:
        TUTOR.metrics,
    log:
        PATHS.log(TUTOR.metrics),
    benchmark:
        PATHS.benchmark(TUTOR.metrics)
    conda:
        "../envs/data.yaml"
    threads: 1
    resources:
        scripts=SCRIPTS,
        mem_mb=2000,
        runtime=30,
    params:
        code=PLAN.code("score"),
        settings=SETTINGS.score(),
    shell:
        "python {resources.scripts:q}/score.py {input.rows:q} {input.responses:q} --rubric {input.rubric:q} --output {output:q}"
        " --settings {params.settings:q} 2>&1 | tee {log:q}"


rule perplexity:
    """How likely a tutor finds replies that scaffold and replies that tell."""
    input:
        manifest=TUTOR.manifest,
        checkpoint=ancient(TUTOR.checkpoint),
        pairs=PLAN.perplexity_pairs,
        rubric=PLAN.rubric,
    output:
        TUTOR.perplexity,
    log:
        PATHS.log(TUTOR.perplexity),
    benchmark:
        PATHS.benchmark(TUTOR.perplexity)
    conda:
        "../envs/training.yaml"
    threads: PLAN.resource("generate", "threads")
    resources:
        scripts=SCRIPTS,
        gpu=PLAN.gpus("generate"),
        nodes=1,
        mem_mb=PLAN.resource("generate", "mem_mb"),
        runtime=PLAN.minutes("generate"),
    params:
        code=PLAN.code("perplexity"),
        settings=SETTINGS.perplexity,
        published=PLAN.published_flag,
    shell:
        "exec python {resources.scripts:q}/launch.py --gpu {resources.gpu} --nodes {resources.nodes} --threads {threads} --log {log:q} --"
        " {resources.scripts:q}/perplexity.py {input.pairs:q} --model {input.checkpoint:q} --rubric {input.rubric:q}"
        " --output {output:q} --settings {params.settings:q} {params.published}"


rule compare:
    """Paired differences between an aligned tutor and the fine-tuned one that it started from."""
    input:
        rows=PATHS.formatted("test"),
        reference=MODEL.sft.responses(),
        aligned=TUTOR.responses(),
        rubric=PLAN.rubric,
    output:
        TUTOR.comparison,
    log:
        PATHS.log(TUTOR.comparison),
    benchmark:
        PATHS.benchmark(TUTOR.comparison)
    conda:
        "../envs/data.yaml"
    threads: 1
    resources:
        scripts=SCRIPTS,
        mem_mb=2000,
        runtime=30,
    params:
        code=PLAN.code("compare"),
        settings=SETTINGS.score(),
    shell:
        "python {resources.scripts:q}/compare.py {input.rows:q} {input.reference:q} {input.aligned:q} --rubric {input.rubric:q}"
        " --output {output:q} --settings {params.settings:q} 2>&1 | tee {log:q}"
