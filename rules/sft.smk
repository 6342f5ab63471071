rule base:
    """A base model from scratch, its tokenizer trained on the SFT split alone."""
    input:
        conversations=PATHS.split("sft"),
        rubric=PLAN.rubric,
    output:
        model=directory(MODEL.base),
        manifest=MODEL.base_manifest,
    log:
        PATHS.log(MODEL.base_manifest),
    benchmark:
        PATHS.benchmark(MODEL.base_manifest)
    conda:
        "../envs/training.yaml"
    threads: 1
    resources:
        scripts=SCRIPTS,
        mem_mb=4000,
        runtime=30,
    params:
        code=PLAN.code("base"),
        settings=SETTINGS.base,
    shell:
        "python {resources.scripts:q}/base.py {input.conversations:q} --rubric {input.rubric:q} --output {output.model:q}"
        " --manifest {output.manifest:q} --settings {params.settings:q} 2>&1 | tee {log:q}"


rule audit:
    """Count the tokens of all splits; stop before training if a text is longer than the model or its settings allow."""
    input:
        base_inputs,
        splits=PLAN.split_files(),
        rubric=PLAN.rubric,
    output:
        MODEL.audit,
    log:
        PATHS.log(MODEL.audit),
    benchmark:
        PATHS.benchmark(MODEL.audit)
    conda:
        "../envs/training.yaml"
    threads: 1
    resources:
        scripts=SCRIPTS,
        mem_mb=2000,
        runtime=30,
        limits=lambda wildcards: as_text(**SETTINGS.limits(wildcards.model)),
    params:
        code=PLAN.code("audit"),
        settings=SETTINGS.audit,
        model=PLAN.base_model,
        state=PLAN.base_state,
    shell:
        "python {resources.scripts:q}/audit.py {input.splits:q} --model {params.model:q} --rubric {input.rubric:q}"
        " --limits {resources.limits:q} --output {output:q} --settings {params.settings:q} 2>&1 | tee {log:q}"


rule adopt:
    """A tutor that was trained elsewhere: `sft:` or `aligned:` of a model's entry names its checkpoint."""
    output:
        checkpoint=directory(PATHS.tutor("{tutor}").checkpoint),
        manifest=PATHS.tutor("{tutor}").manifest,
    log:
        PATHS.log(PATHS.tutor("{tutor}").manifest),
    benchmark:
        PATHS.benchmark(PATHS.tutor("{tutor}").manifest)
    wildcard_constraints:
        tutor=PLAN.adopted_tutors(),
    conda:
        "../envs/training.yaml"
    threads: 1
    resources:
        scripts=SCRIPTS,
        mem_mb=4000,
        runtime=120,
    params:
        code=PLAN.code("adopt"),
        source=PLAN.adopted_source,
        state=PLAN.adopted_state,
    shell:
        "python {resources.scripts:q}/adopt.py {params.source:q} --output {output.checkpoint:q} --manifest {output.manifest:q}"
        " 2>&1 | tee {log:q}"


rule sft:
    """Supervised fine-tuning on the tutor's turns."""
    input:
        base_inputs,
        conversations=PATHS.split("sft"),
        audit=MODEL.audit,
        rubric=PLAN.rubric,
    output:
        checkpoint=directory(MODEL.sft.checkpoint),
        manifest=MODEL.sft.manifest,
    log:
        PATHS.log(MODEL.sft.manifest),
    benchmark:
        PATHS.benchmark(MODEL.sft.manifest)
    conda:
        "../envs/training.yaml"
    threads: PLAN.resource("sft", "threads")
    resources:
        scripts=SCRIPTS,
        gpu=PLAN.gpus("sft"),
        nodes=PLAN.nodes("sft"),
        mpi=PLAN.mpi("sft"),
        tasks=PLAN.tasks("sft"),
        mem_mb=PLAN.resource("sft", "mem_mb"),
        runtime=PLAN.minutes("sft"),
        save_minutes=CONFIG.training_state.minutes,
        save_steps=CONFIG.training_state.steps,
        trackers=",".join(CONFIG.trackers) or "none",
        unlearned=CONFIG.checks.unlearned,
        engine=lambda wildcards: PLAN.entry(wildcards.model).generate.engine,
    params:
        code=PLAN.code("sft"),
        settings=SETTINGS.sft,
        tensorboard=PATHS.tensorboard("{model}", "sft"),
        model=PLAN.base_model,
        state=PLAN.base_state,
    shell:
        "exec python {resources.scripts:q}/launch.py --gpu {resources.gpu} --nodes {resources.nodes} --threads {threads} --log {log:q} --"
        " {resources.scripts:q}/sft.py {input.conversations:q} --model {params.model:q} --rubric {input.rubric:q}"
        " --output {output.checkpoint:q} --manifest {output.manifest:q} --settings {params.settings:q}"
        " --save-minutes {resources.save_minutes} --save-steps {resources.save_steps}"
        " --trackers {resources.trackers} --tensorboard {params.tensorboard:q}"
        " --unlearned {resources.unlearned} --engine {resources.engine}"
