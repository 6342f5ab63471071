"""Computes the log-probabilities that a model gives to replies.

They come from the model's whole forward pass, with all that it does to its logits. For speed, replies are computed in
batches, padded at the end. A few replies are first computed alone too; if the two results differ, every reply is
computed alone.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from pedalign.models.checkpoints import batch_tokens

_CACHED = 8192  # tokens at a time on a CPU; more are slower, as their activations do not fit into its caches
_LOGITS = 2**28  # logits at a time, in batches: 1 GB as float32
# Parts of the names of settings that are lengths.
_LENGTHS = ("window", "chunk", "position", "context", "seq_len", "length")

Reply = tuple[Sequence[int], Sequence[int]]  # prompt ids, reply ids


class Scored(NamedTuple):
    """Log-probabilities of replies, and whether they were computed in batches or, as batches were wrong, alone."""

    totals: list[float]
    batched: bool


@torch.no_grad()
def log_probabilities(
    model: PreTrainedModel,
    replies: Sequence[Reply],
    max_batch_tokens: int | None,
    progress: Callable[[int], None] = lambda done: None,
) -> Scored:
    """The natural log-probability of each reply, summed over its tokens.

    A batch has replies of like length, of at most `max_batch_tokens` padded tokens (None: as many as fit), or one
    reply. The softmax is taken in float32. `progress` is called with the number of replies done.
    """
    model.eval()
    model = unwrapped(model)
    batches = _batches(model, replies, max_batch_tokens)
    compared = sorted(_compared(model, replies, batches), key=lambda at: _length(replies[at]))
    alone = {at: log_probabilities_alone(model, *replies[at]) for at in compared}
    totals, done = [0.0] * len(replies), 0
    for batch in batches:
        found = _together(model, [replies[at] for at in batch])
        pairs = [(one, alone[at]) for at, one in zip(batch, found, strict=True) if at in alone] if found else []
        if not found or not all(agree(*pair, model.dtype) for pair in pairs):
            break
        for at, one in zip(batch, found, strict=True):
            totals[at] = float(one.sum())
        done += len(batch)
        progress(done)
    else:
        return Scored(totals, True)
    print(
        f"warning: {type(model).__name__} computes replies in a batch differently from each reply alone: "
        "log-probabilities are computed one by one",
        flush=True,
    )
    for done, (at, reply) in enumerate(sorted(enumerate(replies), key=lambda item: _length(item[1]))):
        totals[at] = float((alone[at] if at in alone else log_probabilities_alone(model, *reply)).sum())
        progress(done + 1)
    return Scored(totals, False)


def log_probabilities_alone(model: PreTrainedModel, prompt: Sequence[int], reply: Sequence[int]) -> torch.Tensor:
    """The log-probability of each token of one reply (tokens), by the model's plain forward pass: the right values."""
    ids = torch.tensor([[*prompt, *reply]], device=model.device)
    forget_lengths(model, ids)
    return _of_tokens(model(input_ids=ids, use_cache=False).logits[0], ids[0], len(prompt))


def forget_lengths(model: Any, ids: torch.Tensor) -> None:
    """Reset rotary embeddings that depend on the longest text seen so far (dynamic NTK), by a text of one token."""
    if "dynamic" in str(getattr(model.config.get_text_config(), "rope_parameters", None)):
        with torch.no_grad():
            model(input_ids=ids[:1, :1], use_cache=False)


def agree(found: torch.Tensor, right: torch.Tensor, dtype: torch.dtype) -> bool:
    """Whether log-probabilities of the same tokens, computed in two ways in `dtype`, differ only by rounding."""
    known = ~(found.isnan() & right.isnan())
    found, right = found[known], right[known]
    if not len(right):
        return True
    off, scale = (found - right).abs(), 1 + right.abs()
    share = tolerance(dtype, right.device)
    exact = share > 1e-4 or bool((off <= 10 * share * scale).all())
    return exact and bool(off.mean() <= share * scale.mean())


def tolerance(dtype: torch.dtype, device: torch.device) -> float:
    """The mean difference of log-probabilities l per token, as a share of 1 + |l|, that rounding can make.

    Float32: 1e-4; on architectures of all kinds, 2e-5 was seen. With fewer bits, a logit is rounded by the share `eps`
    of itself, and it can be several times as large as l; so the limit is 4 `eps`. For bfloat16 that is 0.03; 0.013 was
    seen (SmolLM2-135M, replies in a batch against each alone).
    """
    if dtype != torch.float32:
        return 4 * torch.finfo(dtype).eps
    rounded = device.type == "cuda" and torch.backends.cuda.matmul.allow_tf32
    return 4 * 2**-10 if rounded else 1e-4  # TF32 has ten bits


def unwrapped(model: Any) -> Any:
    """The model itself: without PEFT's wrapper, but with its adapter in place."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def keeps_last_logits(model: Any) -> bool:
    """Whether the model's forward pass can leave out the logits of the first positions."""
    return "logits_to_keep" in inspect.signature(model.forward).parameters


def length_switches(config: Any) -> set[int]:
    """Lengths in tokens at which a model may begin to compute differently: windows, chunks, original positions."""

    def numbers(values: Mapping[str, Any]) -> Iterator[int]:
        for name, value in values.items():
            if isinstance(value, Mapping):
                yield from numbers(value)
            elif isinstance(value, int) and any(part in str(name) for part in _LENGTHS):
                yield value

    return set(numbers(config.to_dict()))


def _length(reply: Reply) -> int:
    return len(reply[0]) + len(reply[1])


def _batches(model: Any, replies: Sequence[Reply], max_batch_tokens: int | None) -> list[list[int]]:
    """The replies, by index and the longest first, in batches that fit."""
    tokens = batch_tokens(model, max_batch_tokens)
    if max_batch_tokens is None and model.device.type == "cpu":
        tokens = min(tokens, _CACHED)
    scored = _LOGITS // model.config.get_text_config().vocab_size  # positions
    keeps = keeps_last_logits(model)
    batches: list[list[int]] = []
    for at in sorted(range(len(replies)), key=lambda at: -_length(replies[at])):
        batch = [*(batches[-1] if batches else []), at]
        longest = _length(replies[batch[0]])
        kept = longest - min(len(replies[one][0]) for one in batch) if keeps else longest
        if len(batch) > 1 and len(batch) * longest <= tokens and len(batch) * kept <= scored:
            batches[-1] = batch
        else:
            batches.append([at])
    return batches


def _compared(model: Any, replies: Sequence[Reply], batches: Sequence[Sequence[int]]) -> set[int]:
    """The replies where a wrong batch would show first, by index: the longest, the shortest, the most padded, and those
    on both sides of each length at which the model may compute differently."""
    if not batches:
        return set()
    order = [at for batch in batches for at in batch]
    padding = {at: _length(replies[batch[0]]) - _length(replies[at]) for batch in batches for at in batch}
    found = {order[0], order[-1], max(order, key=lambda at: padding[at])}
    for switch in length_switches(model.config):
        longer = [at for at in order if _length(replies[at]) > switch]
        if longer and len(longer) < len(order):
            found |= {longer[-1], order[len(longer)]}
    return found


def _together(model: Any, replies: Sequence[Reply]) -> list[torch.Tensor] | None:
    """The log-probability of each token of each reply; None if the model can't compute them in one batch."""
    longest = max(map(_length, replies))
    ids = torch.zeros(len(replies), longest, dtype=torch.long)
    for row, (prompt, reply) in enumerate(replies):
        ids[row, : len(prompt) + len(reply)] = torch.tensor([*prompt, *reply])
    ids = ids.to(model.device)
    options = {}
    if keeps_last_logits(model):
        options["logits_to_keep"] = longest - min(len(prompt) for prompt, _ in replies) + 1
    # Padding comes after the text, where causal attention never looks, so no mask is needed.
    try:
        logits = model(input_ids=ids, use_cache=False, **options).logits
    except torch.OutOfMemoryError:
        raise
    except Exception:  # an architecture that takes no padding can raise anything
        if len(replies) == 1:
            raise
        return None
    return [
        _of_tokens(logits[row], ids[row, : _length(reply)], len(reply[0]), longest) for row, reply in enumerate(replies)
    ]


def _of_tokens(logits: torch.Tensor, ids: torch.Tensor, start: int, longest: int | None = None) -> torch.Tensor:
    """The log-probabilities of `ids` from `start` on; `logits` (positions, vocabulary) are the last of `longest`."""
    first = start - 1 - ((longest or len(ids)) - len(logits))
    return -cross_entropy(logits[first : first + len(ids) - start].float(), ids[start:], reduction="none")
