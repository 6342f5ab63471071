ruleorder: adopt > finetune > optimize


rule reference:
    """What the fine-tuned tutor, the reference of every alignment, thinks of the preference pairs."""
    input:
        manifest=f"{RESULTS}/{{model}}/sft/checkpoint.json",
        checkpoint=ancient(f"{RESULTS}/{{model}}/sft/checkpoint"),
        preferences=f"{RESULTS}/{{model}}/preferences.json",
        rubric=RUBRIC,
    output:
        f"{RESULTS}/{{model}}/sft/reference.json",
    log:
        f"{RESULTS}/logs/{{model}}/sft/reference.log",
    benchmark:
        f"{RESULTS}/benchmarks/{{model}}/sft/reference.tsv"
    conda:
        "../envs/training.yaml"
    threads: resource("generation", "threads")
    resources:
        scripts=SCRIPTS,
        gpu=gpus("generation"),
        nodes=1,
        mem_mb=resource("generation", "mem_mb"),
        runtime=minutes("generation"),
        max_length=lambda wildcards: entry(wildcards)["max_length"],
    params:
        code=code("reference"),
        settings=lambda wildcards: settings(
            rendering=rendering(wildcards),
            dtype=entry(wildcards)["dtype"],
            max_batch_tokens=entry(wildcards)["generation"]["max_batch_tokens"],
        ),
    shell:
        "exec python {resources.scripts:q}/launch.py --gpu {resources.gpu} --nodes {resources.nodes} --threads {threads} --log {log:q} --"
        " {resources.scripts:q}/reference.py {input.preferences:q} --model {input.checkpoint:q} --rubric {input.rubric:q}"
        " --output {output:q} --settings {params.settings:q} --max-length {resources.max_length}"


rule optimize:
    """Align the fine-tuned tutor by preference optimization; the policy's name says algorithm, beta and seed."""
    input:
        manifest=f"{RESULTS}/{{model}}/sft/checkpoint.json",
        checkpoint=ancient(f"{RESULTS}/{{model}}/sft/checkpoint"),
        preferences=f"{RESULTS}/{{model}}/preferences.json",
        reference=f"{RESULTS}/{{model}}/sft/reference.json",
        rubric=RUBRIC,
    output:
        checkpoint=directory(f"{RESULTS}/{{model}}/{{policy}}/checkpoint"),
        manifest=f"{RESULTS}/{{model}}/{{policy}}/checkpoint.json",
    log:
        f"{RESULTS}/logs/{{model}}/{{policy}}/checkpoint.log",
    benchmark:
        f"{RESULTS}/benchmarks/{{model}}/{{policy}}/checkpoint.tsv"
    wildcard_constraints:
        policy=r"(?!sft/)[^/]+",
    conda:
        "../envs/training.yaml"
    threads: resource("alignment", "threads")
    resources:
        scripts=SCRIPTS,
        gpu=gpus("alignment"),
        nodes=nodes("alignment"),
        mpi=mpi("alignment"),
        tasks=tasks("alignment"),
        mem_mb=resource("alignment", "mem_mb"),
        runtime=minutes("alignment"),
        save_minutes=config["training_state"]["minutes"],
        save_steps=config["training_state"]["steps"],
        trackers=",".join(config["trackers"]) or "none",
        unlearned=config["checks"]["unlearned"],
    params:
        code=code("optimize"),
        tensorboard=f"{RESULTS}/logs/tensorboard/{{model}}/{{policy}}",
        settings=lambda wildcards: settings(
            rendering=rendering(wildcards),
            training=training(wildcards, "alignment", policy(wildcards).seed),
            alignment=alignment(wildcards),
            **adapter(wildcards),
        ),
    shell:
        "exec python {resources.scripts:q}/launch.py --gpu {resources.gpu} --nodes {resources.nodes} --threads {threads} --log {log:q} --"
        " {resources.scripts:q}/optimize.py {input.preferences:q} --reference {input.reference:q} --model {input.checkpoint:q}"
        " --rubric {input.rubric:q} --output {output.checkpoint:q} --manifest {output.manifest:q}"
        " --settings {params.settings:q}"
        " --save-minutes {resources.save_minutes} --save-steps {resources.save_steps}"
        " --trackers {resources.trackers} --tensorboard {params.tensorboard:q}"
        " --unlearned {resources.unlearned}"
