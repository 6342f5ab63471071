"""Answering every tutor turn of many conversations with one model.

The prompt of a turn extends the prompt of the turn before it, and all begin with the instruction. So the
keys and values of the instruction are computed once, those of a conversation once, and all its turns are
answered from them at the same time: each decoding step reads the instruction once, the history once per
conversation, not once per turn, and the few tokens that a turn has of its own apart from them. The three
parts are joined exactly, by their log-sum-exps. Rows that have ended leave the batch.
"""

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from pedalign.errors import UserError
from pedalign.models import batch_tokens


@dataclass(frozen=True)
class GenerationSettings:
    """How replies are decoded, by which `engine`: transformers (`generate` here) or vllm (`vllm_engine`). `temperature`
    0 is greedy; `repetition_penalty` 1 is none.

    `max_batch_tokens` bounds the tokens whose keys and values are held at a time: what all prompts begin with,
    histories behind it (conversations times longest), and replies of full length. None: as many as fit.
    """

    max_new_tokens: int
    min_new_tokens: int
    temperature: float
    repetition_penalty: float
    max_batch_tokens: int | None
    seed: int
    engine: str = "transformers"


@dataclass(frozen=True)
class History:
    """A conversation's token ids up to its last student turn, and where each of its prompts ends."""

    id: str
    ids: list[int]
    prompt_lengths: list[int]


@dataclass(frozen=True)
class Completion:
    """The new ids of one row, without the end token; `finish_reason` is "stop" or "length"."""

    ids: list[int]
    finish_reason: str


Layers = list[tuple[torch.Tensor, torch.Tensor]]  # keys and values (sequences, kv heads, tokens, size), of each layer


class _SharedHistory:
    """Keys and values that rows of a batch share: of the text all begin with, and of each one's conversation."""

    def __init__(self, beginning: Layers, rest: Layers, slots: torch.Tensor, lengths: torch.Tensor, group: int):
        """`beginning`: of one sequence; `rest`: of conversations, behind it; `slots` (conversations, width): the row
        that stands there or -1; `lengths` (rows): how many tokens of the rest a row sees; `group`: heads per kv head.
        """
        self.beginning, self.rest = beginning, rest
        self.width = slots.shape[1]
        self.rows = slots.clamp(min=0).flatten()
        occupied = (slots >= 0).flatten().nonzero().squeeze(1)
        self.places = torch.empty_like(occupied)
        self.places[slots.flatten()[occupied]] = occupied
        keys = rest[0][0]
        hidden = torch.arange(keys.shape[2], device=keys.device) >= lengths[self.rows].view(-1, self.width, 1)
        bias = torch.zeros(hidden.shape, device=keys.device).masked_fill(hidden, float("-inf"))
        self.bias = bias.repeat_interleave(group, 1)[:, None]

    def attend(self, query: torch.Tensor, layer: int, scaling: float) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Attention of `query` (rows, kv heads, group, size) over both parts."""
        keys, values = self.beginning[layer]
        rows, heads, group, size = query.shape
        output, total = _part(query.transpose(0, 1).reshape(1, heads, -1, size), keys, values, scaling)
        begun = output.view(heads, rows, group, size).transpose(0, 1), total.view(heads, rows, group).transpose(0, 1)

        keys, values = self.rest[layer]
        spread = query[self.rows].view(-1, self.width, heads, group, size).transpose(1, 2)
        output, total = _part(spread.reshape(len(keys), heads, -1, size), keys, values, scaling, self.bias)
        output = output.view(-1, heads, self.width, group, size).transpose(1, 2).reshape(-1, heads, group, size)
        total = total.view(-1, heads, self.width, group).transpose(1, 2).reshape(-1, heads, group)
        return [begun, (output[self.places], total[self.places])]


def _part(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scaling: float, bias: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention over a part of the keys, and the log-sum-exp of its scores, by which parts are joined."""
    scores = (query @ keys.transpose(-1, -2)).float().mul_(scaling)
    if bias is not None:
        scores.add_(bias)
    total = scores.logsumexp(-1)
    return scores.sub_(total[..., None]).exp_().to(values.dtype) @ values, total


class _OwnTokens:
    """Keys and values of what each row has generated; the part of transformers' Cache that models call."""

    is_compileable = False

    def __init__(self) -> None:
        self.length = 0
        self.layers: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def update(
        self, key: torch.Tensor, value: torch.Tensor, layer: int, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        keys, values = self.layers.get(layer, (key[:, :, :0], value[:, :, :0]))
        if self.length == keys.shape[2]:  # full: half as much again
            more = key.new_empty(*key.shape[:2], self.length // 2 + 16, key.shape[3])
            self.layers[layer] = keys, values = torch.cat([keys, more], 2), torch.cat([values, more], 2)
        keys[:, :, self.length] = key[:, :, 0]
        values[:, :, self.length] = value[:, :, 0]
        return keys[:, :, : self.length + 1], values[:, :, : self.length + 1]

    def get_seq_length(self, *_: Any) -> int:
        return self.length

    def keep(self, rows: torch.Tensor) -> None:
        self.layers = {layer: (keys[rows], values[rows]) for layer, (keys, values) in self.layers.items()}


def _attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    beginning: Layers | None = None,
    history: _SharedHistory | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """transformers' attention interface: plain SDPA, behind a beginning that all sequences share where one is given.

    With a shared history: query (rows, heads, 1, size), key and value (rows, kv heads, own tokens, size).
    """
    if history is None:
        if beginning is not None:
            shared = [part.expand(len(key), -1, -1, -1) for part in beginning[module.layer_idx]]
            key, value = torch.cat([shared[0], key], 2), torch.cat([shared[1], value], 2)
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    rows, heads, _, size = query.shape
    kv_heads = key.shape[1]
    scaling = kwargs.get("scaling") or size**-0.5
    query = query.view(rows, kv_heads, heads // kv_heads, size)
    parts = [*history.attend(query, module.layer_idx, scaling), _part(query, key, value, scaling)]
    shares = torch.stack([total for _, total in parts]).softmax(0)[..., None]
    output = sum(share * part for share, (part, _) in zip(shares, parts, strict=True))
    return output.to(query.dtype).view(rows, 1, heads, size), None


_NAME = "pedalign_shared_history"
AttentionInterface.register(_NAME, _attention)
AttentionMaskInterface.register(_NAME, sdpa_mask)


@torch.inference_mode()
def generate(
    model: PreTrainedModel,
    histories: Sequence[History],
    end_id: int,
    settings: GenerationSettings,
    progress: Callable[[int], None] = lambda done: None,
    selection: Sequence[Sequence[int]] | None = None,
) -> list[list[Completion]]:
    """A completion for every prompt of every history, in their order.

    The result of a row depends on its own prompt (and, when sampling, on its conversation's id, its
    turn and the seed), not on the rows that share its batch, but for rounding in the last bits.
    `progress` is called with the number of rows done. `selection`: those of the histories' `batches`
    that are answered; None: all. The histories of others get no completion.
    Raises UserError where a sliding attention window would cut a conversation off.
    """
    window = getattr(model.config, "sliding_window", None)
    longest = max(len(history.ids) for history in histories) + settings.max_new_tokens
    if window and longest > window:
        raise UserError(
            f"a conversation and its reply may take {longest} tokens, the model looks back over {window} only",
            "set 'sliding_window' to null in the checkpoint's config.json if the model was trained so, or leave out "
            "the longest conversations",
        )
    model.eval()
    model.set_attn_implementation(_NAME)
    results: list[list[Completion]] = [[] for _ in histories]
    if selection is None:
        selection = batches(histories, settled(settings, model))
    beginning = _read_beginning(model, histories)
    done = 0  # rows of the batches before

    def tell(more: int) -> None:
        progress(done + more)

    for batch in selection:
        chosen = [histories[at] for at in batch]
        answers = _answer_in_parts(model, chosen, beginning, end_id, settings, tell)
        for at, completions in zip(batch, answers, strict=True):
            results[at] = completions
            done += len(completions)
        tell(0)
    return results


def settled(settings: GenerationSettings, model: PreTrainedModel) -> GenerationSettings:
    """With the tokens at a time that fit, where the settings do not say how many."""
    return replace(settings, max_batch_tokens=batch_tokens(model, settings.max_batch_tokens))


def batches(
    histories: Sequence[History], settings: GenerationSettings, shard: int = 1, shards: int = 1
) -> list[list[int]]:
    """Positions of histories of like length, the longest first, so that memory fails early if at all.

    Batches are dealt out to the `shards` in turn; those of `shard` (from 1) are returned. They are the same
    batches for any number of shards: rounding depends on what shares a batch, and now and then a token on rounding.
    The settings say how many tokens at a time.
    """
    assert settings.max_batch_tokens is not None
    found: list[list[int]] = []
    begun = _begun(histories)
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


def _begun(histories: Sequence[History]) -> int:
    """How many tokens, the instruction's above all, all prompts begin with; each prompt has at least one more."""
    first, last = min(history.ids for history in histories), max(history.ids for history in histories)
    alike = next((at for at, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
    return min(alike, min(min(history.prompt_lengths) for history in histories) - 1)


def _read_beginning(model: PreTrainedModel, histories: Sequence[History]) -> Layers:
    """Keys and values of what all prompts begin with, of one sequence."""
    begun = _begun(histories)
    ids = torch.tensor([histories[0].ids[: max(begun, 1)]], device=model.device)
    layers = model.base_model(input_ids=ids, use_cache=True).past_key_values.layers
    return [(layer.keys[:, :, :begun], layer.values[:, :, :begun]) for layer in layers]


def _answer_in_parts(
    model: PreTrainedModel,
    histories: Sequence[History],
    beginning: Layers,
    end_id: int,
    settings: GenerationSettings,
    ended: Callable[[int], None],
) -> list[list[Completion]]:
    """As `_answer`; in two halves where memory does not suffice for the whole, and so on."""
    try:
        return _answer(model, histories, beginning, end_id, settings, ended)
    except torch.OutOfMemoryError:
        if len(histories) == 1:
            raise UserError(
                f"the GPU's memory does not suffice for one conversation of {len(histories[0].ids)} tokens and its "
                f"{len(histories[0].prompt_lengths)} replies",
                "lower 'max_new_tokens' or 'preferences.samples', or take a GPU with more memory",
            ) from None
    torch.cuda.empty_cache()  # outside of `except`, where the error holds on to what was computed
    half = len(histories) // 2
    print(f"out of memory with {len(histories)} conversations at a time: trying {half}", flush=True)
    first = _answer_in_parts(model, histories[:half], beginning, end_id, settings, ended)
    done = sum(map(len, first))
    return first + _answer_in_parts(
        model, histories[half:], beginning, end_id, settings, lambda more: ended(done + more)
    )


def _answer(
    model: PreTrainedModel,
    histories: Sequence[History],
    beginning: Layers,
    end_id: int,
    settings: GenerationSettings,
    ended: Callable[[int], None],
) -> list[list[Completion]]:
    device = model.device
    conversation = torch.tensor([at for at, h in enumerate(histories) for _ in h.prompt_lengths], device=device)
    lengths = torch.tensor([length for h in histories for length in h.prompt_lengths], device=device)
    rest, logits = _read(model, histories, beginning, conversation, lengths)
    behind = lengths - beginning[0][0].shape[2]  # how much of its conversation's rest a row sees
    group = model.config.num_attention_heads // rest[0][0].shape[1]

    n_rows = len(lengths)
    chooser = _Chooser(histories, settings, end_id, device, logits.shape[-1])
    written: list[list[int]] = [[] for _ in range(n_rows)]
    stopped = [False] * n_rows
    active = torch.arange(n_rows, device=device)  # the rows still in the batch
    own = _OwnTokens()
    shared = _SharedHistory(beginning, rest, _slots(conversation), behind, group)
    for step in range(settings.max_new_tokens):
        tokens = chooser.choose(logits, active, step)
        for row, token in zip(active.tolist(), tokens.tolist(), strict=True):
            if not stopped[row]:
                stopped[row] = token == end_id
                if token != end_id:
                    written[row].append(token)
        ended(sum(stopped))
        going = torch.tensor([not stopped[row] for row in active.tolist()], device=device)
        n_going = int(going.sum())
        if n_going == 0 or step + 1 == settings.max_new_tokens:
            break
        if n_going <= 0.8 * len(active):
            kept = going.nonzero().squeeze(1)
            active, tokens = active[kept], tokens[kept]
            own.keep(kept)
            members, renumbered = conversation[active].unique(return_inverse=True)
            longest = int(behind[active].max())
            now = [(k[members, :, :longest], v[members, :, :longest]) for k, v in rest]
            shared = _SharedHistory(beginning, now, _slots(renumbered), behind[active], group)
        logits = _step(model, tokens, lengths[active] + step, own, shared)
    answers: list[list[Completion]] = [[] for _ in histories]
    for row, at in enumerate(conversation.tolist()):
        answers[at].append(Completion(written[row], "stop" if stopped[row] else "length"))
    return answers


def _read(
    model: PreTrainedModel,
    histories: Sequence[History],
    beginning: Layers,
    conversation: torch.Tensor,
    lengths: torch.Tensor,
) -> tuple[Layers, torch.Tensor]:
    """Keys and values of whole conversations behind the beginning, and the logits behind every prompt's last token."""
    begun = beginning[0][0].shape[2]
    rests = [history.ids[begun:] for history in histories]
    longest = max(map(len, rests))
    ids = torch.tensor([rest + [0] * (longest - len(rest)) for rest in rests], device=model.device)
    # Padding stands behind the text, where causal attention never looks; so one mask does for all.
    mask = torch.ones(longest, begun + longest, dtype=torch.bool, device=model.device).tril(begun)
    output = model.base_model(
        input_ids=ids,
        position_ids=torch.arange(begun, begun + longest, device=model.device)[None],
        attention_mask=mask[None, None],  # four dimensions: taken as it is
        beginning=beginning,
        use_cache=True,
    )
    layers = [(layer.keys, layer.values) for layer in output.past_key_values.layers]
    last = output.last_hidden_state[conversation, lengths - begun - 1]
    return layers, model.get_output_embeddings()(last).float()


def _step(
    model: PreTrainedModel,
    tokens: torch.Tensor,
    positions: torch.Tensor,
    own: _OwnTokens,
    shared: _SharedHistory,
) -> torch.Tensor:
    """Feed one token per row; logits (rows, vocabulary) for the next."""
    output = model.base_model(
        input_ids=tokens[:, None],
        position_ids=positions[:, None],
        attention_mask=torch.empty(1, 1, 1, 1, device=tokens.device),  # four dimensions: taken as it is, and not used
        past_key_values=own,
        history=shared,
        use_cache=True,
    )
    own.length += 1
    return model.get_output_embeddings()(output.last_hidden_state[:, 0]).float()


def _slots(conversation: torch.Tensor) -> torch.Tensor:
    """(conversations, most rows of one) → the row that stands there, -1 for none. Input is sorted."""
    counts = conversation.bincount()
    starts = counts.cumsum(0) - counts
    slots = starts[:, None] + torch.arange(int(counts.max()), device=conversation.device)
    return slots.masked_fill(slots >= (starts + counts)[:, None], -1)


class _Chooser:
    """Picks the next token of each row from its logits."""

    def __init__(
        self,
        histories: Sequence[History],
        settings: GenerationSettings,
        end_id: int,
        device: torch.device,
        vocabulary: int,
    ) -> None:
        self.settings = settings
        self.end_id = end_id
        rows = [(history, turn) for history in histories for turn in range(len(history.prompt_lengths))]
        self.draws = None
        if settings.temperature > 0:
            self.draws = torch.stack([_draws(settings, history.id, turn) for history, turn in rows]).to(device)
        self.seen = None
        if settings.repetition_penalty != 1:
            self.seen = torch.zeros(len(rows), vocabulary, dtype=torch.bool, device=device)
            for row, (history, turn) in enumerate(rows):
                self.seen[row, history.ids[: history.prompt_lengths[turn]]] = True

    def choose(self, logits: torch.Tensor, active: torch.Tensor, step: int) -> torch.Tensor:
        settings = self.settings
        if self.seen is not None:
            penalty = settings.repetition_penalty
            punished = torch.where(logits < 0, logits * penalty, logits / penalty)
            logits = torch.where(self.seen[active], punished, logits)
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


def row_seed(settings: GenerationSettings, identity: str, turn: int) -> int:
    """What decides a row's sampling: its own, whatever the batch. Less than 2 to the 63rd."""
    digest = hashlib.sha256(f"{settings.seed}\0{identity}\0{turn}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def _draws(settings: GenerationSettings, identity: str, turn: int) -> torch.Tensor:
    """The uniform numbers that a row is sampled by."""
    generator = torch.Generator().manual_seed(row_seed(settings, identity, turn))
    return torch.rand(settings.max_new_tokens, generator=generator)
