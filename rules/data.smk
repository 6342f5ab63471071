# Compute nodes often have no way to the net.
localrules:
    download,


rule simulate:
    """Simulated conversation files, where they are missing."""
    input:
        # ancient: the files are part of the repository; a changed bank or script does not replace them.
        problems=ancient(beside(config["simulation"]["problems"])),
        rubric=ancient(RUBRIC),
        phrases=ancient(beside("datasets/simulation.yaml")),
    output:
        expand(
            f"{SIMULATED}/{{{{dataset}}}}-dataset-{{number}}.json",
            number=range(1, config["simulation"]["files"] + 1),
        ),
        f"{SIMULATED}/{{dataset}}-dataset-ppl.json",
    log:
        f"{RESULTS}/logs/simulate-{{dataset}}.log",
    conda:
        "../envs/data.yaml"
    threads: 1
    resources:
        scripts=SCRIPTS,
        mem_mb=1000,
        runtime=10,
    params:
        output=lambda wildcards, output: str(Path(output[0]).parent),
        arguments=simulation_arguments(),
    shell:
        "python {resources.scripts:q}/simulate.py {input.problems:q} --rubric {input.rubric:q} --script {input.phrases:q}"
        " --dataset {wildcards.dataset:q} --output {params.output:q} {params.arguments} 2>&1 | tee {log:q}"


rule download:
    """One of the paper's conversation files, where it is missing."""
    output:
        # update: a file that is there is checked and left as it is.
        update("datasets/published/{name}.json"),
    log:
        f"{RESULTS}/logs/download-{{name}}.log",
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
        url=config["published_url"],
    shell:
        "python {resources.scripts:q}/download.py {output:q} --url {params.url:q} 2>&1 | tee {log:q}"


rule split:
    """Draw the splits, clean the replies, report cuts and leaks."""
    input:
        files=conversation_files(),
        rubric=RUBRIC,
    output:
        SPLIT_FILES,
        expand(f"{RESULTS}/data/{DATASET}-{{split}}_formatted.json", split=["dpo", "test"]),
        f"{RESULTS}/data/splits.json",
    log:
        f"{RESULTS}/logs/data/splits.log",
    benchmark:
        f"{RESULTS}/benchmarks/data/splits.tsv"
    conda:
        "../envs/data.yaml"
    threads: 1
    resources:
        scripts=SCRIPTS,
        mem_mb=2000,
        runtime=30,
    params:
        code=code("split"),
        output=lambda wildcards, output: str(Path(output[0]).parent),
        settings=settings(**config["splits"], seed=config["seed"], paper_rules=config["paper_rules"]),
        dataset=DATASET,
        published=PUBLISHED_FLAG,
    shell:
        "python {resources.scripts:q}/split.py {input.files:q} --rubric {input.rubric:q} --dataset {params.dataset:q} {params.published}"
        " --output {params.output:q} --settings {params.settings:q} 2>&1 | tee {log:q}"
