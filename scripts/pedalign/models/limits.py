"""Reads a model's limits from its configuration: positions, attention windows, token ids."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from pedalign.core.errors import UserError

# Names of the number of positions; the last two are MPT's and Whisper's.
_STATED = ("max_position_embeddings", "max_seq_len", "max_target_positions")
# Models whose learned positions are counted from the id after the padding token's.
_BEHIND_PADDING = ("camembert", "data2vec-text", "roberta", "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl")
_EXTENDED = ("linear", "dynamic", "yarn")  # kinds of rope scaling that multiply the original positions by `factor`


@dataclass(frozen=True)
class ModelLimits:
    """The limits of a model.

    `positions`: most tokens of a text (None: no limit). `window`: how many tokens back the layers with a sliding window
    look (None: no such layers). `embeddings`: rows of the input embeddings; token ids are below it.
    """

    positions: int | None
    window: int | None
    embeddings: int


def model_limits(config: Any) -> ModelLimits:
    """The limits that a transformers config states; of a multimodal one, those of its text model."""
    text = config.get_text_config()
    return ModelLimits(_positions(text), _window(text), text.vocab_size)


def _positions(text: Any) -> int | None:
    """The number of positions. Learned ones end there; rotary ones go on, but nothing beyond was trained."""
    if getattr(text, "alibi", False):  # Falcon's config also has a number of positions, which nothing uses
        return None
    stated = next((getattr(text, name) for name in _STATED if getattr(text, name, None)), None)
    if stated is None:
        return None
    if text.model_type in _BEHIND_PADDING:
        return stated - text.pad_token_id - 1
    scalings = getattr(text, "rope_parameters", None) or {}
    if "rope_type" not in scalings:  # one set for each kind of layer
        scalings = next((one for one in scalings.values() if isinstance(one, dict)), {})
    if scalings.get("rope_type") not in _EXTENDED:
        return stated
    original = scalings.get("original_max_position_embeddings") or stated
    return max(stated, int(original * (scalings.get("factor") or 1)))


def _window(text: Any) -> int | None:
    if not any("sliding" in kind or "chunked" in kind for kind in getattr(text, "layer_types", None) or ["sliding"]):
        return None
    return getattr(text, "sliding_window", None) or getattr(text, "attention_chunk_size", None) or None


def expect_token(limits: ModelLimits, token: int, what: str) -> None:
    """Raise UserError if the model has no row of embeddings for a token id."""
    if token >= limits.embeddings:
        raise UserError(
            f"{what} has the id {token}, the model has embeddings for ids below {limits.embeddings} (vocab_size)",
            "use the tokenizer that the model was made with; a token that was added later needs "
            "model.resize_token_embeddings(len(tokenizer)), and then save_pretrained; for padding, a token that the "
            "model knows will do: 'pad_token' in tokenizer_config.json",
        )


def expect_positions(limits: ModelLimits, texts: Iterable[tuple[int, str]]) -> None:
    """Raise UserError, with the longest, if one of `texts` (tokens, what it is) is longer than the model takes."""
    tokens, what = max(texts, default=(0, ""))
    if limits.positions is not None and tokens > limits.positions:
        raise UserError(
            f"{what} has {tokens} tokens, more than the model has positions, {limits.positions}",
            f"leave out the longer ones, or choose a model with {tokens} positions or more",
        )


@dataclass(frozen=True)
class PairLength:
    """Tokens of a preference pair: its prompt with the longer of its replies, end token included."""

    conversation: str
    turn: int
    tokens: int


def expect_pairs_fit(lengths: Sequence[PairLength], max_length: int | None, positions: int | None = None) -> None:
    """Raise UserError, with the longest pair, if a pair has more tokens than `max_length` or than the model has
    positions (None: no limit)."""
    if not lengths:
        return
    longest = max(lengths, key=lambda one: one.tokens)
    over = longest.tokens - (positions or 0)
    by_reply = f"lower the model's generate: max_new_tokens by {over}, or leave out long conversations"
    for limit, name, remedy in (
        (positions, "the model's positions", by_reply),
        (max_length, "max_length", f"set the model's max_length to {longest.tokens} or more"),
    ):
        if limit is not None and longest.tokens > limit:
            count = sum(one.tokens > limit for one in lengths)
            raise UserError(
                f"{count} of {len(lengths)} preference pairs have more tokens than {name}, {limit} (longest: "
                f"{longest.tokens}, conversation '{longest.conversation}', turn {longest.turn})",
                f"{remedy}, in config.yaml; the fine-tuned tutor stays as it is",
            )
