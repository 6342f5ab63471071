"""How likely a model finds given replies."""

from collections.abc import Callable, Sequence

import torch
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from pedalign.models import batch_tokens

_CACHED = 8192  # tokens at a time on a CPU: with more, it is slower, as its caches do not hold their activations
_SCORED = 4096  # positions whose probabilities are taken at a time: a vocabulary wide, they are the most of the memory


@torch.inference_mode()
def log_probabilities(
    model: PreTrainedModel,
    replies: Sequence[tuple[Sequence[int], Sequence[int]]],
    max_batch_tokens: int | None,
    progress: Callable[[int], None] = lambda done: None,
) -> list[float]:
    """The natural log-probability of each reply, summed over its tokens.

    `replies` holds (prompt ids, reply ids); batches are of like length, of at most `max_batch_tokens` padded tokens
    (None: as many as fit) or one reply. Probabilities are taken in float32. `progress` is called with the number of
    replies done.
    """
    model.eval()
    if hasattr(model, "get_base_model"):  # PEFT's wrapper: the model with its adapter in place
        model = model.get_base_model()
    most = batch_tokens(model, max_batch_tokens)
    if max_batch_tokens is None and model.device.type == "cpu":
        most = min(most, _CACHED)
    order = sorted(range(len(replies)), key=lambda at: -sum(map(len, replies[at])))
    totals = [0.0] * len(replies)
    while order:
        longest = sum(map(len, replies[order[0]]))
        size = max(1, most // longest)
        batch, order = order[:size], order[size:]
        for at, total in zip(batch, _summed(model, [replies[at] for at in batch], longest), strict=True):
            totals[at] = total
        progress(len(replies) - len(order))
    return totals


def _summed(
    model: PreTrainedModel, replies: Sequence[tuple[Sequence[int], Sequence[int]]], longest: int
) -> list[float]:
    ids = torch.zeros(len(replies), longest, dtype=torch.long)
    trained = torch.zeros(len(replies), longest, dtype=torch.bool)
    for row, (prompt, reply) in enumerate(replies):
        end = len(prompt) + len(reply)
        ids[row, :end] = torch.tensor([*prompt, *reply])
        trained[row, len(prompt) : end] = True
    ids, trained = ids.to(model.device), trained.to(model.device)
    # Padding stands behind the text, where causal attention never looks; so no mask is needed.
    hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
    parts = zip(hidden[:, :-1][trained[:, 1:]].split(_SCORED), ids[trained].split(_SCORED), strict=True)
    head = model.get_output_embeddings()
    losses = torch.cat([cross_entropy(head(states).float(), tokens, reduction="none") for states, tokens in parts])
    return [-float(one.sum()) for one in losses.split([len(reply) for _, reply in replies])]
