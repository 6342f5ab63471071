# The model that is measured with, where there is no GPU: the first of the runs.
MEASURED = MODELS[0]


rule benchmark:
    """Our ways of generating and training against what people do today (--config benchmark=full: larger)."""
    input:
        base_inputs(Wildcards(fromdict={"model": MEASURED})),
        conversations=f"{RESULTS}/data/{DATASET}-sft.json",
        rows=f"{RESULTS}/data/{DATASET}-test_formatted.json",
        tutor=f"{RESULTS}/{MEASURED}/sft/checkpoint.json",
        checkpoint=ancient(f"{RESULTS}/{MEASURED}/sft/checkpoint"),
        preferences=f"{RESULTS}/{MEASURED}/preferences.json",
        rubric=RUBRIC,
    output:
        f"{RESULTS}/benchmark.json",
    log:
        f"{RESULTS}/logs/benchmark.log",
    conda:
        "../envs/training.yaml"
    threads: lambda _: benchmark_settings(MEASURED)[0]
    resources:
        scripts=SCRIPTS,
        gpu=lambda _: gpus("generation")(Wildcards(fromdict={"model": MEASURED})),
        nodes=1,
        mem_mb=16000,
        runtime=480,
    params:
        code=code("benchmark"),
        base=lambda _: base_model(Wildcards(fromdict={"model": MEASURED})),
        settings=lambda _: benchmark_settings(MEASURED)[1],
    shell:
        "exec python {resources.scripts:q}/launch.py --gpu {resources.gpu} --nodes {resources.nodes} --threads {threads} --log {log:q} --"
        " {resources.scripts:q}/benchmark.py --conversations {input.conversations:q} --rows {input.rows:q}"
        " --preferences {input.preferences:q} --base {params.base:q} --tutor {input.checkpoint:q} --rubric {input.rubric:q}"
        " --output {output:q} --settings {params.settings:q}"
