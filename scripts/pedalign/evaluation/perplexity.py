"""Scaffolding against telling: how likely a tutor finds two replies to one history.

Each pair is a conversation whose last two entries are replies of the tutor to the same history: the original, which
scaffolds (in CLASS, actions 1 and 4), and an alternative, which tells (2 and 5). A perplexity is exp of the mean
negative log-probability of a token (arXiv 2402.05000, section 4).
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pedalign.core.errors import UserError
from pedalign.data.conversations import Message, RawConversation, Reader, clean, read_conversations
from pedalign.data.rubric import Rubric
from pedalign.evaluation.statistics import Array, interval, resampled

PAPER_EMPTY = 1e-8  # the published script's token count of a class without replies, which avoids a division by zero
PAPER_NOTE = (
    "evaluate_ppl.py's weighting of the same log-probabilities (its texts and tokens differ, "
    "docs/explanation/perplexity.md): a reply's mean is weighted by its tokens less one, and a label without replies "
    "has 1.0; ours weights by all tokens that were scored, and has null there"
)


@dataclass(frozen=True)
class ReplyPair:
    """Two canonical replies to the history `messages`, and their labels: the first scaffolds, the second tells."""

    id: str
    messages: tuple[Message, ...]
    replies: tuple[str, str]
    labels: tuple[str, str]


@dataclass(frozen=True)
class Likelihood:
    """A reply's natural log-probability, summed over its `tokens` (end token included)."""

    total: float
    tokens: int


def read_reply_pairs(path: Path, reader: Reader) -> tuple[list[ReplyPair], dict[str, int]]:
    """The pairs of a `<dataset>-dataset-ppl.json`, and how many are not usable, by reason.

    Raises UserError if the rubric names no labels that scaffold and tell, a record does not end in two replies to one
    history, or no pair is usable.
    """
    rubric = reader.rubric
    if not rubric.scaffold_field:
        raise UserError(
            f"the rubric {rubric.name} has no 'scaffold_tell' pairs, so no perplexity of scaffolding against telling",
            f"add them to the rubric (see datasets/rubrics/class.yaml), or remove {path}",
        )
    pairs, refused = [], Counter[str]()
    for raw in read_conversations(path, two_endings=True, paper_rules=reader.paper_rules):
        pair = _reply_pair(raw, reader)
        if isinstance(pair, str):
            refused[pair] += 1
        else:
            pairs.append(pair)
    if not pairs:
        raise UserError(
            f"{path}: no usable pair ({', '.join(f'{reason}: {count}' for reason, count in refused.items())})",
            f"the last two replies of a record need the labels {_listed(rubric)} in '{rubric.scaffold_field}'",
        )
    return pairs, dict(sorted(refused.items()))


def _reply_pair(raw: RawConversation, reader: Reader) -> ReplyPair | str:
    """The record's pair, or the reason why it has none."""
    history, cut = clean(RawConversation(raw.id, raw.texts[:-1]), reader)
    last = (len(raw.texts) - 2) // 2
    if cut and cut.turn < last:
        return f"history: {cut.defect}"
    if cut:
        return f"original: {cut.defect}"
    alternative = reader.reply(raw.texts[-1])
    if alternative.defect:
        return f"alternative: {alternative.defect}"
    *messages, original = history.messages
    replies = (original["content"], alternative.text)
    rubric = reader.rubric
    assert rubric.scaffold_field
    scaffold, tell = (rubric.parse(reply).values.get(rubric.scaffold_field, "") for reply in replies)
    if (scaffold, tell) not in rubric.scaffold_tell:
        return f"labels that are not {_listed(rubric)}"
    return ReplyPair(raw.id, tuple(messages), replies, (scaffold, tell))


def _listed(rubric: Rubric) -> str:
    return " or ".join(f"{scaffold} then {tell}" for scaffold, tell in rubric.scaffold_tell)


def perplexities(
    pairs: Sequence[ReplyPair],
    likelihoods: Sequence[tuple[Likelihood, Likelihood]],
    rubric: Rubric,
    resamples: int,
    seed: int,
) -> dict[str, Any]:
    """perplexity.json without the refused pairs: perplexity per label and per group of labels, and how often the
    scaffolding reply is more likely.

    `likelihoods`: of each pair's two replies. A label without replies has the perplexity None.
    """
    sides = [list(dict.fromkeys(side)) for side in zip(*rubric.scaffold_tell, strict=True)]  # scaffolding, telling
    by_label: dict[str, list[Likelihood]] = {label: [] for label in sorted({*sides[0], *sides[1]})}
    for pair, both in zip(pairs, likelihoods, strict=True):
        for label, one in zip(pair.labels, both, strict=True):
            by_label[label].append(one)
    groups = {"+".join(labels): [one for label in labels for one in by_label[label]] for labels in sides}
    scores = {
        "per_token": [tuple(one.total / one.tokens for one in both) for both in likelihoods],
        "in_total": [tuple(one.total for one in both) for both in likelihoods],
    }
    return {
        "pairs": len(pairs),
        "labels": {label: _perplexity(replies) for label, replies in by_label.items()},
        "groups": {name: _perplexity(replies) for name, replies in groups.items()},
        "scaffold_likelier": {name: _share(np.array(one), resamples, seed) for name, one in scores.items()},
        "notes": {"paper_perplexity": PAPER_NOTE},
    }


def _perplexity(replies: Sequence[Likelihood]) -> dict[str, Any]:
    """The perplexity of replies, weighted by tokens; and as the published script computes it.

    That script (evaluate_ppl.py) weights a reply's mean by its tokens less one, although its first token is scored too,
    and gives 1.0 without replies.
    """
    tokens = sum(one.tokens for one in replies)
    paper_tokens = PAPER_EMPTY + sum(one.tokens - 1 for one in replies)
    paper_total = sum(one.total / one.tokens * (one.tokens - 1) for one in replies)
    return {
        "perplexity": round(math.exp(-sum(one.total for one in replies) / tokens), 6) if tokens else None,
        "paper_perplexity": round(math.exp(-paper_total / paper_tokens), 6),
        "replies": len(replies),
        "tokens": tokens,
    }


def _share(scores: Array, resamples: int, seed: int) -> dict[str, Any]:
    """Share of pairs in which the first of two scores (pairs, 2) is larger, with a bootstrap over the pairs."""
    likelier = (scores[:, 0] > scores[:, 1]).astype(float)
    draws = resampled(likelier, resamples, seed) / len(likelier)
    return {"share": round(float(likelier.mean()), 6), "share_ci95": interval(draws)}
