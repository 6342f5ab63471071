"""Answering every tutor turn of many conversations with one model.

The prompt of a turn extends the prompt of the turn before it, and all begin with the instruction. So the
keys and values of the instruction are computed once, those of a conversation once, and all its turns are
answered from them at the same time: each decoding step reads the instruction once, the history once per
conversation, not once per turn, and the few tokens that a turn has of its own apart from them. The three
parts are joined exactly, by their log-sum-exps. Rows that have ended leave their batch, and the last
rows of a batch are not waited for: they go on beside the next one.
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
Row = tuple[int, int]  # position of a history, and which of its prompts, from 0
Part = tuple[torch.Tensor, torch.Tensor]  # attention over some of the keys, and the log-sum-exp of its scores


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

    def attend(self, query: torch.Tensor, layer: int, scaling: float) -> list[Part]:
        """Attention of `query` (rows, kv heads, group, size) over both parts; over one where no beginning is shared."""
        rows, heads, group, size = query.shape
        parts = []
        keys, values = self.beginning[layer]
        if keys.shape[2]:
            output, total = _part(query.transpose(0, 1).reshape(1, heads, -1, size), keys, values, scaling)
            total = total.view(heads, rows, group).transpose(0, 1)
            parts.append((output.view(heads, rows, group, size).transpose(0, 1), total))

        keys, values = self.rest[layer]
        spread = query[self.rows].view(-1, self.width, heads, group, size).transpose(1, 2)
        output, total = _part(spread.reshape(len(keys), heads, -1, size), keys, values, scaling, self.bias)
        output = output.view(-1, heads, self.width, group, size).transpose(1, 2).reshape(-1, heads, group, size)
        total = total.view(-1, heads, self.width, group).transpose(1, 2).reshape(-1, heads, group)
        return [*parts, (output[self.places], total[self.places])]


def _part(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scaling: float, bias: torch.Tensor | None = None
) -> Part:
    """Attention over a part of the keys, and the log-sum-exp of its scores, by which parts are joined."""
    scores = (query @ keys.transpose(-1, -2)).float().mul_(scaling)
    if bias is not None:
        scores.add_(bias)
    top = scores.amax(-1, keepdim=True)
    weights = scores.sub_(top).exp_()  # the one pass of exponentials, which are what takes longest
    mass = weights.sum(-1, keepdim=True)
    return weights.to(values.dtype) @ values / mass, (top + mass.log()).squeeze(-1)


class _OwnTokens:
    """Keys and values of what each row of a batch has generated."""

    def __init__(self) -> None:
        self.length = 0
        self.layers: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def update(self, key: torch.Tensor, value: torch.Tensor, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        keys, values = self.layers.get(layer, (key[:, :, :0], value[:, :, :0]))
        if self.length == keys.shape[2]:  # full: half as much again
            more = key.new_empty(*key.shape[:2], self.length // 2 + 16, key.shape[3])
            self.layers[layer] = keys, values = torch.cat([keys, more], 2), torch.cat([values, more], 2)
        keys[:, :, self.length] = key[:, :, 0]
        values[:, :, self.length] = value[:, :, 0]
        return keys[:, :, : self.length + 1], values[:, :, : self.length + 1]

    def keep(self, rows: torch.Tensor) -> None:
        self.layers = {layer: (keys[rows], values[rows]) for layer, (keys, values) in self.layers.items()}


class _Batch:
    """Rows that began to be answered together; its tensors are of the `active` ones."""

    def __init__(
        self,
        model: PreTrainedModel,
        histories: Sequence[History],
        rows: Sequence[Row],
        beginning: Layers,
        end_id: int,
        settings: GenerationSettings,
    ) -> None:
        """Reads the histories; `rows` are in their order."""
        self.settings, self.end_id, self.beginning = settings, end_id, beginning
        self.rows = rows
        self.written: list[list[int]] = [[] for _ in rows]
        self.open = set(range(len(rows)))  # those that have not ended
        members = sorted({at for at, _ in rows})
        self.active = torch.arange(len(rows), device=model.device)
        numbers = {at: number for number, at in enumerate(members)}
        self.conversation = torch.tensor([numbers[at] for at, _ in rows], device=model.device)
        lengths = [histories[at].prompt_lengths[turn] for at, turn in rows]
        self.lengths = torch.tensor(lengths, device=model.device)
        chosen = [histories[at] for at in members]
        self.rest, self.logits = _read(model, chosen, beginning, self.conversation, self.lengths)
        self.chooser = _Chooser(histories, rows, settings, end_id, model.device, self.logits.shape[-1])
        self.group = model.config.num_attention_heads // self.rest[0][0].shape[1]
        self.own = _OwnTokens()
        self._share()

    def _share(self) -> None:
        behind = self.lengths - self.beginning[0][0].shape[2]  # how much of its conversation's rest a row sees
        self.shared = _SharedHistory(self.beginning, self.rest, _slots(self.conversation), behind, self.group)

    def held(self) -> int:
        """Tokens, as `batches` counts them, but for the beginning."""
        keys = self.rest[0][0]
        return len(keys) * keys.shape[2] + len(self.active) * self.settings.max_new_tokens

    def choose(self, ended: Callable[[Row, Completion], None]) -> None:
        """The next token of each row; `ended` is told which rows end. Those leave once they are a fifth."""
        step = self.own.length
        self.tokens = self.chooser.choose(self.logits, self.active, step)
        active = self.active.tolist()
        for row, token in zip(active, self.tokens.tolist(), strict=True):
            if row not in self.open:
                continue
            if token != self.end_id:
                self.written[row].append(token)
            if token == self.end_id or step + 1 == self.settings.max_new_tokens:
                self.open.remove(row)
                ended(self.rows[row], Completion(self.written[row], "stop" if token == self.end_id else "length"))
        if 0 < len(self.open) <= 0.8 * len(active):
            self._keep([at for at, row in enumerate(active) if row in self.open])

    def _keep(self, places: list[int]) -> None:
        kept = torch.tensor(places, device=self.active.device)
        self.active, self.tokens, self.lengths = self.active[kept], self.tokens[kept], self.lengths[kept]
        members, self.conversation = self.conversation[kept].unique(return_inverse=True)
        longest = int(self.lengths.max()) - self.beginning[0][0].shape[2]
        self.rest = [(keys[members, :, :longest], values[members, :, :longest]) for keys, values in self.rest]
        self.own.keep(kept)
        self._share()

    def attend(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, layer: int, scaling: float
    ) -> torch.Tensor:
        """Attention of `query` (rows, heads, 1, size) over all that the rows see; their new `key` and `value` (rows, kv
        heads, 1, size) are kept."""
        rows, heads, _, size = query.shape
        query = query.view(rows, key.shape[1], self.group, size)
        own = self.own.update(key, value, layer)
        parts = [*self.shared.attend(query, layer, scaling), _part(query, *own, scaling)]
        shares = torch.stack([total for _, total in parts]).softmax(0)[..., None]
        output = sum(share * part for share, (part, _) in zip(shares, parts, strict=True))
        return output.to(query.dtype).view(rows, 1, heads, size)


class _KeptByBatches:
    """In the place of transformers' Cache where batches are answered: the part of it that models call."""

    is_compileable = False

    def __init__(self, length: int) -> None:
        self.length = length

    def update(self, key: torch.Tensor, value: torch.Tensor, *_: Any, **__: Any) -> tuple[torch.Tensor, torch.Tensor]:
        return key, value

    def get_seq_length(self, *_: Any) -> int:
        return self.length


def _attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    beginning: Layers | None = None,
    going: Sequence[_Batch] = (),
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """transformers' attention interface: plain SDPA, behind a beginning that all sequences share where one is given.

    With batches that are answered: query, key and value (their rows, heads, 1, size) of each row's last token.
    """
    if going:
        sizes = [len(batch.active) for batch in going]
        scaling = kwargs.get("scaling") or query.shape[-1] ** -0.5
        parts = zip(going, query.split(sizes), key.split(sizes), value.split(sizes), strict=True)
        return torch.cat([batch.attend(q, k, v, module.layer_idx, scaling) for batch, q, k, v in parts]), None
    if beginning is not None:
        shared = [part.expand(len(key), -1, -1, -1) for part in beginning[module.layer_idx]]
        key, value = torch.cat([shared[0], key], 2), torch.cat([shared[1], value], 2)
    return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)


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
    that are answered, one after the other; the histories of others get no completion. None: all, where
    the last rows of a batch, once they hold an eighth of the tokens, go on beside the next one.
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
    # Tokens that the last rows of a batch hold when the next one joins them; in a selection none are left over, so that
    # shards answer as one job does.
    waiting = 0
    if selection is None:
        most = batch_tokens(model, settings.max_batch_tokens)
        waiting = most // 8
        selection = batches(histories, replace(settings, max_batch_tokens=most - waiting))
    answering = _Answering(model, histories, end_id, settings, progress)
    for number, batch in enumerate(selection, 1):
        rows = [(at, turn) for at in sorted(batch) for turn in range(len(histories[at].prompt_lengths))]
        answering.answer(rows, waiting if number < len(selection) else 0)
    answered = {at for batch in selection for at in batch}
    return [
        [answering.completions[at, turn] for turn in range(len(history.prompt_lengths))] if at in answered else []
        for at, history in enumerate(histories)
    ]


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


class _Answering:
    """What `generate` has in hand: batches that go on at the same time, and the completions of the rows that ended."""

    def __init__(
        self,
        model: PreTrainedModel,
        histories: Sequence[History],
        end_id: int,
        settings: GenerationSettings,
        progress: Callable[[int], None],
    ) -> None:
        self.model, self.histories, self.end_id, self.settings = model, histories, end_id, settings
        self.progress = progress
        self.beginning = _read_beginning(model, histories)
        self.going: list[_Batch] = []
        self.completions: dict[Row, Completion] = {}

    def answer(self, rows: Sequence[Row], waiting: int) -> None:
        """Answer a batch's rows beside those that go on already, until what is left holds no more than so many tokens.

        In two halves where memory does not suffice for the whole, and so on.
        """
        try:
            self.going.append(_Batch(self.model, self.histories, rows, self.beginning, self.end_id, self.settings))
            while sum(batch.held() for batch in self.going) > waiting:
                for batch in self.going:
                    batch.choose(self.completions.__setitem__)
                self.progress(len(self.completions))
                self.going = [batch for batch in self.going if batch.open]
                if self.going:
                    _step(self.model, self.going)
            return
        except torch.OutOfMemoryError:
            rows = sorted({*rows, *(row for batch in self.going for row in batch.rows)} - self.completions.keys())
            conversations = sorted({at for at, _ in rows})
            if len(conversations) == 1:
                history = self.histories[conversations[0]]
                raise UserError(
                    f"the GPU's memory does not suffice for one conversation of {len(history.ids)} tokens and its "
                    f"{len(history.prompt_lengths)} replies",
                    "lower 'max_new_tokens' or 'preferences.samples', or take a GPU with more memory",
                ) from None
            self.going = []
        torch.cuda.empty_cache()  # outside of `except`, where the error holds on to what was computed
        half = len(conversations) // 2
        print(f"out of memory with {len(conversations)} conversations at a time: trying {half}", flush=True)
        middle = conversations[half]
        self.answer([row for row in rows if row[0] < middle], 0)
        self.answer([row for row in rows if row[0] >= middle], 0)


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


def _step(model: PreTrainedModel, going: Sequence[_Batch]) -> None:
    """Feed the last token of each row: the batches' logits for the next."""
    output = model.base_model(
        input_ids=torch.cat([batch.tokens for batch in going])[:, None],
        position_ids=torch.cat([batch.lengths + batch.own.length for batch in going])[:, None],
        attention_mask=torch.empty(1, 1, 1, 1, device=model.device),  # four dimensions: taken as it is, and not used
        past_key_values=_KeptByBatches(max(batch.own.length for batch in going)),
        going=going,
        use_cache=True,
    )
    logits = model.get_output_embeddings()(output.last_hidden_state[:, 0]).float()
    for batch, part in zip(going, logits.split([len(batch.active) for batch in going]), strict=True):
        batch.logits = part
        batch.own.length += 1


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
        rows: Sequence[Row],
        settings: GenerationSettings,
        end_id: int,
        device: torch.device,
        vocabulary: int,
    ) -> None:
        self.settings = settings
        self.end_id = end_id
        self.draws = None
        if settings.temperature > 0:
            self.draws = torch.stack([_draws(settings, histories[at].id, turn) for at, turn in rows]).to(device)
        self.seen = None
        if settings.repetition_penalty != 1:
            self.seen = torch.zeros(len(rows), vocabulary, dtype=torch.bool, device=device)
            for row, (at, turn) in enumerate(rows):
                self.seen[row, histories[at].ids[: histories[at].prompt_lengths[turn]]] = True

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
