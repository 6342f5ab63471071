# Seconds: not worth a place in a queue.
localrules:
    score,
    compare,


rule score:
    """A tutor's labels against the gold ones, with 95% intervals."""
    input:
        rows=f"{RESULTS}/data/{DATASET}-test_formatted.json",
        responses=f"{RESULTS}/{{model}}/{{policy}}/test/responses.csv",
        rubric=RUBRIC,
    output:
        f"{RESULTS}/{{model}}/{{policy}}/test/metrics.json",
    log:
        f"{RESULTS}/logs/{{model}}/{{policy}}/test/metrics.log",
    benchmark:
        f"{RESULTS}/benchmarks/{{model}}/{{policy}}/test/metrics.tsv"
    conda:
        "../envs/data.yaml"
    threads: 1
    resources:
        scripts=SCRIPTS,
        mem_mb=2000,
        runtime=30,
    params:
        code=code("score"),
        settings=evaluation(),
    shell:
        "python {resources.scripts:q}/score.py {input.rows:q} {input.responses:q} --rubric {input.rubric:q} --output {output:q}"
        " --settings {params.settings:q} 2>&1 | tee {log:q}"


rule perplexity:
    """How likely a tutor finds replies that scaffold, and replies that tell."""
    input:
        manifest=f"{RESULTS}/{{model}}/{{policy}}/checkpoint.json",
        checkpoint=ancient(f"{RESULTS}/{{model}}/{{policy}}/checkpoint"),
        pairs=perplexity_pairs,
        rubric=RUBRIC,
    output:
        f"{RESULTS}/{{model}}/{{policy}}/test/perplexity.json",
    log:
        f"{RESULTS}/logs/{{model}}/{{policy}}/test/perplexity.log",
    benchmark:
        f"{RESULTS}/benchmarks/{{model}}/{{policy}}/test/perplexity.tsv"
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
        code=code("perplexity"),
        settings=lambda wildcards: settings(
            rendering=rendering(wildcards),
            dtype=entry(wildcards)["dtype"],
            max_batch_tokens=entry(wildcards)["generation"]["max_batch_tokens"],
            resamples=config["evaluation"]["resamples"],
            seed=config["seed"],
            paper_rules=config["paper_rules"],
        ),
        published=PUBLISHED_FLAG,
    shell:
        "exec python {resources.scripts:q}/launch.py --gpu {resources.gpu} --nodes {resources.nodes} --threads {threads} --log {log:q} --"
        " {resources.scripts:q}/perplexity.py {input.pairs:q} --model {input.checkpoint:q} --rubric {input.rubric:q}"
        " --output {output:q} --settings {params.settings:q} {params.published}"


rule compare:
    """An aligned tutor against the fine-tuned one that it came from, paired."""
    input:
        rows=f"{RESULTS}/data/{DATASET}-test_formatted.json",
        reference=f"{RESULTS}/{{model}}/sft/test/responses.csv",
        aligned=f"{RESULTS}/{{model}}/{{policy}}/test/responses.csv",
        rubric=RUBRIC,
    output:
        f"{RESULTS}/{{model}}/{{policy}}/test/comparison.json",
    log:
        f"{RESULTS}/logs/{{model}}/{{policy}}/test/comparison.log",
    benchmark:
        f"{RESULTS}/benchmarks/{{model}}/{{policy}}/test/comparison.tsv"
    conda:
        "../envs/data.yaml"
    threads: 1
    resources:
        scripts=SCRIPTS,
        mem_mb=2000,
        runtime=30,
    params:
        code=code("compare"),
        settings=evaluation(),
    shell:
        "python {resources.scripts:q}/compare.py {input.rows:q} {input.reference:q} {input.aligned:q} --rubric {input.rubric:q}"
        " --output {output:q} --settings {params.settings:q} 2>&1 | tee {log:q}"
