"""What all engines share: settings, prompts, replies, batches, and how the next token is chosen."""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from pedalign.data.conversations import Message
from pedalign.models.prompt_format import Renderer


@dataclass(frozen=True)
class GenerationSettings:
    """How replies are decoded, and by which `engine` (`pedalign.generation.engines`).

    `temperature` 0 is greedy; `repetition_penalty` 1 is none. `max_batch_tokens` limits the tokens whose keys and
    values are held at a time, with replies of full length (None: as many as fit).
    """

    max_new_tokens: int
    min_new_tokens: int
    temperature: float
    repetition_penalty: float
    max_batch_tokens: int | None
    seed: int
    engine: str = "auto"


@dataclass(frozen=True)
class History:
    """A conversation's token ids up to its last student turn, and where each of its prompts ends."""

    id: str
    ids: list[int]
    prompt_lengths: list[int]


@dataclass(frozen=True)
class Completion:
    """The generated ids of one row, without the end token; `finish_reason` is "stop" or "length"."""

    ids: list[int]
    finish_reason: str


def history(identity: str, prompts: Sequence[Sequence[Message]], rendering: Renderer, samples: int = 1) -> History:
    """The history of a conversation's prompts; each extends the one before it, and is answered `samples` times."""
    lengths = [len(rendering.encode(prompt)[0]) for prompt in prompts]
    return History(identity, rendering.encode(prompts[-1])[0], [one for one in lengths for _ in range(samples)])


Row = tuple[int, int]  # index of a history, index of one of its prompts


def rows_of(histories: Sequence[History], batch: Sequence[int]) -> list[Row]:
    """All prompts of some of the histories, in the histories' order."""
    return [(at, turn) for at in sorted(batch) for turn in range(len(histories[at].prompt_lengths))]


def batches(
    histories: Sequence[History], settings: GenerationSettings, shard: int = 1, shards: int = 1
) -> list[list[int]]:
    """Batches of histories (indices) of like length, the longest first, so that memory runs out early if at all.

    Batches are dealt out to the `shards` in turn; those of `shard` (from 1) are returned. The batches are the same for
    any number of shards, as rounding depends on the rows of a batch, and now and then a token depends on rounding.
    `max_batch_tokens` limits a batch; the tokens that all prompts begin with count once.
    """
    assert settings.max_batch_tokens is not None
    found: list[list[int]] = []
    begun = shared_beginning(histories)
    longest = replies = 0
    for at in sorted(range(len(histories)), key=lambda at: -len(histories[at].ids)):
        replies += len(histories[at].prompt_lengths)
        held = begun + longest * (len(found[-1]) + 1) + replies * settings.max_new_tokens if found else math.inf
        if held <= settings.max_batch_tokens:
            found[-1].append(at)
        else:
            found.append([at])
            longest, replies = len(histories[at].ids) - begun, len(histories[at].prompt_lengths)
    return found[shard - 1 :: shards]


def shared_beginning(histories: Sequence[History]) -> int:
    """How many tokens all prompts begin with, mainly the instruction's; each prompt has at least two more."""
    first, last = min(history.ids for history in histories), max(history.ids for history in histories)
    alike = next((at for at, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
    return max(0, min(alike, min(min(history.prompt_lengths) for history in histories) - 2))


class TokenChooser:
    """Chooses the next token of each row of a batch from its logits.

    A row's choice depends on its own logits and, when sampling, on its conversation's id, its turn and the seed.
    """

    def __init__(
        self,
        histories: Sequence[History],
        rows: Sequence[Row],
        settings: GenerationSettings,
        end_id: int,
        device: torch.device,
    ) -> None:
        self.settings, self.end_id = settings, end_id
        self.prompts = [histories[at].ids[: histories[at].prompt_lengths[turn]] for at, turn in rows]
        self.draws = None
        if settings.temperature > 0:
            self.draws = torch.stack([_draws(settings, histories[at].id, turn) for at, turn in rows]).to(device)
        self.seen: torch.Tensor | None = None  # (rows, vocabulary), for a repetition penalty

    def choose(self, logits: torch.Tensor, active: torch.Tensor, step: int) -> torch.Tensor:
        """The next tokens (rows) by logits (rows, vocabulary) of the `active` rows, at their `step` (from 0)."""
        settings = self.settings
        if settings.repetition_penalty != 1:
            logits = self._punished(logits, active)
        if step < settings.min_new_tokens:
            logits[:, self.end_id] = float("-inf")
        if self.draws is None:
            tokens = logits.argmax(-1)
        else:
            cumulated = (logits / settings.temperature).softmax(-1).cumsum(-1)
            draws = self.draws[active, step, None] * cumulated[:, -1:]
            tokens = torch.searchsorted(cumulated, draws, right=True).squeeze(1).clamp(max=logits.shape[-1] - 1)
        if self.seen is not None:
            self.seen[active, tokens] = True
        return tokens

    def _punished(self, logits: torch.Tensor, active: torch.Tensor) -> torch.Tensor:
        """The logits, made smaller for tokens that the prompt or the reply already has (arXiv 1909.05858, 4.1)."""
        if self.seen is None:
            self.seen = torch.zeros(len(self.prompts), logits.shape[-1], dtype=torch.bool, device=logits.device)
            for row, prompt in enumerate(self.prompts):
                self.seen[row, prompt] = True
        penalty = self.settings.repetition_penalty
        punished = torch.where(logits < 0, logits * penalty, logits / penalty)
        return torch.where(self.seen[active], punished, logits)


def row_seed(settings: GenerationSettings, identity: str, turn: int) -> int:
    """The seed of a row's sampling, the same in any batch; less than 2 to the 63rd."""
    digest = hashlib.sha256(f"{settings.seed}\0{identity}\0{turn}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def _draws(settings: GenerationSettings, identity: str, turn: int) -> torch.Tensor:
    """The uniform random numbers for the sampling of a row."""
    generator = torch.Generator().manual_seed(row_seed(settings, identity, turn))
    return torch.rand(settings.max_new_tokens, generator=generator)
