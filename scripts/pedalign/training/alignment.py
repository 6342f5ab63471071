"""Preference optimization: a tutor's rows, its training by TRL, and the proofs before it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerFast, TrainerCallback

from pedalign.core.errors import UserError
from pedalign.core.processes import everywhere
from pedalign.data.conversations import Message
from pedalign.models.limits import PairLength, expect_pairs_fit, model_limits
from pedalign.models.log_probs import tolerance
from pedalign.models.prompt_format import Renderer
from pedalign.training.algorithms import ALGORITHMS, AlignmentSettings, expect_batch
from pedalign.training.loop import expect_all_rows, run_trainer, telling_batches, training_order
from pedalign.training.preference_trainers import TRAINERS, WithReference
from pedalign.training.settings import TrainingSettings, made
from pedalign.training.shared_prompt import can_share_prompts
from pedalign.training.single_replies import SIDES, single_replies
from pedalign.training.states import TrainingStates
from pedalign.training.trainer_arguments import check_trainer
from pedalign.training.trl_log_probs import ALONE, apply_kernels, computing_dtype, fast_head, prove_head


@dataclass(frozen=True)
class Pair:
    """A preference pair, and the log-probabilities that the reference model gives to its two replies, unless the
    algorithm has no reference model."""

    prompt: Sequence[Message]
    chosen: str
    rejected: str
    reference_chosen: float | None
    reference_rejected: float | None
    conversation_id: str = ""
    turn: int = 0


def read_pairs(preferences: dict[str, list[Any]], reference: dict[str, list[Any]] | None) -> list[Pair]:
    """preferences.json and reference.json (if there is one) as pairs. Raises UserError where they do not belong
    together."""
    names = ("conversation_id", "turn")
    if reference is None:
        nothing = [None] * len(preferences["turn"])
        reference = {"chosen": nothing, "rejected": nothing}
    elif any(preferences[name] != reference[name] for name in names):
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

    The reference model, if the algorithm has one, is `model` as given: the pairs hold its log-probabilities.
    Raises UserError where a pair has more tokens than `max_length` or the model's positions, the batches are too small
    for the algorithm, TRL refuses an argument, or the policy's log-probabilities before the first step are not the
    reference model's.
    """
    algorithm = ALGORITHMS[alignment.algorithm]
    check_trainer(algorithm.trainer, settings.trainer, "align.trainer", alignment.algorithm)
    expect_batch(alignment.algorithm, settings.device_batch_size)
    trainer_class, config_class = TRAINERS[algorithm.trainer]
    arguments = {**algorithm.loss(alignment), "beta": alignment.beta}
    if algorithm.uses_reference:
        arguments["precompute_ref_log_probs"] = True
    config = settings.config(config_class, **arguments)
    pair_rows = [_pair_row(renderer, pair) for pair in pairs]
    lengths = [row.pop("length") for row in pair_rows]
    measured = [
        PairLength(pair.conversation_id, pair.turn, length) for pair, length in zip(pairs, lengths, strict=True)
    ]
    positions = model_limits(model.config).positions
    expect_pairs_fit(measured, settings.max_length, positions)
    if algorithm.rows == "replies":
        most = min((limit for limit in (settings.max_length, positions) if limit is not None), default=None)
        rows = single_replies(model, pair_rows, most, settings)
        padded = [[len(row["prompt_ids"]) + len(row["completion_ids"])] for row in rows]
        order = training_order(len(rows), settings)  # the rows' order is part of the method
    else:
        rows = pair_rows
        padded = [[len(row["prompt_ids"]) + len(row[f"{side}_ids"]) for side in SIDES] for row in rows]
        order = training_order(lengths, settings)
    trainer = made(
        trainer_class,
        model=model,
        args=config,
        train_dataset=Dataset.from_list(rows).select(order),
        processing_class=tokenizer,
    )
    expect_all_rows(len(trainer.train_dataset), len(order))
    settings.expect_optimizer(trainer)
    apply_kernels(trainer)
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
            "labels": trainer.labels(one),
        }
        for one in made
    ]
    without_dropout(trainer.model)
    with fast_head():
        way = prove_head(trainer, forwards)
        facts: dict[str, Any] = {"log_probabilities": way}
        if "chosen_ids" in batches[0][0]:
            # NEFTune's noise depends on the length of the row.
            whole = way == ALONE or not trainer.pairs_share_prompts or trainer.neftune_noise_alpha is not None
            trainer.shares_prompts = facts["prompt_computed_once"] = not whole and can_share_prompts(trainer, forwards)
            if not trainer.shares_prompts and trainer.is_world_process_zero():
                print("align: this training computes a pair's prompt for each of its replies", flush=True)
        if isinstance(trainer, WithReference):
            names = ("ref_chosen_logps", "ref_rejected_logps", "ref_logps")
            expected = [torch.cat([one[name] for name in names if name in one]) for one in made]
            _expect_reference(trainer, forwards, expected)
        else:
            _expect_steady(trainer, forwards)
    return facts


def _expect_reference(trainer: Any, batches: Sequence[dict[str, Any]], expected: Sequence[torch.Tensor]) -> None:
    """Raises UserError where the policy does not give the replies the `expected` log-probabilities (rows), in the mode
    in which it is trained."""
    off, policy, reference, tokens = _difference(trainer, batches, expected)
    if off:
        raise UserError(
            f"before the first step, the policy gives a reply of {tokens} tokens the log-probability {policy:.3f}, and "
            f"reference.json has {reference:.3f}: the alignment of {type(trainer.model).__name__} would start wrong",
            "if the tutor or the preferences were changed by hand, delete reference.json and run again; else set "
            "another model in config.yaml",
        )


def _expect_steady(trainer: Any, batches: Sequence[dict[str, Any]]) -> None:
    """Raises UserError where the policy computes differently when it is trained than when it answers."""
    answering = [_policy(trainer, batch, training=False) for batch in batches]
    off, policy, other, tokens = _difference(trainer, batches, answering)
    if off:
        raise UserError(
            f"{type(trainer.model).__name__} gives a reply of {tokens} tokens the log-probability {policy:.3f} when it "
            f"is trained, and {other:.3f} when it answers",
            "set another model in config.yaml",
        )


def _difference(
    trainer: Any, batches: Sequence[dict[str, Any]], expected: Sequence[torch.Tensor]
) -> tuple[bool, float, float, int]:
    """Whether the policy's log-probabilities are not the `expected` ones, and the worst: found, expected, tokens.

    Layers that draw at random while they train are steadied if that helps.
    """
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
            return False, policy, reference, tokens
    return True, policy, reference, tokens


@torch.no_grad()
def _policy(trainer: Any, batch: dict[str, torch.Tensor], training: bool = True) -> torch.Tensor:
    """The policy's log-probabilities of the replies (rows), as the trainer computes them."""
    model: Any = trainer.model
    options: dict[str, Any] = {"output_router_logits": True} if trainer.aux_loss_enabled else {}
    batch = {name: one.to(model.device) for name, one in batch.items()}
    devices = [model.device] if model.device.type == "cuda" else []
    model.train(training)
    with torch.random.fork_rng(devices), trainer.accelerator.autocast():
        outputs = trainer.computing(model)(**batch, **options, use_cache=False, fused_lm_head=True)
        return outputs.log_probs.sum(1).float().cpu()


def without_dropout(model: Any) -> None:
    """Switch off what is dropped by functions, too: TRL's `disable_dropout` finds modules alone. Else the policy would
    not start as the reference."""
    for module in model.modules():
        for name, value in vars(module).items():
            if "drop" in name and isinstance(value, float):
                setattr(module, name, 0.0)


def _pair_row(renderer: Renderer, pair: Pair) -> dict[str, Any]:
    ids = renderer.encode(pair.prompt)[0]
    chosen, rejected = renderer.reply_ids(pair.chosen), renderer.reply_ids(pair.rejected)
    row = {
        "prompt_ids": ids,
        "chosen_ids": chosen,
        "rejected_ids": rejected,
        "length": len(ids) + max(len(chosen), len(rejected)),
    }
    if pair.reference_chosen is not None:
        row |= {"ref_chosen_logps": pair.reference_chosen, "ref_rejected_logps": pair.reference_rejected}
    return row
