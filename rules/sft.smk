rule base:
    """A base model from scratch, its tokenizer trained on the SFT split alone."""
    input:
        conversations=f"{RESULTS}/data/{DATASET}-sft.json",
        rubric=RUBRIC,
    output:
        model=directory(f"{RESULTS}/{{model}}/base"),
        manifest=f"{RESULTS}/{{model}}/base.json",
    log:
        f"{RESULTS}/logs/{{model}}/base.log",
    benchmark:
        f"{RESULTS}/benchmarks/{{model}}/base.tsv"
    conda:
        "../envs/training.yaml"
    threads: 1
    resources:
        scripts=SCRIPTS,
        mem_mb=4000,
        runtime=30,
    params:
        code=code("base"),
        settings=lambda wildcards: settings(**rendering(wildcards), **architecture(wildcards), seed=config["seed"]),
    shell:
        "python {resources.scripts:q}/base.py {input.conversations:q} --rubric {input.rubric:q} --output {output.model:q}"
        " --manifest {output.manifest:q} --settings {params.settings:q} 2>&1 | tee {log:q}"


rule audit:
    """Count the tokens of all splits; stop before training if a text is longer than the model or its settings allow."""
    input:
        base_inputs,
        splits=SPLIT_FILES,
        rubric=RUBRIC,
    output:
        f"{RESULTS}/{{model}}/sft/audit.json",
    log:
        f"{RESULTS}/logs/{{model}}/sft/audit.log",
    benchmark:
        f"{RESULTS}/benchmarks/{{model}}/sft/audit.tsv"
    conda:
        "../envs/training.yaml"
    threads: 1
    resources:
        scripts=SCRIPTS,
        mem_mb=2000,
        runtime=30,
        limits=lambda wildcards: settings(**limits(wildcards.model)),
    params:
        code=code("audit"),
        settings=lambda wildcards: settings(**rendering(wildcards)),
        model=base_model,
        state=state_of(lambda wildcards: entry(wildcards).get("path")),
    shell:
        "python {resources.scripts:q}/audit.py {input.splits:q} --model {params.model:q} --rubric {input.rubric:q}"
        " --limits {resources.limits:q} --output {output:q} --settings {params.settings:q} 2>&1 | tee {log:q}"


rule adopt:
    """A tutor that was trained elsewhere: `sft:` or `aligned:` of a model's entry names its checkpoint."""
    output:
        checkpoint=directory(f"{RESULTS}/{{tutor}}/checkpoint"),
        manifest=f"{RESULTS}/{{tutor}}/checkpoint.json",
    log:
        f"{RESULTS}/logs/{{tutor}}/checkpoint.log",
    benchmark:
        f"{RESULTS}/benchmarks/{{tutor}}/checkpoint.tsv"
    wildcard_constraints:
        tutor="|".join(map(re.escape, ADOPTED)) or "(?!)",
    conda:
        "../envs/training.yaml"
    threads: 1
    resources:
        scripts=SCRIPTS,
        mem_mb=4000,
        runtime=120,
    params:
        code=code("adopt"),
        source=adopted_source,
        state=state_of(adopted_source),
    shell:
        "python {resources.scripts:q}/adopt.py {params.source:q} --output {output.checkpoint:q} --manifest {output.manifest:q}"
        " 2>&1 | tee {log:q}"


rule finetune:
    """Supervised fine-tuning on the tutor's turns."""
    input:
        base_inputs,
        conversations=f"{RESULTS}/data/{DATASET}-sft.json",
        audit=f"{RESULTS}/{{model}}/sft/audit.json",
        rubric=RUBRIC,
    output:
        checkpoint=directory(f"{RESULTS}/{{model}}/sft/checkpoint"),
        manifest=f"{RESULTS}/{{model}}/sft/checkpoint.json",
    log:
        f"{RESULTS}/logs/{{model}}/sft/checkpoint.log",
    benchmark:
        f"{RESULTS}/benchmarks/{{model}}/sft/checkpoint.tsv"
    conda:
        "../envs/training.yaml"
    threads: resource("sft", "threads")
    resources:
        scripts=SCRIPTS,
        gpu=gpus("sft"),
        nodes=nodes("sft"),
        mpi=mpi("sft"),
        tasks=tasks("sft"),
        mem_mb=resource("sft", "mem_mb"),
        runtime=minutes("sft"),
        save_minutes=config["training_state"]["minutes"],
        save_steps=config["training_state"]["steps"],
        trackers=",".join(config["trackers"]) or "none",
        unlearned=config["checks"]["unlearned"],
        engine=lambda wildcards: entry(wildcards)["generation"].get("engine", "auto"),
    params:
        code=code("finetune"),
        settings=lambda wildcards: settings(
            rendering=rendering(wildcards),
            training=training(wildcards, "sft", config["seed"]),
            **adapter(wildcards),
        ),
        tensorboard=f"{RESULTS}/logs/tensorboard/{{model}}/sft",
        model=base_model,
        state=state_of(lambda wildcards: entry(wildcards).get("path")),
    shell:
        "exec python {resources.scripts:q}/launch.py --gpu {resources.gpu} --nodes {resources.nodes} --threads {threads} --log {log:q} --"
        " {resources.scripts:q}/finetune.py {input.conversations:q} --model {params.model:q} --rubric {input.rubric:q}"
        " --output {output.checkpoint:q} --manifest {output.manifest:q} --settings {params.settings:q}"
        " --save-minutes {resources.save_minutes} --save-steps {resources.save_steps}"
        " --trackers {resources.trackers} --tensorboard {params.tensorboard:q}"
        " --unlearned {resources.unlearned} --engine {resources.engine}"
