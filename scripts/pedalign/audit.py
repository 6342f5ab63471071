"""The token audit: what a model will be trained on, counted before the hours are spent."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from pedalign.conversation import Conversation
from pedalign.errors import UserError
from pedalign.template import Renderer


@dataclass(frozen=True)
class AuditSettings:
    template: str
    instruction: str
    max_length: int
    allow_truncation: bool
    trained_share: list[float]  # least and most


def audit(conversations: Iterable[Conversation], renderer: Renderer, settings: AuditSettings) -> dict[str, Any]:
    """Token lengths, share of trained tokens, and what `max_length` would cut.

    Raises UserError where a conversation would be cut and the settings do not allow it, or the share is none of a
    conversation between two.
    """
    limit = settings.max_length
    lengths, n_trained = [], 0
    cut: list[dict[str, Any]] = []
    for conversation in conversations:
        ids, trained = renderer.encode(conversation.messages)
        lengths.append(len(ids))
        n_trained += sum(trained)
        if len(ids) > limit:
            lost = sum(trained[limit:])
            cut.append({"id": conversation.id, "tokens": len(ids), "trained_tokens_lost": lost})
    lengths.sort()
    if cut and not settings.allow_truncation:
        raise UserError(
            f"{len(cut)} of {len(lengths)} SFT conversations exceed max_length {limit} "
            f"(longest: {lengths[-1]} tokens, id '{max(cut, key=lambda one: one['tokens'])['id']}')",
            f"set the model's max_length to {lengths[-1]} or more, or allow_truncation: true, in config.yaml",
        )
    least, most = settings.trained_share
    share = n_trained / sum(lengths)
    if not least <= share <= most:
        raise UserError(
            f"{share:.1%} of the SFT split's tokens would be trained (the replies), not {least:.1%} to {most:.1%}",
            "look at the conversations and the model's template; or change 'checks: trained_share' in config.yaml",
        )
    last = len(lengths) - 1
    return {
        "conversations": len(lengths),
        "tokens": {
            "total": sum(lengths),
            "mean": round(sum(lengths) / len(lengths), 2),
            **{
                name: lengths[round(share * last)]
                for name, share in (("min", 0), ("median", 0.5), ("p95", 0.95), ("max", 1))
            },
        },
        "trained_share": round(share, 6),
        "max_length": limit,
        "truncated": cut,
    }
