"""The plain engine: transformers' own `generate`, in padded batches or one prompt at a time, for every causal model."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, PreTrainedModel

from pedalign.core.errors import UserError
from pedalign.generation.common import Completion, GenerationSettings, History, Row, TokenChooser, rows_of
from pedalign.models.checkpoints import batch_tokens
from pedalign.models.log_probs import forget_lengths


class _Chosen(LogitsProcessor):
    """Masks all tokens of a row but the one that the chooser takes, so that `generate` takes it."""

    def __init__(self, chooser: TokenChooser) -> None:
        self.chooser, self.step = chooser, 0

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        active = torch.arange(len(scores), device=scores.device)
        tokens = self.chooser.choose(scores.clone(), active, self.step)
        self.step += 1
        return torch.full_like(scores, float("-inf")).scatter_(1, tokens[:, None], 0.0)


@torch.inference_mode()
def generate(
    model: PreTrainedModel,
    histories: Sequence[History],
    end_id: int,
    settings: GenerationSettings,
    progress: Callable[[int], None] = lambda done: None,
    selection: Sequence[Sequence[int]] | None = None,
    chooser: type[TokenChooser] = TokenChooser,
    padded: bool = True,
) -> list[list[Completion]]:
    """A completion for every prompt of every history, in their order; arguments as `shared_prefix_engine.generate`.

    `padded`: prompts of like length share a batch of at most `max_batch_tokens` tokens, replies included; else each
    prompt is answered alone.
    """
    model.eval()
    most = batch_tokens(model, settings.max_batch_tokens) if padded else 0
    completions: dict[Row, Completion] = {}
    chosen = [range(len(histories))] if selection is None else selection
    for batch in chosen:
        waiting = sorted(rows_of(histories, batch), key=lambda row: (-histories[row[0]].prompt_lengths[row[1]], row))
        while waiting:
            longest = histories[waiting[0][0]].prompt_lengths[waiting[0][1]]
            size = max(1, most // (longest + settings.max_new_tokens))
            rows, waiting = waiting[:size], waiting[size:]
            for part in _as_memory_allows(model, histories, rows, end_id, settings, chooser):
                completions |= part
                progress(len(completions))
    return [
        [completions[at, turn] for turn in range(len(history.prompt_lengths))] if (at, 0) in completions else []
        for at, history in enumerate(histories)
    ]


def _as_memory_allows(
    model: PreTrainedModel, histories: Sequence[History], rows: Sequence[Row], *how: Any
) -> list[dict[Row, Completion]]:
    """The rows' completions. If memory does not suffice, the rows are answered in two halves, and so on."""
    try:
        return [_answer(model, histories, rows, *how)]
    except torch.OutOfMemoryError:
        if len(rows) == 1:
            at, turn = rows[0]
            raise UserError(
                f"the GPU's memory does not suffice for one prompt of {histories[at].prompt_lengths[turn]} tokens and "
                "its reply",
                "lower 'max_new_tokens', or take a GPU with more memory",
            ) from None
    torch.cuda.empty_cache()  # outside of `except`, where the error keeps tensors alive
    half = len(rows) // 2
    print(f"out of memory with {len(rows)} prompts at a time: trying {half}", flush=True)
    return [
        *_as_memory_allows(model, histories, rows[:half], *how),
        *_as_memory_allows(model, histories, rows[half:], *how),
    ]


def _answer(
    model: PreTrainedModel,
    histories: Sequence[History],
    rows: Sequence[Row],
    end_id: int,
    settings: GenerationSettings,
    chooser: type[TokenChooser],
) -> dict[Row, Completion]:
    prompts = [histories[at].ids[: histories[at].prompt_lengths[turn]] for at, turn in rows]
    longest = max(map(len, prompts))
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    mask = torch.zeros(len(rows), longest, dtype=torch.long)
    for at, prompt in enumerate(prompts):
        ids[at, longest - len(prompt) :] = torch.tensor(prompt)
        mask[at, longest - len(prompt) :] = 1
    if len(rows) == 1:
        forget_lengths(model, ids[:, -1:].to(model.device))
    # A checkpoint's own settings (temperature, penalty, forbidden tokens) are for other replies.
    own, model.generation_config = model.generation_config, GenerationConfig()
    try:
        output = model.generate(
            ids.to(model.device),
            attention_mask=mask.to(model.device),
            generation_config=GenerationConfig(
                max_new_tokens=settings.max_new_tokens,
                do_sample=False,
                use_cache=True,
                eos_token_id=end_id if end_id >= 0 else None,
                pad_token_id=0,
            ),
            logits_processor=LogitsProcessorList([_Chosen(chooser(histories, rows, settings, end_id, model.device))]),
        )
    finally:
        model.generation_config = own
    found = {}
    for row, written in zip(rows, output[:, longest:].tolist(), strict=True):
        stopped = end_id in written
        kept = written[: written.index(end_id)] if stopped else written
        found[row] = Completion(kept, "stop" if stopped else "length")
    return found
