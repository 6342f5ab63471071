# Compute nodes often have no internet access.
localrules:
    download,


rule simulate:
    """Make the simulated conversation files, if they are missing."""
    input:
        # ancient: the files are part of the repository; a changed bank or script does not replace them.
        problems=ancient(PLAN.beside(CONFIG.simulation.problems)),
        rubric=ancient(PLAN.rubric),
        phrases=ancient(PLAN.beside("datasets/simulation.yaml")),
    output:
        expand(
            f"{PLAN.simulated}/{{{{dataset}}}}-dataset-{{number}}.json",
            number=range(1, CONFIG.simulation.files + 1),
        ),
        f"{PLAN.simulated}/{{dataset}}-dataset-ppl.json",
    log:
        f"{PATHS.logs}/simulate-{{dataset}}.log",
    conda:
        "../envs/data.yaml"
    threads: 1
    resources:
        scripts=SCRIPTS,
        mem_mb=1000,
        runtime=10,
    params:
        output=lambda wildcards, output: str(Path(output[0]).parent),
        arguments=PLAN.simulation_arguments(),
    shell:
        "python {resources.scripts:q}/simulate.py {input.problems:q} --rubric {input.rubric:q} --script {input.phrases:q}"
        " --dataset {wildcards.dataset:q} --output {params.output:q} {params.arguments} 2>&1 | tee {log:q}"


rule download:
    """Download one of the paper's conversation files, if it is missing."""
    output:
        # update: an existing file is checked and kept.
        update("datasets/published/{name}.json"),
    log:
        f"{PATHS.logs}/download-{{name}}.log",
    wildcard_constraints:
        name="bio-dataset-([123]|ppl)",
    conda:
        "../envs/data.yaml"
    threads: 1
    resources:
        scripts=SCRIPTS,
        mem_mb=500,
        runtime=60,
    params:
        url=CONFIG.published_url,
    shell:
        "python {resources.scripts:q}/download.py {output:q} --url {params.url:q} 2>&1 | tee {log:q}"


rule import_conversations:
    """Convert raw files of another format into conversation files; count what is changed, cut and rejected."""
    input:
        files=PLAN.raw_files,
        rubric=PLAN.rubric,
    output:
        files=PLAN.imported_files(),
        report=PLAN.import_report(of_bank=False),
    log:
        f"{PATHS.logs}/data/import_conversations.log",
    conda:
        "../envs/data.yaml"
    threads: 1
    resources:
        scripts=SCRIPTS,
        mem_mb=4000,
        runtime=30,
    params:
        code=PLAN.import_code(),
        raw=PLAN.raw_state,
        format=PLAN.imports.format if PLAN.imports else "",
    shell:
        "python {resources.scripts:q}/import_conversations.py {input.files:q} --format {params.format} --rubric {input.rubric:q}"
        " --output {output.files:q} --report {output.report:q} 2>&1 | tee {log:q}"


rule import_bank:
    """Simulate conversations about the problems of an imported bank."""
    input:
        problems=PLAN.raw_files,
        rubric=PLAN.rubric,
        phrases=PLAN.beside("datasets/simulation.yaml"),
    output:
        files=PLAN.bank_files(),
        report=PLAN.import_report(of_bank=True),
    log:
        f"{PATHS.logs}/data/import_bank.log",
    conda:
        "../envs/data.yaml"
    threads: 1
    resources:
        scripts=SCRIPTS,
        mem_mb=1000,
        runtime=10,
    params:
        code=PLAN.code("simulate"),
        raw=PLAN.raw_state,
        dataset=CONFIG.dataset,
        output=PATHS.imported,
        arguments=PLAN.simulation_arguments(),
    shell:
        "python {resources.scripts:q}/simulate.py {input.problems:q} --rubric {input.rubric:q} --script {input.phrases:q}"
        " --dataset {params.dataset:q} --output {params.output:q} {params.arguments} --report {output.report:q} 2>&1 | tee {log:q}"


rule split:
    """Draw the splits, clean the replies, report cuts and leaks."""
    input:
        files=PLAN.conversation_files(),
        imported=PLAN.import_report(),
        rubric=PLAN.rubric,
    output:
        PLAN.split_files(),
        [PATHS.formatted(split) for split in SPLITS[1:]],
        PATHS.splits_report,
    log:
        PATHS.log(PATHS.splits_report),
    benchmark:
        PATHS.benchmark(PATHS.splits_report)
    conda:
        "../envs/data.yaml"
    threads: 1
    resources:
        scripts=SCRIPTS,
        mem_mb=2000,
        runtime=30,
    params:
        code=PLAN.code("split"),
        output=lambda wildcards, output: str(Path(output[0]).parent),
        settings=SETTINGS.split(),
        dataset=CONFIG.dataset,
        flags=PLAN.split_flags(),
    shell:
        "python {resources.scripts:q}/split.py {input.files:q} --rubric {input.rubric:q} --dataset {params.dataset:q} {params.flags}"
        " --output {params.output:q} --settings {params.settings:q} 2>&1 | tee {log:q}"
