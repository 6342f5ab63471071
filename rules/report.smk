# Take seconds: not worth jobs in a queue.
localrules:
    card,
    summarize,
    report,
    provenance,


rule card:
    """A tutor's model card, README.md; also in its checkpoint's folder, for the hub."""
    input:
        manifest=TUTOR.manifest,
        checkpoint=ancient(TUTOR.checkpoint),
        metrics=TUTOR.metrics,
        more=lambda wildcards: list(PLAN.card_inputs(wildcards).values()),
        splits=PATHS.splits_report,
        rubric=PLAN.rubric,
    output:
        TUTOR.card,
    log:
        PATHS.log(TUTOR.card),
    benchmark:
        PATHS.benchmark(TUTOR.card)
    conda:
        "../envs/training.yaml"
    threads: 1
    resources:
        scripts=SCRIPTS,
        mem_mb=1000,
        runtime=10,
    params:
        code=PLAN.code("card", "pedalign/reporting/card.md"),
        dataset=CONFIG.dataset,
        source=PLAN.source_in_words(),
        origin=PLAN.origin,
        rows=PLAN.rows,
        valid_format=CONFIG.checks.valid_format,
        more=lambda wildcards: [f"--{name}={path}" for name, path in PLAN.card_inputs(wildcards).items()],
    shell:
        "python {resources.scripts:q}/card.py {input.manifest:q} --metrics {input.metrics:q} --splits {input.splits:q}"
        " --rubric {input.rubric:q} --dataset {params.dataset:q} --source {params.source:q}"
        " --origin {params.origin:q} --rows {params.rows} {params.more:q} --valid-format {params.valid_format}"
        " --output {output:q} 2>&1 | tee {log:q}"


rule summarize:
    """All runs in one table."""
    input:
        metrics=[tutor.metrics for tutor in PLAN.tutor_paths()],
        comparisons=[tutor.comparison for tutor in PLAN.aligned_paths()],
        perplexities=PLAN.perplexities(),
        manifests=[tutor.manifest for tutor in PLAN.tutor_paths()],
        audits=PLAN.audits(),
        splits=PATHS.splits_report,
        rubric=PLAN.rubric,
    output:
        report(PATHS.summary, category="Results", labels={"table": "all runs"}),
    log:
        PATHS.log(PATHS.summary),
    benchmark:
        PATHS.benchmark(PATHS.summary)
    conda:
        "../envs/data.yaml"
    threads: 1
    resources:
        scripts=SCRIPTS,
        mem_mb=1000,
        runtime=10,
    params:
        code=PLAN.code("summarize"),
        dataset=CONFIG.dataset,
        valid_format=CONFIG.checks.valid_format,
        settings=PLAN.settings_in_words(),
    shell:
        "python {resources.scripts:q}/summarize.py --metrics {input.metrics:q} --comparisons {input.comparisons:q}"
        " --perplexities {input.perplexities:q} --manifests {input.manifests:q} --audits {input.audits:q}"
        " --valid-format {params.valid_format} --settings {params.settings:q}"
        " --rubric {input.rubric:q} --splits {input.splits:q} --dataset {params.dataset:q} --output {output:q} 2>&1 | tee {log:q}"


rule report:
    """The report page: whether alignment helped, where, and what each tutor replies."""
    input:
        summary=PATHS.summary,
        splits=PATHS.splits_report,
        rows=PATHS.formatted("test"),
        metrics=[tutor.metrics for tutor in PLAN.tutor_paths()],
        responses=[tutor.responses() for tutor in PLAN.tutor_paths()],
        perplexities=PLAN.perplexities(),
        manifests=[tutor.manifest for tutor in PLAN.tutor_paths()],
        audits=PLAN.audits(),
        counts=[found.preferences_counts for found in PLAN.model_paths(PLAN.aligned_here)],
        rubric=PLAN.rubric,
    output:
        page=report(PATHS.report, category="Results", labels={"table": "the report page"}),
        charts=report(
            directory(PATHS.charts),
            patterns=["{section}/{chart}.svg", "{section}/{chart}.csv"],
            category="Charts and tables",
            subcategory="{section}",
            labels={"chart": "{chart}"},
        ),
    log:
        PATHS.log(PATHS.report),
    benchmark:
        PATHS.benchmark(PATHS.report)
    conda:
        "../envs/data.yaml"
    threads: 1
    resources:
        scripts=SCRIPTS,
        mem_mb=2000,
        runtime=30,
    params:
        code=PLAN.code("report", "pedalign/reporting/report.html", "pedalign/reporting/report.js"),
        dataset=CONFIG.dataset,
        results=lambda wildcards, output: str(Path(output[0]).parent),
        tutors=PLAN.tutors,
        first_turn="true" if CONFIG.score.first_turn else "false",
        config=SETTINGS.report(),
    shell:
        "python {resources.scripts:q}/report.py {params.results:q} --dataset {params.dataset:q} --rubric {input.rubric:q}"
        " --tutors {params.tutors:q} --first-turn {params.first_turn} --config {params.config:q} --output {output.page:q}"
        " --charts {output.charts:q} 2>&1 | tee {log:q}"


rule provenance:
    """What every artifact was made from (data, settings, code, versions), printed and verified."""
    input:
        summary=PATHS.summary,
        artifacts=PLAN.artifacts(),
    log:
        f"{PATHS.logs}/provenance.log",
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
