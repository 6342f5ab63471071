"""Counts the tokens of all texts with which a model will be trained and prompted, before any training."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from pedalign.data.conversations import Conversation
from pedalign.models.limits import ModelLimits, expect_token
from pedalign.models.prompt_format import Renderer


@dataclass(frozen=True)
class _Turn:
    """A tutor's turn: the tokens of its prompt and of its gold reply, the end token included."""

    prompt: int
    reply: int
    place: str


@dataclass
class _Counts:
    """Counts of a split: tokens and place of each conversation, its tutor turns, and the number of trained tokens."""

    conversations: list[tuple[int, str]] = field(default_factory=list)
    turns: list[_Turn] = field(default_factory=list)
    trained: int = 0


def audit(splits: Mapping[str, Iterable[Conversation]], renderer: Renderer, limits: ModelLimits) -> dict[str, Any]:
    """audit.json of the splits "sft", "dpo" and "test": lengths in tokens, with the place of the longest text, and the
    share of the SFT split's tokens that are trained. `length_limits` compares them with the settings.

    In the DPO and test splits, conversations of one turn count for the gold replies alone: no tutor answers them.
    Raises UserError if the model has no embedding for a token of the splits, the end token or the padding token.
    """
    tokenizer: Any = renderer.tokenizer
    expect_token(limits, renderer.end_id, f"the end token '{renderer.template.end}'")
    if tokenizer.pad_token_id is not None:
        expect_token(limits, tokenizer.pad_token_id, f"the padding token '{tokenizer.pad_token}'")
    gold: list[_Turn] = []
    counts = {name: _count(name, given, renderer, limits, gold) for name, given in splits.items()}
    lengths = sorted(tokens for tokens, _ in counts["sft"].conversations)
    longest = max(gold, key=lambda turn: turn.reply)
    return {
        "conversations": len(lengths),
        "tokens": {"total": sum(lengths), "mean": round(sum(lengths) / len(lengths), 2), **_spread(lengths)},
        "trained_share": round(counts["sft"].trained / sum(lengths), 6),
        "texts": {name: _longest(found.conversations) for name, found in counts.items()},
        "prompts": {
            name: _longest([(turn.prompt, turn.place) for turn in counts[name].turns]) for name in ("dpo", "test")
        },
        "gold_replies": {
            "replies": len(gold),
            "longest": longest.reply,
            "longest_at": longest.place,
            "lengths": {str(tokens): count for tokens, count in sorted(Counter(turn.reply for turn in gold).items())},
        },
        "tokenizer": {"tokens": len(tokenizer)},
        "model": vars(limits),
    }


def _count(
    split: str, conversations: Iterable[Conversation], renderer: Renderer, limits: ModelLimits, gold: list[_Turn]
) -> _Counts:
    counts = _Counts()
    for conversation in conversations:
        ids, trained = renderer.encode(conversation.messages)
        name = f"{split} conversation '{conversation.id}'"
        turns = list(_turns(trained, name))
        if max(ids) >= limits.embeddings:
            at = next(at for at, token in enumerate(ids) if token >= limits.embeddings)
            turn = sum(one.prompt + one.reply <= at for one in turns)
            expect_token(limits, ids[at], f"a token of {name}, turn {turn},")
        gold += turns
        if split == "sft" or len(turns) > 1:  # as in the formatted splits
            counts.conversations.append((len(ids), turns[-1].place))
            counts.turns += turns
        counts.trained += sum(trained)
    return counts


def _turns(trained: Sequence[bool], name: str) -> Iterator[_Turn]:
    """The tutor's turns: runs of trained tokens, separated by tokens of the template."""
    bounds = [at for at, (one, other) in enumerate(pairwise((False, *trained, False))) if one != other]
    for turn, (start, end) in enumerate(zip(bounds[::2], bounds[1::2], strict=True)):
        yield _Turn(start, end - start, f"{name}, turn {turn}")


def _spread(lengths: Sequence[int]) -> dict[str, int]:
    """Least, median, 95th percentile and greatest of sorted lengths."""
    shares = (("min", 0.0), ("median", 0.5), ("p95", 0.95), ("max", 1.0))
    return {name: lengths[round(share * (len(lengths) - 1))] for name, share in shares}


def _longest(texts: Sequence[tuple[int, str]]) -> dict[str, Any]:
    tokens, place = max(texts, key=lambda text: text[0], default=(0, None))
    return {"number": len(texts), "longest": tokens, "longest_at": place}
