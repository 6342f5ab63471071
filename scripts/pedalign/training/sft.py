"""Supervised fine-tuning on the tutor's turns, by TRL's SFTTrainer on rows that our renderer makes."""

from collections.abc import Iterable, Sequence
from typing import Any

from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerFast, TrainerCallback
from trl import SFTConfig, SFTTrainer

from pedalign.core.errors import UserError
from pedalign.data.conversations import Conversation
from pedalign.models.prompt_format import Renderer
from pedalign.training.loop import expect_all_rows, run_trainer, telling_batches, training_order
from pedalign.training.settings import TrainingSettings, made
from pedalign.training.states import TrainingStates
from pedalign.training.trainer_arguments import check_trainer
from pedalign.training.trl_log_probs import ALONE, apply_kernels, fast_head, prove_head


def sft_rows(
    renderer: Renderer, conversations: Iterable[Conversation], max_length: int | None
) -> list[dict[str, list[int]]]:
    """One row per conversation: `input_ids` and `labels`. Labels are -100 (not trained) outside the replies and their
    end tokens.

    Raises UserError if `max_length` cuts off every reply of a conversation.
    """
    rows = []
    for conversation in conversations:
        ids, trained = renderer.encode(conversation.messages)
        if not any(trained[:max_length]):
            raise UserError(
                f"conversation '{conversation.id}': max_length {max_length} cuts off every reply",
                "raise 'max_length' in the model's entry of config.yaml",
            )
        labels = [token if wanted else -100 for token, wanted in zip(ids, trained, strict=True)]
        rows.append({"input_ids": ids[:max_length], "labels": labels[:max_length]})
    return rows


def train_sft(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    renderer: Renderer,
    conversations: Sequence[Conversation],
    settings: TrainingSettings,
    states: TrainingStates | None = None,
    watchers: Iterable[TrainerCallback] = (),
) -> dict[str, Any]:
    """Fine-tune `model` in place on the tutor's turns; returns the facts for the manifest."""
    check_trainer("SFT", settings.trainer, "sft.trainer")
    config = settings.config(SFTConfig)
    rows = sft_rows(renderer, conversations, settings.max_length)
    lengths = [len(row["input_ids"]) for row in rows]
    order = training_order(lengths, settings)
    trainer = made(
        SFTTrainer,
        model=model,
        args=config,
        train_dataset=Dataset.from_list(rows).select(order),
        processing_class=tokenizer,
    )
    expect_all_rows(len(trainer.train_dataset), len(order))
    settings.expect_optimizer(trainer)
    apply_kernels(trainer)
    telling = telling_batches([[length] for length in lengths], order, settings.device_batch_size, model.config)
    with fast_head():
        way = prove_head(trainer, [trainer.data_collator([rows[at] for at in batch]) for batch in telling])
    if trainer.label_smoother is not None and (way == ALONE or trainer.aux_loss_enabled):
        raise UserError(
            f"label_smoothing_factor: {type(model).__name__} cannot be trained with it: TRL takes the loss from padded "
            "batches, without a mixture's auxiliary loss",
            "leave it out of 'trainer' under 'sft' in the model's entry of config.yaml",
        )
    facts = {
        "rows": len(rows),
        "longest_row": max(lengths),
        "truncated": truncated(renderer, conversations, settings),
        "log_probabilities": way,
    }
    return {**facts, **run_trainer(trainer, "sft", states, watchers)}


def truncated(
    renderer: Renderer, conversations: Iterable[Conversation], settings: TrainingSettings
) -> list[dict[str, Any]]:
    """The conversations that `max_length` cuts, with the number of trained tokens that each loses."""
    found: list[dict[str, Any]] = []
    limit = settings.max_length
    if limit is None:
        return found
    for conversation in conversations:
        ids, trained = renderer.encode(conversation.messages)
        if len(ids) > limit:
            found.append({"id": conversation.id, "tokens": len(ids), "trained_tokens_lost": sum(trained[limit:])})
    return found
