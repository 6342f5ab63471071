# Seconds: not worth a place in a queue.
localrules:
    summarize,
    provenance,


rule summarize:
    """All runs in one table."""
    input:
        metrics=[f"{RESULTS}/{tutor}/test/metrics.json" for tutor in TUTORS],
        comparisons=[f"{RESULTS}/{model}/{policy}/test/comparison.json" for model, policy in RUNS],
        perplexities=perplexity_artifacts(),
        manifests=[f"{RESULTS}/{tutor}/checkpoint.json" for tutor in TUTORS],
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
        valid_format=config["checks"]["valid_format"],
    shell:
        "python scripts/summarize.py --metrics {input.metrics:q} --comparisons {input.comparisons:q}"
        " --perplexities {input.perplexities:q} --manifests {input.manifests:q} --valid-format {params.valid_format}"
        " --rubric {input.rubric:q} --splits {input.splits:q} --dataset {params.dataset:q} --output {output:q} 2>&1 | tee {log:q}"


rule provenance:
    """What every artifact was made from (data, settings, code, versions), printed and verified."""
    input:
        summary=f"{RESULTS}/summary.csv",
        artifacts=artifacts(),
        code=script("provenance"),
    log:
        f"{RESULTS}/logs/provenance.log",
    retries: 0
    conda:
        "../envs/training.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=60,
    shell:
        "python scripts/provenance.py {input.summary:q} {input.artifacts:q} 2>&1 | tee {log:q}"
