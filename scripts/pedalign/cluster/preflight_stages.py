"""Cheap parts of the stages, run before anything starts: draw the splits, count their tokens, compare them with the
model's limits, and compute a few tokens."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from pedalign.cluster.findings import Finding, problem
from pedalign.core.errors import UserError
from pedalign.data.conversations import Conversation, turn_reader
from pedalign.data.rubric import Rubric
from pedalign.data.splits import SplitSettings, draw
from pedalign.evaluation.perplexity import read_reply_pairs
from pedalign.generation.engines import engine_for
from pedalign.models.checkpoints import free_memory
from pedalign.models.length_limits import LengthSettings, expect_lengths_fit, length_warnings
from pedalign.models.limits import ModelLimits, expect_positions
from pedalign.models.prompt_format import Renderer
from pedalign.models.scratch import scratch_model, scratch_tokenizer
from pedalign.training.audit import audit

MOST_DATA = 200 * 10**6  # bytes of conversation files to read; each ten million take some seconds
MOST_WEIGHTS = 4 * 10**9  # bytes of weights to load, and at most half of the free memory
MOST_PROVED = 50 * 10**6  # parameters of a model whose engine is tried on long conversations too
_FEW = 16  # tokens to compute

Splits = Mapping[str, Sequence[Conversation]]


@dataclass(frozen=True)
class DataSettings:
    """`files`: the conversation files; `perplexity`: the file of perplexity pairs, if there is one; `splits`:
    SplitSettings."""

    files: list[str]
    perplexity: str | None
    splits: dict[str, Any]


def draw_splits(data: DataSettings, rubric: Rubric) -> tuple[Splits | None, list[Finding]]:
    """The splits as the first stage draws them, None if they can't be drawn here; and the findings about them."""
    missing = [file for file in data.files if not Path(file).is_file()]
    if missing:
        words = f"{missing[0]} is not there yet; a first job makes or downloads it, and the splits are drawn from it"
        return None, [Finding("unknown", "splits", words)]
    size = sum(Path(file).stat().st_size for file in data.files)
    if size > MOST_DATA:
        words = f"not drawn here, as the files have {size / 1e9:.1f} GB: snakemake --cores 1 split draws them"
        return None, [Finding("unknown", "splits", words)]
    try:
        splits, report = draw([Path(file) for file in data.files], rubric, SplitSettings(**data.splits))
    except UserError as error:
        return None, [problem("splits", error)]
    drawn = ", ".join(f"{name} {found['conversations']:,}" for name, found in report["splits"].items())
    findings = [Finding("ok", "splits", f"conversations: {drawn}; cut before a reply: {len(report['cut']):,}")]
    return splits, findings + [
        Finding("warning", "splits", words, "look at the conversation files, or change 'split' in config.yaml")
        for words in report.get("warnings", [])
    ]


def scratch_model_of(
    entry: Mapping[str, Any], splits: Splits, instruction: str, seed: int
) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """The model with random weights and its tokenizer, as the stage `base` makes them."""
    tokenizer = scratch_tokenizer(splits["sft"], entry["template"], instruction, entry["vocab_size"])
    return scratch_model(entry["architecture"], tokenizer, seed), tokenizer


def length_findings(
    about: str, splits: Splits, rendering: Renderer, limits: ModelLimits, settings: LengthSettings
) -> Iterator[Finding]:
    """Findings of the audit: lengths of texts and token ids, compared with limits of the model and the settings."""
    try:
        report = audit(splits, rendering, limits)
        expect_lengths_fit(report, settings)
    except UserError as error:
        yield problem(about, error)
        return
    longest = report["texts"]["sft"]["longest"] if settings.fine_tuned else None
    prompt = max(found["longest"] for found in report["prompts"].values())
    words = f"SFT conversations of up to {longest:,} tokens, " if longest else ""
    words += f"prompts of up to {prompt:,} with room for {settings.max_new_tokens:,} new ones"
    words += f"; the model takes {limits.positions:,}" if limits.positions else "; the model takes any number"
    words += f", and looks {limits.window:,} back in layers with a window" if limits.window else ""
    yield Finding("ok", about, words)
    for warning in length_warnings(report, settings):
        yield Finding("warning", about, warning, "change the setting in the model's entry of config.yaml")


def perplexity_findings(
    about: str, data: DataSettings, rubric: Rubric, rendering: Renderer, limits: ModelLimits
) -> Iterator[Finding]:
    """Whether the perplexity pairs can be read and are short enough for the model."""
    if data.perplexity is None or not Path(data.perplexity).is_file():
        return
    try:
        pairs, refused = read_reply_pairs(Path(data.perplexity), turn_reader(rubric, data.splits["paper_rules"]))
        lengths = [
            (len(rendering.encode(pair.messages)[0]) + len(rendering.reply_ids(reply)), f"perplexity pair '{pair.id}'")
            for pair in pairs
            for reply in pair.replies
        ]
        expect_positions(limits, lengths)
    except UserError as error:
        yield problem(about, error)
        return
    longest = max(tokens for tokens, _ in lengths)
    yield Finding("ok", about, f"{len(pairs):,} usable, {sum(refused.values()):,} not; up to {longest:,} tokens")


def can_load(weights: float) -> bool:
    """Whether a model with weights of this many bytes is small enough to load for a check."""
    return weights <= min(MOST_WEIGHTS, free_memory(torch.device("cpu")) / 2)


def engine_in_words(
    model: PreTrainedModel, rendering: Renderer, conversations: Sequence[Conversation], engine: str
) -> str:
    """The engine that will answer. Raises UserError if none can, or if the requested one can't."""
    small = model.num_parameters() <= MOST_PROVED
    tried = conversations if small else [min(conversations, key=lambda one: (len(one.messages), one.id))]
    found = str(engine_for(model, rendering, tried, engine)).removeprefix("engine: ")
    return found if small else f"{found}; tried on one short conversation, the fine-tuning tries longer ones"


@torch.inference_mode()
def forward_in_words(model: PreTrainedModel, ids: Sequence[int]) -> str:
    """Compute a few tokens. Raises UserError if that fails or gives nan or infinity."""
    ids = list(ids[:_FEW])
    kind = model.config.model_type
    try:
        logits = model.eval()(input_ids=torch.tensor([ids], device=model.device), use_cache=False).logits
    except Exception as error:  # a model's code may raise anything
        what = (str(error).splitlines() or [""])[0]
        raise UserError(
            f"the forward pass of this {kind} model fails: {type(error).__name__}: {what}",
            "check that configuration, weights and tokenizer are of one checkpoint",
        ) from None
    if not logits.isfinite().all():
        raise UserError(
            f"the forward pass of this {kind} model gives nan or infinite numbers",
            "check the weights and 'dtype' in the model's entry of config.yaml",
        )
    return f"{len(ids)} tokens computed"
