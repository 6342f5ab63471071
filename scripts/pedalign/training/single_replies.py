"""The rows of algorithms that learn from single replies, as KTO does, out of preference pairs."""

import random
from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedModel

from pedalign.core.errors import UserError
from pedalign.core.processes import processes
from pedalign.models.log_probs import log_probabilities
from pedalign.training.algorithms import expect_batch
from pedalign.training.settings import TrainingSettings

SIDES = ("chosen", "rejected")


def single_replies(
    model: PreTrainedModel, pair_rows: Sequence[dict[str, Any]], most: int | None, settings: TrainingSettings
) -> list[dict[str, Any]]:
    """The pairs' replies as rows of their own, and with each a reply that does not belong to its prompt: that of the
    row before it, of those that all devices compute at a time.

    From those mismatched replies KTO estimates how far the policy has moved (arXiv 2402.01306, section 4); so a batch
    must hold two rows or more, and no two of one prompt. The estimate is one over all devices, in TRL: the result
    depends on the number of rows at a time, and on nothing else of how they are spread. A mismatched reply that does
    not fit into `most` tokens behind its prompt is cut.
    """
    expect_batch("kto", size := settings.device_batch_size)
    rows = []
    for row in pair_rows:
        for side in SIDES:
            rows.append(
                {
                    "prompt_ids": row["prompt_ids"],
                    "completion_ids": row[f"{side}_ids"],
                    "label": side == "chosen",
                    "ref_logps": row[f"ref_{side}_logps"],
                }
            )
    at_a_time = size * processes()
    order = spread([str(row["prompt_ids"]) for row in rows], at_a_time, settings.seed)
    rows = [rows[at] for at in order]
    for start in range(0, len(rows), at_a_time):
        batch = rows[start : start + at_a_time]
        for at, row in enumerate(batch):
            room = None if most is None else most - len(row["prompt_ids"])
            row["KL_completion_ids"] = batch[at - 1]["completion_ids"][:room]
    replies = [(row["prompt_ids"], row["KL_completion_ids"]) for row in rows]
    longest = max(sum(map(len, reply)) for reply in replies)
    totals, _ = log_probabilities(model, replies, max_batch_tokens=size * longest)
    for row, total in zip(rows, totals, strict=True):
        row["ref_KL_logps"] = total
    return rows


def spread(prompts: Sequence[str], size: int, seed: int) -> list[int]:
    """An order of the rows, shuffled by `seed`, in which no batch of `size` holds two of one prompt.

    Rows of a prompt are set as far apart as they can be, which keeps both kinds of reply in every part.
    Raises UserError where a prompt has too many rows for that.
    """
    rng = random.Random(seed)
    members: dict[str, list[int]] = {}
    for at, prompt in enumerate(prompts):
        members.setdefault(prompt, []).append(at)
    places = []
    for rows in members.values():
        start = rng.random()
        rng.shuffle(rows)
        places += [((start + number) / len(rows), at) for number, at in enumerate(rows)]
    waiting = [at for _, at in sorted(places)]
    order: list[int] = []
    while waiting:
        batch = {prompts[at] for at in order[len(order) - len(order) % size :]}
        free = next((number for number, at in enumerate(waiting) if prompts[at] not in batch), None)
        if free is None:
            raise UserError(
                f"{len(members)} prompts are too few for batches of {size} replies of different prompts",
                "lower device_batch_size under 'align' in the model's entry of config.yaml",
            )
        order.append(waiting.pop(free))
    return order
