"""How likely a model finds given replies.

The figures are the model's own: its whole forward pass, with all that it does to its logits. To be fast, replies are
computed in batches, padded at the end. A few of them are computed alone too, before the others; where the two differ,
the model computes every reply alone.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from pedalign.models.checkpoints import batch_tokens

_CACHED = 8192  # tokens at a time on a CPU: with more, it is slower, as its caches do not hold their activations
_LOGITS = 2**28  # at a time, in batches: 1 GB as float32
_LENGTHS = ("window", "chunk", "position", "context", "seq_len", "length")  # parts of names of settings

Reply = tuple[Sequence[int], Sequence[int]]  # prompt ids, reply ids


class Scored(NamedTuple):
    """Log-probabilities of replies, and whether they were computed in batches or, where batches are wrong, alone."""

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

    `replies` holds (prompt ids, reply ids); batches are of like length, of at most `max_batch_tokens` padded tokens
    (None: as many as fit) or one reply. Probabilities are taken in float32. `progress` is called with the number of
    replies done.
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
        f"warning: {type(model).__name__} computes a batch of replies otherwise than each of them alone: "
        "log-probabilities are computed one by one",
        flush=True,
    )
    for done, (at, reply) in enumerate(sorted(enumerate(replies), key=lambda item: _length(item[1]))):
        totals[at] = float((alone[at] if at in alone else log_probabilities_alone(model, *reply)).sum())
        progress(done + 1)
    return Scored(totals, False)


def log_probabilities_alone(model: PreTrainedModel, prompt: Sequence[int], reply: Sequence[int]) -> torch.Tensor:
    """The log-probability of each token of one reply (tokens), by the model's plain forward pass: what is right."""
    ids = torch.tensor([[*prompt, *reply]], device=model.device)
    forget_lengths(model, ids)
    return _of_tokens(model(input_ids=ids, use_cache=False).logits[0], ids[0], len(prompt))


def forget_lengths(model: Any, ids: torch.Tensor) -> None:
    """Let rotary embeddings that grow with the longest text seen so far (dynamic NTK) start anew, as for a model just
    loaded: a text of one token does so."""
    if "dynamic" in str(getattr(model.config.get_text_config(), "rope_parameters", None)):
        with torch.no_grad():
            model(input_ids=ids[:1, :1], use_cache=False)


def agree(found: torch.Tensor, right: torch.Tensor, dtype: torch.dtype) -> bool:
    """Whether log-probabilities of the same tokens, computed in two ways in `dtype`, differ by rounding alone."""
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

    Float32: 1e-4; on architectures of all kinds 2e-5 was seen. Numbers of fewer bits are rounded to the share `eps`,
    and so is a logit, which can be several times as large as l; 4 `eps` is 0.03 for bfloat16, of which 0.013 was seen
    (SmolLM2-135M, replies in a batch against each alone).
    """
    if dtype != torch.float32:
        return 4 * torch.finfo(dtype).eps
    rounded = device.type == "cuda" and torch.backends.cuda.matmul.allow_tf32
    return 4 * 2**-10 if rounded else 1e-4  # TF32 has ten bits


def unwrapped(model: Any) -> Any:
    """The model itself: of PEFT's wrapper, that with its adapter in place."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def keeps_last_logits(model: Any) -> bool:
    """Whether the model's forward pass can leave out the logits of the first positions."""
    return "logits_to_keep" in inspect.signature(model.forward).parameters


def length_switches(config: Any) -> set[int]:
    """Numbers of tokens from which on a model may compute otherwise: windows, chunks, lengths of rotary embeddings."""

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
    """The replies by number, the longest first, in batches that fit."""
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
    """The replies in which batches would go wrong first: the longest, the shortest, the most padded, and those on both
    sides of each length at which the model may change."""
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
    """The log-probability of each token of each reply; None where the model can't compute them in one batch."""
    longest = max(map(_length, replies))
    ids = torch.zeros(len(replies), longest, dtype=torch.long)
    for row, (prompt, reply) in enumerate(replies):
        ids[row, : len(prompt) + len(reply)] = torch.tensor([*prompt, *reply])
    ids = ids.to(model.device)
    options = {}
    if keeps_last_logits(model):
        options["logits_to_keep"] = longest - min(len(prompt) for prompt, _ in replies) + 1
    # Padding stands behind the text, where causal attention never looks; so no mask is needed.
    try:
        logits = model(input_ids=ids, use_cache=False, **options).logits
    except torch.OutOfMemoryError:
        raise
    except Exception:  # whatever an architecture raises where it takes no padding
        if len(replies) == 1:
            raise
        return None
    return [
        _of_tokens(logits[row], ids[row, : _length(reply)], len(reply[0]), longest) for row, reply in enumerate(replies)
    ]


def _of_tokens(logits: torch.Tensor, ids: torch.Tensor, start: int, longest: int | None = None) -> torch.Tensor:
    """The log-probabilities of `ids` from `start` on, by `logits` (last positions of `longest`, vocabulary)."""
    first = start - 1 - ((longest or len(ids)) - len(logits))
    return -cross_entropy(logits[first : first + len(ids) - start].float(), ids[start:], reduction="none")
