# Takes seconds: not worth a job in a queue.
localrules:
    gather,


ruleorder: gather > generate


rule generate:
    """Let a tutor answer every student turn of a split."""
    input:
        manifest=TUTOR.manifest,
        checkpoint=ancient(TUTOR.checkpoint),
        rows=PATHS.formatted("{split}"),
        rubric=PLAN.rubric,
    output:
        TUTOR.responses("{split}"),
    log:
        PATHS.log(TUTOR.responses("{split}")),
    benchmark:
        PATHS.benchmark(TUTOR.responses("{split}"))
    priority: 1  # before perplexity: scores and pairs wait for replies, only the summary waits for perplexity
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
        code=PLAN.code("generate"),
        settings=SETTINGS.generate,
        shard="1/1",
    shell:
        "exec python {resources.scripts:q}/launch.py --gpu {resources.gpu} --nodes {resources.nodes} --threads {threads} --log {log:q} --"
        " {resources.scripts:q}/generate.py {input.rows:q} --model {input.checkpoint:q} --rubric {input.rubric:q}"
        " --output {output:q} --settings {params.settings:q} --shard {params.shard}"


use rule generate as generate_shard with:
    """Let a tutor answer one part of a split, for models with several shards."""
    output:
        temp(TUTOR.shard("{split}", "{shard}", "{shards}")),
    log:
        PATHS.log(TUTOR.shard("{split}", "{shard}", "{shards}")),
    benchmark:
        PATHS.benchmark(TUTOR.shard("{split}", "{shard}", "{shards}"))
    params:
        shard="{shard}/{shards}",


rule gather:
    """Join the responses of all shards into one file, for models with several shards."""
    input:
        rows=PATHS.formatted("{split}"),
        shards=PLAN.shards,
    output:
        TUTOR.responses("{split}"),
    log:
        PATHS.log(TUTOR.responses("{split}")),
    benchmark:
        PATHS.benchmark(TUTOR.responses("{split}"))
    wildcard_constraints:
        model=PLAN.sharded_models(),
    conda:
        "../envs/data.yaml"
    threads: 1
    resources:
        scripts=SCRIPTS,
        mem_mb=2000,
        runtime=30,
    params:
        code=PLAN.code("gather"),
        samples=SETTINGS.samples,
    shell:
        "python {resources.scripts:q}/gather.py {input.rows:q} {input.shards:q} --samples {params.samples} --output {output:q}"
        " 2>&1 | tee {log:q}"
