"""Which preset suits a model on this machine: the first whose stages all fit."""

from collections.abc import Mapping
from typing import Any

from pedalign.cluster.estimates import GPU_RESERVE, model_size, stage_memory
from pedalign.cluster.findings import Finding
from pedalign.core.errors import UserError

STAGES = ("sft", "align", "generate")


def preset_finding(
    model: str, presets: Mapping[str, dict[str, Any]], config: Any, gpus: int, card: float | None, memory: float | None
) -> Finding:
    """The first of the `presets` (name → a whole entry) that fits.

    `config`: of transformers. `gpus`: visible ones; `card`: bytes of the smallest; `memory`: bytes of the machine.
    """
    fits = next((name for name, entry in presets.items() if _fits(entry, config, gpus, card, memory)), None)
    if fits is None:
        return Finding("ok", f"{model} preset", f"none of {', '.join(presets)} fits this machine by estimate")
    return Finding("ok", f"{model} preset", f"'{fits}' fits this machine, the first of {', '.join(presets)}")


def _fits(entry: dict[str, Any], config: Any, gpus: int, card: float | None, memory: float | None) -> bool:
    try:
        size = model_size(entry, config)
    except UserError:  # an adapter that this model can't have
        return False
    for stage in STAGES:
        job = entry["resources"][stage]
        asked = job["gpu"]
        if isinstance(asked, str):  # "up to 4"
            asked = min(int(asked.removeprefix("up to ")), gpus)
        needs = stage_memory(size, entry, stage, asked, job.get("nodes", 1))
        if asked > gpus or (asked and card is not None and needs.total + GPU_RESERVE > card):
            return False
        if memory is not None and (needs.node if asked else needs.total) > memory:
            return False
    return True
