# Seconds: not worth a place in a queue.
localrules:
    card,
    summarize,
    report,
    provenance,


rule card:
    """A tutor's model card, README.md; in its checkpoint's folder too, for the hub."""
    input:
        manifest=f"{RESULTS}/{{model}}/{{policy}}/checkpoint.json",
        checkpoint=ancient(f"{RESULTS}/{{model}}/{{policy}}/checkpoint"),
        metrics=f"{RESULTS}/{{model}}/{{policy}}/test/metrics.json",
        comparison=comparison_of,
        perplexity=perplexity_of,
        before=perplexity_before,
        audit=audit_of,
        splits=f"{RESULTS}/data/splits.json",
        rubric=RUBRIC,
    output:
        f"{RESULTS}/{{model}}/{{policy}}/README.md",
    log:
        f"{RESULTS}/logs/{{model}}/{{policy}}/card.log",
    benchmark:
        f"{RESULTS}/benchmarks/{{model}}/{{policy}}/card.tsv"
    conda:
        "../envs/training.yaml"
    threads: 1
    resources:
        scripts=SCRIPTS,
        mem_mb=1000,
        runtime=10,
    params:
        code=code("card", "pedalign/reporting/card.md"),
        dataset=DATASET,
        source=config["source"],
        origin=origin,
        valid_format=config["checks"]["valid_format"],
        more=lambda wildcards, input: [
            f"--{name}={input[name]}" for name in ("comparison", "perplexity", "before", "audit") if input.get(name)
        ],
    shell:
        "python {resources.scripts:q}/card.py {input.manifest:q} --metrics {input.metrics:q} --splits {input.splits:q}"
        " --rubric {input.rubric:q} --dataset {params.dataset:q} --source {params.source:q}"
        " --origin {params.origin:q} {params.more:q} --valid-format {params.valid_format}"
        " --output {output:q} 2>&1 | tee {log:q}"


rule summarize:
    """All runs in one table."""
    input:
        metrics=[f"{RESULTS}/{tutor}/test/metrics.json" for tutor in TUTORS],
        comparisons=[f"{RESULTS}/{model}/{policy}/test/comparison.json" for model, policy in RUNS],
        perplexities=perplexity_artifacts(),
        manifests=[f"{RESULTS}/{tutor}/checkpoint.json" for tutor in TUTORS],
        audits=audits(),
        splits=f"{RESULTS}/data/splits.json",
        rubric=RUBRIC,
    output:
        report(f"{RESULTS}/summary.csv", category="Results", labels={"table": "all runs"}),
    log:
        f"{RESULTS}/logs/summary.log",
    benchmark:
        f"{RESULTS}/benchmarks/summary.tsv"
    conda:
        "../envs/data.yaml"
    threads: 1
    resources:
        scripts=SCRIPTS,
        mem_mb=1000,
        runtime=10,
    params:
        code=code("summarize"),
        dataset=DATASET,
        valid_format=config["checks"]["valid_format"],
    shell:
        "python {resources.scripts:q}/summarize.py --metrics {input.metrics:q} --comparisons {input.comparisons:q}"
        " --perplexities {input.perplexities:q} --manifests {input.manifests:q} --audits {input.audits:q}"
        " --valid-format {params.valid_format}"
        " --rubric {input.rubric:q} --splits {input.splits:q} --dataset {params.dataset:q} --output {output:q} 2>&1 | tee {log:q}"


rule report:
    """The page to look at: whether alignment helped, where, and what the tutors say now."""
    input:
        summary=f"{RESULTS}/summary.csv",
        splits=f"{RESULTS}/data/splits.json",
        rows=f"{RESULTS}/data/{DATASET}-test_formatted.json",
        metrics=[f"{RESULTS}/{tutor}/test/metrics.json" for tutor in TUTORS],
        responses=[f"{RESULTS}/{tutor}/test/responses.csv" for tutor in TUTORS],
        perplexities=perplexity_artifacts(),
        manifests=[f"{RESULTS}/{tutor}/checkpoint.json" for tutor in TUTORS],
        audits=audits(),
        counts=[f"{RESULTS}/{model}/preferences_counts.json" for model in ALIGNED_HERE],
        rubric=RUBRIC,
    output:
        page=report(f"{RESULTS}/report.html", category="Results", labels={"table": "the report page"}),
        charts=report(
            directory(f"{RESULTS}/charts"),
            patterns=["{section}/{chart}.svg", "{section}/{chart}.csv"],
            category="Charts and tables",
            subcategory="{section}",
            labels={"chart": "{chart}"},
        ),
    log:
        f"{RESULTS}/logs/report.log",
    benchmark:
        f"{RESULTS}/benchmarks/report.tsv"
    conda:
        "../envs/data.yaml"
    threads: 1
    resources:
        scripts=SCRIPTS,
        mem_mb=2000,
        runtime=30,
    params:
        code=code("report", "pedalign/reporting/report.html", "pedalign/reporting/report.js"),
        dataset=DATASET,
        results=lambda wildcards, output: str(Path(output[0]).parent),
        tutors=TUTORS,
        first_turn="true" if config["evaluation"]["first_turn"] else "false",
        config=shown_settings(),
    shell:
        "python {resources.scripts:q}/report.py {params.results:q} --dataset {params.dataset:q} --rubric {input.rubric:q}"
        " --tutors {params.tutors:q} --first-turn {params.first_turn} --config {params.config:q} --output {output.page:q}"
        " --charts {output.charts:q} 2>&1 | tee {log:q}"


rule provenance:
    """What every artifact was made from (data, settings, code, versions), printed and verified."""
    input:
        summary=f"{RESULTS}/summary.csv",
        artifacts=artifacts(),
    log:
        f"{RESULTS}/logs/provenance.log",
    retries: 0
    conda:
        "../envs/training.yaml"
    threads: 1
    resources:
        scripts=SCRIPTS,
        mem_mb=1000,
        runtime=60,
    shell:
        "python {resources.scripts:q}/provenance.py {input.summary:q} {input.artifacts:q} 2>&1 | tee {log:q}"
