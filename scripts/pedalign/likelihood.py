"""How likely a model finds given replies."""

from collections.abc import Sequence

import torch
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel


@torch.inference_mode()
def log_probabilities(
    model: PreTrainedModel, replies: Sequence[tuple[Sequence[int], Sequence[int]]], max_batch_tokens: int
) -> list[float]:
    """The natural log-probability of each reply, summed over its tokens.

    `replies` holds (prompt ids, reply ids); batches are of like length, of at most `max_batch_tokens` padded tokens or
    one reply. Probabilities are taken in float32.
    """
    model.eval()
    if hasattr(model, "get_base_model"):  # PEFT's wrapper: the model with its adapter in place
        model = model.get_base_model()
    order = sorted(range(len(replies)), key=lambda at: -sum(map(len, replies[at])))
    totals = [0.0] * len(replies)
    while order:
        longest = sum(map(len, replies[order[0]]))
        size = max(1, max_batch_tokens // longest)
        batch, order = order[:size], order[size:]
        for at, total in zip(batch, _summed(model, [replies[at] for at in batch], longest), strict=True):
            totals[at] = total
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
    logits = model.get_output_embeddings()(hidden[:, :-1][trained[:, 1:]]).float()
    losses = cross_entropy(logits, ids[trained], reduction="none")
    return [-float(one.sum()) for one in losses.split([len(reply) for _, reply in replies])]
