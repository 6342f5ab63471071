# It checks the machine where Snakemake runs, and from there Slurm.
localrules:
    preflight,


rule preflight:
    """Compare in seconds, before anything starts, what the runs need with what there is."""
    input:
        rubric=PLAN.rubric,
    log:
        f"{PATHS.logs}/preflight.log",
    retries: 0
    conda:
        "../envs/training.yaml"
    threads: 1
    resources:
        scripts=SCRIPTS,
        mem_mb=2000,
        runtime=10,
    params:
        settings=lambda wildcards: SETTINGS.preflight(
            functools.partial(calls.request, workflow), machine() is not None, calls.status_command(workflow)
        ),
    shell:
        "python {resources.scripts:q}/preflight.py --rubric {input.rubric:q} --settings {params.settings:q} 2>&1 | tee {log:q}"
