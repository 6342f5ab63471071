# Seconds: not worth a place in a queue.
localrules:
    pair,
    gather,


ruleorder: gather > respond


rule respond:
    """Let a tutor answer every student turn of a split."""
    input:
        manifest=f"{RESULTS}/{{model}}/{{policy}}/checkpoint.json",
        checkpoint=ancient(f"{RESULTS}/{{model}}/{{policy}}/checkpoint"),
        rows=f"{RESULTS}/data/{DATASET}-{{split}}_formatted.json",
        rubric=RUBRIC,
    output:
        f"{RESULTS}/{{model}}/{{policy}}/{{split}}/responses.csv",
    log:
        f"{RESULTS}/logs/{{model}}/{{policy}}/{{split}}/responses.log",
    benchmark:
        f"{RESULTS}/benchmarks/{{model}}/{{policy}}/{{split}}/responses.tsv"
    priority: 1  # what follows waits for the replies: before perplexity, for which only the report waits
    conda:
        "../envs/training.yaml"
    threads: resource("generation", "threads")
    resources:
        scripts=SCRIPTS,
        gpu=gpus("generation"),
        nodes=1,
        mem_mb=resource("generation", "mem_mb"),
        runtime=minutes("generation"),
    params:
        code=code("respond"),
        settings=lambda wildcards: settings(
            rendering=rendering(wildcards),
            dtype=entry(wildcards)["dtype"],
            **answering(wildcards),
        ),
        shard="1/1",
    shell:
        "exec python {resources.scripts:q}/launch.py --gpu {resources.gpu} --nodes {resources.nodes} --threads {threads} --log {log:q} --"
        " {resources.scripts:q}/respond.py {input.rows:q} --model {input.checkpoint:q} --rubric {input.rubric:q}"
        " --output {output:q} --settings {params.settings:q} --shard {params.shard}"


use rule respond as respond_shard with:
    """Let a tutor answer one of the parts of a split, for models with several shards."""
    output:
        temp(f"{RESULTS}/{{model}}/{{policy}}/{{split}}/shards/{{shard}}-of-{{shards}}.csv"),
    log:
        f"{RESULTS}/logs/{{model}}/{{policy}}/{{split}}/shards/{{shard}}-of-{{shards}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/{{model}}/{{policy}}/{{split}}/shards/{{shard}}-of-{{shards}}.tsv"
    params:
        shard="{shard}/{shards}",


rule gather:
    """One responses.csv out of those of the shards, for models with several."""
    input:
        rows=f"{RESULTS}/data/{DATASET}-{{split}}_formatted.json",
        shards=shards,
    output:
        f"{RESULTS}/{{model}}/{{policy}}/{{split}}/responses.csv",
    log:
        f"{RESULTS}/logs/{{model}}/{{policy}}/{{split}}/responses.log",
    benchmark:
        f"{RESULTS}/benchmarks/{{model}}/{{policy}}/{{split}}/responses.tsv"
    wildcard_constraints:
        model="|".join(map(re.escape, SHARDED)) or "(?!)",
    conda:
        "../envs/data.yaml"
    threads: 1
    resources:
        scripts=SCRIPTS,
        mem_mb=2000,
        runtime=30,
    params:
        code=code("gather"),
        samples=lambda wildcards: answering(wildcards)["samples"],
    shell:
        "python {resources.scripts:q}/gather.py {input.rows:q} {input.shards:q} --samples {params.samples} --output {output:q}"
        " 2>&1 | tee {log:q}"


rule pair:
    """Preference pairs from the fine-tuned tutor's mistakes on the DPO split."""
    input:
        rows=f"{RESULTS}/data/{DATASET}-dpo_formatted.json",
        responses=f"{RESULTS}/{{model}}/sft/dpo/responses.csv",
        rubric=RUBRIC,
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
        scripts=SCRIPTS,
        mem_mb=2000,
        runtime=30,
    params:
        code=code("pair"),
        settings=settings(**choices(), paper_rules=config["paper_rules"], seed=config["seed"]),
    shell:
        "python {resources.scripts:q}/pair.py {input.rows:q} {input.responses:q} --rubric {input.rubric:q}"
        " --output {output.pairs:q} --counts {output.counts:q} --settings {params.settings:q} 2>&1 | tee {log:q}"
