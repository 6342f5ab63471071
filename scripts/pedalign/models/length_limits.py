"""Checks the lengths that an audit counted against the settings and the model, before a text fails or is cut.

This is separate from the counting, so that a change of limits in config.yaml makes no audit, and so no training, stale.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pedalign.core.errors import UserError


@dataclass(frozen=True)
class LengthSettings:
    """The settings to check against.

    `max_length` (None: no limit), `allow_truncation` and `max_new_tokens` are as in config.yaml. `trained_share`: least
    and most share of trained tokens. `fine_tuned`: whether the model is trained on the SFT split. `pairs`: whether the
    DPO split's prompts become its preference pairs.
    """

    max_length: int | None
    allow_truncation: bool
    max_new_tokens: int
    trained_share: list[float]
    fine_tuned: bool
    pairs: bool


@dataclass(frozen=True)
class _Text:
    """A text that a model takes at once: its number of tokens, and what it is."""

    tokens: int
    what: str


def expect_lengths_fit(audit: Mapping[str, Any], settings: LengthSettings) -> None:
    """Raise UserError, with the longest text and the number to set, if a later stage would fail.

    That is: a text beyond the model's positions, an SFT conversation beyond `max_length` that must not be cut, a
    preference pair beyond `max_length`, or a share of trained tokens out of its bounds.
    """
    _expect_positions(audit, settings)
    _expect_max_length(audit, settings)
    share, (least, most) = audit["trained_share"], settings.trained_share
    if settings.fine_tuned and not least <= share <= most:
        raise UserError(
            f"{share:.1%} of the SFT split's tokens would be trained (the replies), not {least:.1%} to {most:.1%}",
            "look at the conversations and the model's template; or change 'checks: trained_share' in config.yaml",
        )


def _conversation(audit: Mapping[str, Any], split: str) -> _Text:
    found = audit["texts"][split]
    return _Text(found["longest"], found["longest_at"])


def _answered(audit: Mapping[str, Any], split: str, tokens: int) -> _Text:
    """The longest prompt of a split, with a reply of `tokens` tokens."""
    found = audit["prompts"][split]
    what = f"{found['longest_at']}: a prompt of {found['longest']} with a reply of {tokens}"
    return _Text(found["longest"] + tokens, what)


def _longest_pair(audit: Mapping[str, Any], settings: LengthSettings) -> _Text:
    """The longest possible pair: with a gold reply, or with a reply cut off at max_new_tokens and its end token."""
    cut_off = _answered(audit, "dpo", settings.max_new_tokens + 1)
    return max(cut_off, _conversation(audit, "dpo"), key=lambda text: text.tokens)


def _expect_positions(audit: Mapping[str, Any], settings: LengthSettings) -> None:
    positions = audit["model"]["positions"]
    if positions is None:
        return
    texts = [_conversation(audit, split) for split in ("dpo", "test")]
    if settings.fine_tuned:
        text, limit = _conversation(audit, "sft"), settings.max_length
        if settings.allow_truncation and limit is not None and text.tokens > limit:
            text = _Text(limit, f"{text.what}, cut at max_length")
        texts.append(text)
    answered = [_answered(audit, split, settings.max_new_tokens) for split in ("dpo", "test")]
    answered += [_longest_pair(audit, settings)] if settings.pairs else []
    needed = max(text.tokens for text in (*texts, *answered))
    new = settings.max_new_tokens - needed + positions
    for kind, found, remedy in (
        ("conversations", texts, "leave out the longer conversations"),
        (
            f"prompts with a reply of max_new_tokens ({settings.max_new_tokens})",
            answered,
            f"set the model's generate: max_new_tokens to {new} in config.yaml",
        ),
    ):
        longest = max(found, key=lambda text: text.tokens)
        if longest.tokens > positions:
            raise UserError(
                f"{kind} have more tokens than the model has positions, {positions} (longest: {longest.tokens} tokens, "
                f"{longest.what})",
                f"choose a model with {needed} positions or more, or {remedy}",
            )


def _expect_max_length(audit: Mapping[str, Any], settings: LengthSettings) -> None:
    limit, found = settings.max_length, []
    if limit is None:
        return
    conversation, pair = _conversation(audit, "sft"), _longest_pair(audit, settings)
    if settings.fine_tuned and conversation.tokens > limit and not settings.allow_truncation:
        found.append(("SFT conversations", conversation))
    too_long_pair = settings.pairs and pair.tokens > limit
    if too_long_pair:
        found.append(("preference pairs, with the longest reply that may be,", pair))
    if found:
        longest = max((text for _, text in found), key=lambda text: text.tokens)
        cutting = "" if too_long_pair else ", or allow_truncation: true,"
        raise UserError(
            f"{' and '.join(kind for kind, _ in found)} have more tokens than max_length {limit} "
            f"(longest: {longest.tokens} tokens, {longest.what})",
            f"set the model's max_length to {longest.tokens} or more{cutting} in config.yaml",
        )


def cut_off_replies(audit: Mapping[str, Any], max_new_tokens: int) -> int:
    """How many gold replies of all splits have more than `max_new_tokens` tokens, end token included."""
    lengths = audit["gold_replies"]["lengths"]
    return sum(count for tokens, count in lengths.items() if int(tokens) > max_new_tokens)


def length_warnings(audit: Mapping[str, Any], settings: LengthSettings) -> Iterator[str]:
    """Warnings about lengths that do not fail, but spoil results."""
    gold, limit, new = audit["gold_replies"], settings.max_length, settings.max_new_tokens
    cut = cut_off_replies(audit, new)
    if cut:
        yield (
            f"{cut:,} of {gold['replies']:,} gold replies ({cut / gold['replies']:.1%}) have more tokens than "
            f"max_new_tokens {new}, so a tutor that says them is cut off: set the model's generate: max_new_tokens "
            f"to {gold['longest']} (longest: {gold['longest_at']})"
        )
    prompt = audit["prompts"]["test"]
    if settings.fine_tuned and limit is not None and prompt["longest"] > limit:
        yield (
            f"test prompts have more tokens than max_length {limit}, so more than any conversation of the training "
            f"(longest: {prompt['longest']} tokens, {prompt['longest_at']})"
        )
    vocabulary, embeddings = audit["tokenizer"]["tokens"], audit["model"]["embeddings"]
    if vocabulary > embeddings:
        yield (
            f"the tokenizer has {vocabulary} tokens, the model embeddings for {embeddings}: a text with one of the "
            "others could not be read; none of the splits has one"
        )
