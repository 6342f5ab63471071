# Seconds: not worth a place in a queue.
localrules:
    summarize,


rule summarize:
    """All runs in one table."""
    input:
        metrics=[f"{RESULTS}/{tutor}/test/metrics.json" for tutor in TUTORS],
        comparisons=[f"{RESULTS}/{model}/{policy}/test/comparison.json" for model, policy in RUNS],
        perplexities=perplexity_artifacts(),
        splits=f"{RESULTS}/data/splits.json",
        rubric=RUBRIC,
        code=script("summarize"),
    output:
        f"{RESULTS}/summary.csv",
    log:
        f"{RESULTS}/logs/summary.log",
    benchmark:
        f"{RESULTS}/benchmarks/summary.tsv"
    conda:
        "../envs/data.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        dataset=DATASET,
    shell:
        "python scripts/summarize.py --metrics {input.metrics:q} --comparisons {input.comparisons:q}"
        " --perplexities {input.perplexities:q} --rubric {input.rubric:q} --splits {input.splits:q} --dataset {params.dataset:q}"
        " --output {output:q} 2>&1 | tee {log:q}"
