"""Baselines of `snakemake benchmark`: common practice, in a few lines each.

They follow the scripts of arXiv 2402.05000 (one prompt at a time; FastChat's training, which pads every dialogue to the
maximum length; DPO with a second model as reference) and the documentation of transformers and TRL.
"""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerFast, Trainer, TrainingArguments
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

from pedalign.generation.common import GenerationSettings
from pedalign.models.prompt_format import Renderer
from pedalign.training.settings import TrainingSettings


def one_at_a_time(
    model: PreTrainedModel, prompts: Sequence[list[int]], end_id: int, settings: GenerationSettings
) -> list[list[int]]:
    """The new ids of each prompt, without the end token."""
    return [_generate(model, [prompt], end_id, settings)[0] for prompt in prompts]


def padded_batches(
    model: PreTrainedModel, prompts: Sequence[list[int]], end_id: int, settings: GenerationSettings, size: int
) -> list[list[int]]:
    """The same, in batches of `size` prompts of similar length, padded on the left."""
    order = sorted(range(len(prompts)), key=lambda at: len(prompts[at]))
    replies: list[list[int]] = [[] for _ in prompts]
    for start in range(0, len(order), size):
        batch = order[start : start + size]
        found = _generate(model, [prompts[at] for at in batch], end_id, settings)
        for at, reply in zip(batch, found, strict=True):
            replies[at] = reply
    return replies


@torch.inference_mode()
def _generate(
    model: PreTrainedModel, prompts: Sequence[list[int]], end_id: int, settings: GenerationSettings
) -> list[list[int]]:
    model.set_attn_implementation("sdpa")
    longest = max(map(len, prompts))
    ids = [[end_id] * (longest - len(prompt)) + prompt for prompt in prompts]
    mask = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    output = model.generate(
        torch.tensor(ids, device=model.device),
        attention_mask=torch.tensor(mask, device=model.device),
        max_new_tokens=settings.max_new_tokens,
        min_new_tokens=settings.min_new_tokens,
        do_sample=False,
        eos_token_id=end_id,
        pad_token_id=end_id,
    )
    replies = output[:, longest:].tolist()
    return [reply[: reply.index(end_id)] if end_id in reply else reply for reply in replies]


def sft_padded(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, rows: list[dict[str, Any]], settings: TrainingSettings
) -> float:
    """Fine-tune by transformers' Trainer on rows (input_ids, labels), all padded to `max_length`. Returns the mean
    loss, as all trainings here do."""

    def pad(values: list[int], filling: int | None) -> list[Any]:
        assert settings.max_length is not None
        return [*values, *[filling] * (settings.max_length - len(values))]

    padded = [
        {
            "input_ids": pad(row["input_ids"], tokenizer.pad_token_id),
            "labels": pad(row["labels"], -100),
            "attention_mask": pad([1] * len(row["input_ids"]), 0),
        }
        for row in rows
    ]
    arguments = TrainingArguments(**_arguments(settings))
    return Trainer(model=model, args=arguments, train_dataset=Dataset.from_list(padded)).train().training_loss


def sft_trl(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, rows: list[dict[str, Any]], settings: TrainingSettings
) -> float:
    """Fine-tune by TRL's SFTTrainer: rows in random order, each batch padded to its longest row."""
    trainer = SFTTrainer(
        model=model,
        args=SFTConfig(**_arguments(settings), max_length=settings.max_length),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
    )
    return trainer.train().training_loss


def preference_pairs(preferences: dict[str, list[Any]]) -> list[dict[str, Any]]:
    """The pairs of preferences.json, as rows of prompt, chosen and rejected."""
    names = ("prompt", "chosen", "rejected")
    return [dict(zip(names, row, strict=True)) for row in zip(*(preferences[name] for name in names), strict=True)]


def pair_tokens(rendering: Renderer, pairs: list[dict[str, Any]]) -> list[tuple[list[int], list[int]]]:
    """Prompt ids and reply ids: of all chosen replies, then of all rejected ones."""
    prompts = [rendering.encode(pair["prompt"])[0] for pair in pairs]
    return [
        (prompt, rendering.reply_ids(pair[side][0]["content"]))
        for side in ("chosen", "rejected")
        for prompt, pair in zip(prompts, pairs, strict=True)
    ]


def align_padded(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    pairs: list[dict[str, Any]],
    beta: float,
    settings: TrainingSettings,
    length: int,
) -> float:
    """DPO with a second model as reference, and every pair (prompt, chosen, rejected) padded to `length`."""
    return _align(model, copy.deepcopy(model), tokenizer, pairs, beta, settings, pad_to_multiple_of=length)


def align_trl(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    pairs: list[dict[str, Any]],
    beta: float,
    settings: TrainingSettings,
) -> float:
    """TRL's DPOTrainer. It loads its reference from the model's files; for a model without files it gets a copy."""
    reference = None if model.name_or_path else copy.deepcopy(model)
    return _align(model, reference, tokenizer, pairs, beta, settings)


def _align(
    model: PreTrainedModel,
    reference: PreTrainedModel | None,
    tokenizer: PreTrainedTokenizerFast,
    pairs: list[dict[str, Any]],
    beta: float,
    settings: TrainingSettings,
    **options: Any,
) -> float:
    trainer = DPOTrainer(
        model=model,
        ref_model=reference,
        args=DPOConfig(**_arguments(settings), beta=beta, max_length=settings.max_length, **options),
        train_dataset=Dataset.from_list(pairs),
        processing_class=tokenizer,
    )
    return trainer.train().training_loss


def _arguments(settings: TrainingSettings) -> dict[str, Any]:
    """Trainer arguments: the libraries' defaults, but our settings for what decides the result, and for bfloat16 and
    checkpointing, which are slow on a CPU."""
    return {
        name: value
        for name, value in settings.trainer_arguments().items()
        if name not in ("max_length", "train_sampling_strategy", "activation_checkpointing")
    } | {"gradient_checkpointing": settings.gradient_checkpointing, "num_train_epochs": settings.epochs}
