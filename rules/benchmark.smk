# The model to measure with on a machine without a GPU: that of the first run.
MEASURED = SimpleNamespace(model=PLAN.models[0])
MEASURED_PATHS = PATHS.model(MEASURED.model)


rule benchmark:
    """Compare our ways of generating and training with common practice (--config benchmark=full: larger)."""
    input:
        base_inputs(MEASURED),
        conversations=PATHS.split("sft"),
        rows=PATHS.formatted("test"),
        tutor=MEASURED_PATHS.sft.manifest,
        checkpoint=ancient(MEASURED_PATHS.sft.checkpoint),
        preferences=MEASURED_PATHS.preferences,
        rubric=PLAN.rubric,
    output:
        PATHS.comparison_of_speed,
    log:
        PATHS.log(PATHS.comparison_of_speed),
    conda:
        "../envs/training.yaml"
    threads: lambda _: PLAN.resource("sft", "threads")(MEASURED)
    resources:
        scripts=SCRIPTS,
        gpu=lambda _: PLAN.gpus("generate")(MEASURED),
        nodes=1,
        mem_mb=16000,
        runtime=480,
    params:
        code=PLAN.code("benchmark"),
        base=lambda _: PLAN.base_model(MEASURED),
        settings=lambda _: SETTINGS.benchmark(MEASURED),
    shell:
        "exec python {resources.scripts:q}/launch.py --gpu {resources.gpu} --nodes {resources.nodes} --threads {threads} --log {log:q} --"
        " {resources.scripts:q}/benchmark.py --conversations {input.conversations:q} --rows {input.rows:q}"
        " --preferences {input.preferences:q} --base {params.base:q} --tutor {input.checkpoint:q} --rubric {input.rubric:q}"
        " --output {output:q} --settings {params.settings:q}"
