"""Preference optimization, by TRL's trainers on rows that the renderer made."""

import math
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerFast, TrainerCallback
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer

from pedalign.conversation import Message
from pedalign.errors import UserError, nearest
from pedalign.likelihood import log_probabilities
from pedalign.model_limits import PairLength, expect_pairs_fit, model_limits
from pedalign.processes import processes
from pedalign.resuming import TrainingStates
from pedalign.shared_prompt import PromptOnce
from pedalign.template import Renderer
from pedalign.training import TrainingSettings, expect_all_rows, run_trainer, training_order


@dataclass(frozen=True)
class Pair:
    """A preference pair, and the log-probabilities that the reference model gives to its two replies."""

    prompt: Sequence[Message]
    chosen: str
    rejected: str
    reference_chosen: float
    reference_rejected: float
    conversation_id: str = ""
    turn: int = 0


def read_pairs(preferences: dict[str, list[Any]], reference: dict[str, list[Any]]) -> list[Pair]:
    """preferences.json and reference.json as pairs. Raises UserError where they do not belong together."""
    names = ("conversation_id", "turn")
    if any(preferences[name] != reference[name] for name in names):
        raise UserError(
            "reference.json is not of these preference pairs", "delete it and run again: the workflow makes it anew"
        )
    columns = [preferences[name] for name in ("prompt", "chosen", "rejected")]
    places = [preferences[name] for name in names]
    return [
        Pair(prompt, chosen[0]["content"], rejected[0]["content"], *rest)
        for prompt, chosen, rejected, *rest in zip(
            *columns, reference["chosen"], reference["rejected"], *places, strict=True
        )
    ]


@dataclass(frozen=True)
class AlignmentSettings:
    """`beta`: weight of staying near the reference model. `label_noise`: share of pairs that may be the wrong way
    round (cdpo allows for it, the others take every pair at its word)."""

    algorithm: str
    beta: float
    label_noise: float


def _pairwise(loss_type: str) -> Callable[[AlignmentSettings], dict[str, Any]]:
    return lambda settings: {"loss_type": loss_type}


def _conservative(settings: AlignmentSettings) -> dict[str, Any]:
    """TRL ignores label_smoothing for its sigmoid loss, but not for its robust one.

    With P and N the losses of a pair as given and turned round, and noise e: robust R = ((1 - e) P - e N) / (1 - 2e).
    So 2 (1 - e) P - (1 - 2e) R = (1 - e) P + e N, which is wanted.
    """
    noise = settings.label_noise
    return {
        "loss_type": ["sigmoid", "robust"],
        "loss_weights": [2 * (1 - noise), -(1 - 2 * noise)],
        "label_smoothing": noise,
    }


# algorithm → TRL's loss, with the settings that make it exactly what the literature calls by that name
ALGORITHMS: dict[str, Callable[[AlignmentSettings], dict[str, Any]]] = {
    "dpo": _pairwise("sigmoid"),  # arXiv 2305.18290, equation 7
    "ipo": _pairwise("ipo"),  # arXiv 2310.12036, equation 17, on log-probabilities per token
    "rso": _pairwise("hinge"),  # arXiv 2309.06657, the hinge-norm loss
    "cdpo": _conservative,  # "A note on DPO with noisy preferences and relationship to IPO" (Mitchell 2023)
    "kto": _pairwise("kto"),  # arXiv 2402.01306, L_KTO
}


class _RenderedRows:
    """For TRL's trainers: rows hold token ids and reference log-probabilities already, so no second template and no
    second computation has a say."""

    def _prepare_dataset(self, dataset, *_, **__):
        return dataset

    def _precompute_ref_logps(self, dataset, *_):
        return dataset


class _RenderedDPOTrainer(_RenderedRows, DPOTrainer):
    def _compute_loss(self, model, inputs, return_outputs):
        config = self.model.config
        window = getattr(config, "sliding_window", None) or math.inf
        # Where the mask of PromptOnce is understood, and says all that is not seen.
        if config._attn_implementation == "sdpa" and inputs["input_ids"].shape[1] <= window:
            model = PromptOnce(model)
        return super()._compute_loss(model, inputs, return_outputs)


class _RenderedKTOTrainer(_RenderedRows, KTOTrainer):
    pass


def optimize(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    renderer: Renderer,
    pairs: Sequence[Pair],
    alignment: AlignmentSettings,
    settings: TrainingSettings,
    states: TrainingStates | None = None,
    watchers: Iterable[TrainerCallback] = (),
) -> dict[str, Any]:
    """Align `model` in place with preference pairs; the facts for the manifest.

    The reference model is `model` as given: the pairs hold its log-probabilities.
    Raises UserError where the algorithm is not known, or a pair has more tokens than `max_length` or the model's
    positions.
    """
    if alignment.algorithm not in ALGORITHMS:
        raise UserError(f"algorithm '{alignment.algorithm}' is not known", nearest(alignment.algorithm, ALGORITHMS))
    arguments = {
        **settings.trainer_arguments(),
        **ALGORITHMS[alignment.algorithm](alignment),
        "beta": alignment.beta,
        "precompute_ref_log_probs": True,
    }
    pair_rows = [_pair_row(renderer, pair) for pair in pairs]
    lengths = [row.pop("length") for row in pair_rows]
    measured = [
        PairLength(pair.conversation_id, pair.turn, length) for pair, length in zip(pairs, lengths, strict=True)
    ]
    positions = model_limits(model.config).positions
    expect_pairs_fit(measured, settings.max_length, positions)
    trainer_class: Any
    config: Any
    if alignment.algorithm == "kto":
        most = min((limit for limit in (settings.max_length, positions) if limit is not None), default=None)
        rows = _single_rows(model, pair_rows, most, settings)
        order = training_order(len(rows), settings)  # the rows' order is part of the method
        trainer_class, config = _RenderedKTOTrainer, KTOConfig(**arguments)
    else:
        rows = pair_rows
        order = training_order(lengths, settings)
        trainer_class, config = _RenderedDPOTrainer, DPOConfig(**arguments)
    trainer = trainer_class(
        model=model,
        args=config,
        train_dataset=Dataset.from_list(rows).select(order),
        processing_class=tokenizer,
    )
    expect_all_rows(len(trainer.train_dataset), len(order))
    return {"rows": len(rows), "longest_row": max(lengths), **run_trainer(trainer, "optimize", states, watchers)}


def _pair_row(renderer: Renderer, pair: Pair) -> dict[str, Any]:
    ids = renderer.encode(pair.prompt)[0]
    chosen, rejected = renderer.reply_ids(pair.chosen), renderer.reply_ids(pair.rejected)
    return {
        "prompt_ids": ids,
        "chosen_ids": chosen,
        "rejected_ids": rejected,
        "ref_chosen_logps": pair.reference_chosen,
        "ref_rejected_logps": pair.reference_rejected,
        "length": len(ids) + max(len(chosen), len(rejected)),
    }


def _single_rows(
    model: PreTrainedModel, pair_rows: Sequence[dict[str, Any]], most: int | None, settings: TrainingSettings
) -> list[dict[str, Any]]:
    """KTO's rows: each reply of a pair alone, and beside it the reply that the row before it has, of those that all
    devices compute at a time.

    From those mismatched replies KTO estimates how far the policy has moved (arXiv 2402.01306, section 4); so a batch
    must hold two rows or more, and no two of one prompt. The estimate is one over all devices, in TRL: the result
    depends on the number of rows at a time, and on nothing else of how they are spread. A mismatched reply that does
    not fit into `most` tokens behind its prompt is cut.
    """
    size = settings.device_batch_size
    if size < 2:
        raise UserError(
            f"kto needs batches of two replies or more on each device, device_batch_size is {size}",
            "set device_batch_size to 2 or more under 'alignment' in the model's entry of config.yaml",
        )
    rows = []
    for row in pair_rows:
        for side in ("chosen", "rejected"):
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
    for row, total in zip(rows, log_probabilities(model, replies, max_batch_tokens=size * longest), strict=True):
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
                f"kto: {len(members)} prompts are too few for batches of {size} replies of different prompts",
                "lower device_batch_size under 'alignment' in the model's entry of config.yaml",
            )
        order.append(waiting.pop(free))
    return order
