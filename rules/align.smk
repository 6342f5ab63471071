ruleorder: adopt > sft > align


rule reference:
    """Log-probabilities of the preference pairs by the fine-tuned tutor, the reference of every alignment."""
    input:
        manifest=MODEL.sft.manifest,
        checkpoint=ancient(MODEL.sft.checkpoint),
        preferences=MODEL.preferences,
        rubric=PLAN.rubric,
    output:
        MODEL.reference,
    log:
        PATHS.log(MODEL.reference),
    benchmark:
        PATHS.benchmark(MODEL.reference)
    conda:
        "../envs/training.yaml"
    threads: PLAN.resource("generate", "threads")
    resources:
        scripts=SCRIPTS,
        gpu=PLAN.gpus("generate"),
        nodes=1,
        mem_mb=PLAN.resource("generate", "mem_mb"),
        runtime=PLAN.minutes("generate"),
        max_length=lambda wildcards: PLAN.entry(wildcards.model).max_length,
    params:
        code=PLAN.code("reference"),
        settings=SETTINGS.reference,
    shell:
        "exec python {resources.scripts:q}/launch.py --gpu {resources.gpu} --nodes {resources.nodes} --threads {threads} --log {log:q} --"
        " {resources.scripts:q}/reference.py {input.preferences:q} --model {input.checkpoint:q} --rubric {input.rubric:q}"
        " --output {output:q} --settings {params.settings:q} --max-length {resources.max_length}"


rule align:
    """Align the fine-tuned tutor by preference optimization; the policy's name says algorithm, beta, and what differs."""
    input:
        manifest=MODEL.sft.manifest,
        checkpoint=ancient(MODEL.sft.checkpoint),
        preferences=MODEL.preferences,
        reference=PLAN.reference,
        rubric=PLAN.rubric,
    output:
        checkpoint=directory(TUTOR.checkpoint),
        manifest=TUTOR.manifest,
    log:
        PATHS.log(TUTOR.manifest),
    benchmark:
        PATHS.benchmark(TUTOR.manifest)
    wildcard_constraints:
        policy=r"(?!sft/)[^/]+",
    conda:
        "../envs/training.yaml"
    threads: PLAN.resource("align", "threads")
    resources:
        scripts=SCRIPTS,
        gpu=PLAN.gpus("align"),
        nodes=PLAN.nodes("align"),
        mpi=PLAN.mpi("align"),
        tasks=PLAN.tasks("align"),
        mem_mb=PLAN.resource("align", "mem_mb"),
        runtime=PLAN.minutes("align"),
        save_minutes=CONFIG.training_state.minutes,
        save_steps=CONFIG.training_state.steps,
        trackers=",".join(CONFIG.trackers) or "none",
        unlearned=CONFIG.checks.unlearned,
    params:
        code=PLAN.code("align"),
        tensorboard=PATHS.tensorboard("{model}", "{policy}"),
        settings=SETTINGS.align,
    shell:
        "exec python {resources.scripts:q}/launch.py --gpu {resources.gpu} --nodes {resources.nodes} --threads {threads} --log {log:q} --"
        " {resources.scripts:q}/align.py {input.preferences:q} --reference {input.reference:q} --model {input.checkpoint:q}"
        " --rubric {input.rubric:q} --output {output.checkpoint:q} --manifest {output.manifest:q}"
        " --settings {params.settings:q}"
        " --save-minutes {resources.save_minutes} --save-steps {resources.save_steps}"
        " --trackers {resources.trackers} --tensorboard {params.tensorboard:q}"
        " --unlearned {resources.unlearned}"
