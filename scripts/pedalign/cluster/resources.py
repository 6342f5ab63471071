"""The resources of a model's jobs: what `resources` in config.yaml asks for, and what a machine has."""

from collections.abc import Iterable
from typing import Any

from pedalign.core.errors import UserError


def gpu_count(entry: dict[str, Any], stage: str, machine: int | None) -> int:
    """GPUs of a stage's job, over all its nodes.

    "up to N" is the largest number up to N that the machine has and that divides the training's batch evenly.
    `machine`: the machine's number of GPUs; None if the job runs elsewhere, then "up to N" is N.
    """
    asked = entry["resources"][stage]["gpu"]
    if isinstance(asked, int):
        return asked
    most = int(asked.removeprefix("up to "))
    if machine is None:
        return most
    training = entry.get(stage) if stage in ("sft", "align") else None
    for count in range(min(most, machine), 0, -1):
        if training is None or training["global_batch_size"] % (training["device_batch_size"] * count) == 0:
            return count
    return 0


def runtime(resources: dict[str, Any], attempt: int) -> int:
    """Minutes of an attempt (from 1): that many times `runtime`, up to `max_runtime`."""
    return min(attempt * resources["runtime"], resources.get("max_runtime", resources["runtime"]))


def check_machine(jobs: Iterable[tuple[str, int, int]], machine: int) -> None:
    """Raises UserError for the first of the `jobs` (name, GPUs, nodes) that a machine with this many GPUs can't run."""
    for name, gpus, nodes in jobs:
        if nodes > 1:
            raise UserError(
                f"{name} asks for {nodes} nodes, and jobs run on this machine",
                "run it on a cluster, snakemake --profile slurm, or leave out 'nodes' in the model's resources",
            )
        if gpus > machine:
            raise UserError(
                f"{name} asks for {gpus} GPUs, this machine has {machine}",
                f"run it on a cluster, snakemake --profile slurm, or set gpu: up to {gpus} in the model's resources",
            )
