"""Preference optimization, by TRL's trainers on rows that the renderer made."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerFast, TrainerCallback
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer

from pedalign.core.errors import UserError
from pedalign.core.processes import everywhere
from pedalign.data.conversations import Message
from pedalign.models.limits import PairLength, expect_pairs_fit, model_limits
from pedalign.models.log_probs import tolerance
from pedalign.models.prompt_format import Renderer
from pedalign.training.algorithms import ALGORITHMS, AlignmentSettings
from pedalign.training.loop import expect_all_rows, run_trainer, telling_batches, training_order
from pedalign.training.settings import TrainingSettings
from pedalign.training.shared_prompt import PromptOnce, can_share_prompts
from pedalign.training.single_replies import SIDES, single_replies
from pedalign.training.states import TrainingStates
from pedalign.training.trl_log_probs import ALONE, computing_dtype, fast_head, prove_head


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


class _RenderedRows:
    """For TRL's trainers: rows hold token ids and reference log-probabilities already, so no second template and no
    second computation has a say.

    `shares_prompts`: a pair's prompt is computed once (DPOTrainer). `steadied`: layers that draw at random while they
    train, such as a router's, do not.
    """

    shares_prompts = False
    steadied = False

    def _prepare_dataset(self, dataset, *_, **__):
        return dataset

    def _precompute_ref_logps(self, dataset, *_):
        return dataset

    def _compute_loss(self, model, inputs, return_outputs):
        if self.steadied:
            steady(self.model)
        if self.shares_prompts:
            model = PromptOnce(model)
        return super()._compute_loss(model, inputs, return_outputs)


class _RenderedDPOTrainer(_RenderedRows, DPOTrainer):
    pass


class _RenderedKTOTrainer(_RenderedRows, KTOTrainer):
    pass


def align(
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
    Raises UserError where a pair has more tokens than `max_length` or the model's positions, or the policy's
    log-probabilities before the first step are not the reference model's.
    """
    algorithm = ALGORITHMS[alignment.algorithm]
    arguments = {
        **settings.trainer_arguments(),
        **algorithm.loss(alignment),
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
    if algorithm.rows == "replies":
        most = min((limit for limit in (settings.max_length, positions) if limit is not None), default=None)
        rows = single_replies(model, pair_rows, most, settings)
        padded = [[len(row["prompt_ids"]) + len(row["completion_ids"])] for row in rows]
        order = training_order(len(rows), settings)  # the rows' order is part of the method
        trainer_class, config = _RenderedKTOTrainer, KTOConfig(**arguments)
    else:
        rows = pair_rows
        padded = [[len(row["prompt_ids"]) + len(row[f"{side}_ids"]) for side in SIDES] for row in rows]
        order = training_order(lengths, settings)
        trainer_class, config = _RenderedDPOTrainer, DPOConfig(**arguments)
    trainer = trainer_class(
        model=model,
        args=config,
        train_dataset=Dataset.from_list(rows).select(order),
        processing_class=tokenizer,
    )
    expect_all_rows(len(trainer.train_dataset), len(order))
    telling = telling_batches(padded, order, settings.device_batch_size, model.config)
    proof = prove(trainer, [[rows[at] for at in batch] for batch in telling])
    facts = {"rows": len(rows), "longest_row": max(lengths), **proof}
    return {**facts, **run_trainer(trainer, "align", states, watchers)}


def prove(trainer: Any, batches: Sequence[list[dict[str, Any]]]) -> dict[str, Any]:
    """Choose how this training takes log-probabilities, by a forward pass on some of its batches of rows.

    The facts for the manifest: how, and whether a pair's prompt is computed once.
    Raises UserError where the policy, which is the reference model yet, does not give the reference's.
    """
    made = [trainer.data_collator(batch) for batch in batches]
    forwards = [
        {
            "input_ids": one["input_ids"],
            "attention_mask": one["attention_mask"],
            "labels": one["input_ids"].masked_fill(one["completion_mask"] == 0, -100),
        }
        for one in made
    ]
    without_dropout(trainer.model)
    with fast_head():
        way = prove_head(trainer, forwards)
        facts: dict[str, Any] = {"log_probabilities": way}
        if isinstance(trainer, DPOTrainer):
            facts["prompt_computed_once"] = way != ALONE and can_share_prompts(trainer, forwards)
            trainer.shares_prompts = facts["prompt_computed_once"]
            if not trainer.shares_prompts and trainer.is_world_process_zero():
                print("align: this model computes a pair's prompt for each of its replies", flush=True)
        expected = [
            torch.cat([one[name] for name in ("ref_chosen_logps", "ref_rejected_logps", "ref_logps") if name in one])
            for one in made
        ]
        _expect_reference(trainer, forwards, expected)
    return facts


def _expect_reference(trainer: Any, batches: Sequence[dict[str, Any]], expected: Sequence[torch.Tensor]) -> None:
    """Raises UserError where the policy does not give the replies the `expected` log-probabilities (rows), in the mode
    in which it is trained."""
    for trainer.steadied in (False, True):
        found = [_policy(trainer, batch) for batch in batches]
        worst = max(
            (abs(float(one - other)) / int(tokens), float(one), float(other), int(tokens))
            for batch, of_policy, of_reference in zip(batches, found, expected, strict=True)
            for one, other, tokens in zip(of_policy, of_reference, (batch["labels"] != -100).sum(1), strict=True)
        )
        off, policy, reference, tokens = worst
        share = tolerance(computing_dtype(trainer), trainer.model.device)
        if everywhere(off <= share * (1 + abs(reference) / tokens)):
            return
    raise UserError(
        f"before the first step, the policy gives a reply of {tokens} tokens the log-probability {policy:.3f}, and "
        f"reference.json has {reference:.3f}: the alignment of {type(trainer.model).__name__} would start wrong",
        "if the tutor or the preferences were changed by hand, delete reference.json and run again; else set another "
        "model in config.yaml",
    )


@torch.no_grad()
def _policy(trainer: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """The policy's log-probabilities of the replies (rows), as the trainer computes them."""
    model: Any = trainer.model
    options: dict[str, Any] = {"output_router_logits": True} if trainer.aux_loss_enabled else {}
    batch = {name: one.to(model.device) for name, one in batch.items()}
    devices = [model.device] if model.device.type == "cuda" else []
    model.train()
    if trainer.steadied:
        steady(model)
    with torch.random.fork_rng(devices), trainer.accelerator.autocast():
        computed = PromptOnce(model) if trainer.shares_prompts else model
        return computed(**batch, **options, use_cache=False, fused_lm_head=True).log_probs.sum(1).float().cpu()


def without_dropout(model: Any) -> None:
    """Switch off what is dropped by functions, too: TRL's `disable_dropout` finds modules alone. Else the policy would
    not start as the reference."""
    for module in model.modules():
        for name, value in vars(module).items():
            if "drop" in name and isinstance(value, float):
                setattr(module, name, 0.0)


def steady(model: Any) -> None:
    """Let layers compute as they do when they answer, but for what decides about gradient checkpointing."""
    for module in model.modules():
        if module is not model and not hasattr(module, "gradient_checkpointing"):
            module.training = False


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
