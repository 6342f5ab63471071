"""The shared-prefix engine: answers all turns of many conversations from keys and values that they share.

The prompt of a turn extends the prompt of the turn before it, and all begin with the instruction. So keys and values
are computed once for the instruction and once for each conversation, and all turns are answered from them at the same
time. Each decoding step reads the instruction once, each history once (not once per turn), and the few generated tokens
of each turn. Attention over these three parts is joined exactly, by their log-sum-exps. Rows that have ended leave
their batch; the last rows of a batch go on together with the next batch.

This attention replaces the model's. It is plain scaled dot-product attention, which not every model has:
`pedalign.generation.engines` proves for a model that the replies are its own, before they are used.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from pedalign.core.errors import UserError
from pedalign.generation.common import (
    Completion,
    GenerationSettings,
    History,
    Row,
    TokenChooser,
    batches,
    rows_of,
    shared_beginning,
)
from pedalign.models.checkpoints import batch_tokens

Layers = list[tuple[torch.Tensor, torch.Tensor]]  # keys and values (sequences, kv heads, tokens, size), of each layer
Part = tuple[torch.Tensor, torch.Tensor]  # attention over some of the keys, and the log-sum-exp of its scores


class _SharedHistory:
    """Keys and values that rows of a batch share: of the common beginning, and of each conversation."""

    def __init__(self, beginning: Layers, rest: Layers, slots: torch.Tensor, lengths: torch.Tensor, group: int):
        """`beginning`: of one sequence. `rest`: of the conversations, after it. `slots` (conversations, width): the row
        in each place, or -1. `lengths` (rows): how many tokens of the rest a row sees. `group`: heads per kv head.
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
        """Attention of `query` (rows, kv heads, group, size) over the beginning, if one is shared, and the rest."""
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
    weights = scores.sub_(top).exp_()  # exponentials take longest: this is the only pass
    mass = weights.sum(-1, keepdim=True)
    return weights.to(values.dtype) @ values / mass, (top + mass.log()).squeeze(-1)


class _OwnTokens:
    """Keys and values of the tokens that each row of a batch has generated."""

    def __init__(self) -> None:
        self.length = 0
        self.layers: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def update(self, key: torch.Tensor, value: torch.Tensor, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        keys, values = self.layers.get(layer, (key[:, :, :0], value[:, :, :0]))
        if self.length == keys.shape[2]:  # full: add half
            more = key.new_empty(*key.shape[:2], self.length // 2 + 16, key.shape[3])
            self.layers[layer] = keys, values = torch.cat([keys, more], 2), torch.cat([values, more], 2)
        keys[:, :, self.length] = key[:, :, 0]
        values[:, :, self.length] = value[:, :, 0]
        return keys[:, :, : self.length + 1], values[:, :, : self.length + 1]

    def keep(self, rows: torch.Tensor) -> None:
        self.layers = {layer: (keys[rows], values[rows]) for layer, (keys, values) in self.layers.items()}


class _Batch:
    """Rows whose answers began together; its tensors are those of the `active` rows."""

    def __init__(
        self,
        model: PreTrainedModel,
        histories: Sequence[History],
        rows: Sequence[Row],
        beginning: Layers,
        end_id: int,
        settings: GenerationSettings,
        chooser: type[TokenChooser],
    ) -> None:
        """Compute the histories' keys and values; `rows` are in the histories' order."""
        self.settings, self.end_id, self.beginning = settings, end_id, beginning
        self.rows = rows
        self.written: list[list[int]] = [[] for _ in rows]
        self.open = set(range(len(rows)))  # rows that have not ended
        members = sorted({at for at, _ in rows})
        self.active = torch.arange(len(rows), device=model.device)
        numbers = {at: number for number, at in enumerate(members)}
        self.conversation = torch.tensor([numbers[at] for at, _ in rows], device=model.device)
        lengths = [histories[at].prompt_lengths[turn] for at, turn in rows]
        # A prompt's last token is fed as the first of the row's own, by the same steps as all that follow.
        self.lengths = torch.tensor(lengths, device=model.device) - 1
        self.rest = _read(model, [histories[at] for at in members], beginning)
        prompts = [histories[at].ids[:length] for (at, _), length in zip(rows, lengths, strict=True)]
        self.tokens = torch.tensor([prompt[-1] for prompt in prompts], device=model.device)  # to be fed next
        self.logits = torch.empty(0)  # of the tokens to be chosen next
        self.chooser = chooser(histories, rows, settings, end_id, model.device)
        self.group = model.config.get_text_config().num_attention_heads // self.rest[0][0].shape[1]
        self.own = _OwnTokens()
        self._share()

    def _share(self) -> None:
        behind = self.lengths - self.beginning[0][0].shape[2]  # how much of its conversation's rest a row sees
        self.shared = _SharedHistory(self.beginning, self.rest, _slots(self.conversation), behind, self.group)

    def held(self) -> int:
        """The number of tokens held, as `batches` counts them, without the beginning."""
        keys = self.rest[0][0]
        return len(keys) * keys.shape[2] + len(self.active) * self.settings.max_new_tokens

    def choose(self, ended: Callable[[Row, Completion], None]) -> None:
        """Choose each row's next token; call `ended` for rows that end. Ended rows leave once they are a fifth."""
        step = self.own.length - 1
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
        """Attention of `query` (rows, heads, 1, size) over all that the rows see.

        Their new `key` and `value` (rows, kv heads, 1, size) are kept.
        """
        rows, heads, _, size = query.shape
        query = query.view(rows, key.shape[1], self.group, size)
        own = self.own.update(key, value, layer)
        parts = [*self.shared.attend(query, layer, scaling), _part(query, *own, scaling)]
        shares = torch.stack([total for _, total in parts]).softmax(0)[..., None]
        output = sum(share * part for share, (part, _) in zip(shares, parts, strict=True))
        return output.to(query.dtype).view(rows, 1, heads, size)


class _KeptByBatches:
    """Replaces transformers' Cache while batches are answered: the part of it that models call."""

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
    """Attention by transformers' interface: plain SDPA, after the `beginning` that all sequences share, if given.

    With batches `going`, query, key and value (their rows, heads, 1, size) are those of each row's last token.
    """
    unknown = [name for name in ("softcap", "s_aux") if kwargs.get(name) is not None]
    if unknown:
        raise NotImplementedError(f"attention with {unknown[0]}")
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
    chooser: type[TokenChooser] = TokenChooser,
) -> list[list[Completion]]:
    """A completion for every prompt of every history, in their order.

    A row's result depends on its own prompt (and, when sampling, on its conversation's id, its turn and the seed), not
    on the other rows of its batch, but for rounding in the last bits. `progress` is called with the number of rows
    done. `selection`: those of the histories' `batches` to answer, one after the other; other histories get no
    completion. None: all batches; the last rows of one, once they hold an eighth of the tokens, go on with the next.
    """
    model.eval()
    own_attention = model.config._attn_implementation
    # The next batch begins once the rows of the last one hold so many tokens. In a selection it waits for all of them,
    # so that shards give the same replies as one job.
    waiting = 0
    if selection is None:
        most = batch_tokens(model, settings.max_batch_tokens)
        waiting = most // 8
        selection = batches(histories, replace(settings, max_batch_tokens=most - waiting))
    model.set_attn_implementation(_NAME)
    try:
        answering = _Answering(model, histories, end_id, settings, progress, chooser)
        for number, batch in enumerate(selection, 1):
            answering.answer(rows_of(histories, batch), waiting if number < len(selection) else 0)
    finally:
        model.set_attn_implementation(own_attention)
    answered = {at for batch in selection for at in batch}
    return [
        [answering.completions[at, turn] for turn in range(len(history.prompt_lengths))] if at in answered else []
        for at, history in enumerate(histories)
    ]


def _read_beginning(model: PreTrainedModel, histories: Sequence[History]) -> Layers:
    """Keys and values of the tokens that all prompts begin with, as one sequence."""
    begun = shared_beginning(histories)
    ids = torch.tensor([histories[0].ids[: max(begun, 1)]], device=model.device)
    layers = model(input_ids=ids, use_cache=True, logits_to_keep=1).past_key_values.layers
    return [(layer.keys[:, :, :begun], layer.values[:, :, :begun]) for layer in layers]


class _Answering:
    """The state of `generate`: batches in progress, and the completions of rows that ended."""

    def __init__(
        self,
        model: PreTrainedModel,
        histories: Sequence[History],
        end_id: int,
        settings: GenerationSettings,
        progress: Callable[[int], None],
        chooser: type[TokenChooser],
    ) -> None:
        self.model, self.histories, self.end_id, self.settings = model, histories, end_id, settings
        self.progress, self.chooser = progress, chooser
        self.beginning = _read_beginning(model, histories)
        self.going: list[_Batch] = []
        self.completions: dict[Row, Completion] = {}

    def answer(self, rows: Sequence[Row], waiting: int) -> None:
        """Answer a batch's rows together with those in progress, until the rest hold no more than `waiting` tokens.

        If memory does not suffice, the rows are answered in two halves, and so on.
        """
        try:
            self.going.append(
                _Batch(self.model, self.histories, rows, self.beginning, self.end_id, self.settings, self.chooser)
            )
            while sum(batch.held() for batch in self.going) > waiting:
                _step(self.model, self.going)
                for batch in self.going:
                    batch.choose(self.completions.__setitem__)
                self.progress(len(self.completions))
                self.going = [batch for batch in self.going if batch.open]
            return
        except torch.OutOfMemoryError:
            rows = sorted({*rows, *(row for batch in self.going for row in batch.rows)} - self.completions.keys())
            conversations = sorted({at for at, _ in rows})
            if len(conversations) == 1:
                history = self.histories[conversations[0]]
                raise UserError(
                    f"the GPU's memory does not suffice for one conversation of {len(history.ids)} tokens and its "
                    f"{len(history.prompt_lengths)} replies",
                    "lower 'max_new_tokens' or 'pair.samples', or take a GPU with more memory",
                ) from None
            self.going = []
        torch.cuda.empty_cache()  # outside of `except`, where the error keeps tensors alive
        half = len(conversations) // 2
        print(f"out of memory with {len(conversations)} conversations at a time: trying {half}", flush=True)
        middle = conversations[half]
        self.answer([row for row in rows if row[0] < middle], 0)
        self.answer([row for row in rows if row[0] >= middle], 0)


def _read(model: PreTrainedModel, histories: Sequence[History], beginning: Layers) -> Layers:
    """Keys and values of whole conversations, after the beginning."""
    begun = beginning[0][0].shape[2]
    rests = [history.ids[begun:] for history in histories]
    longest = max(map(len, rests))
    ids = torch.tensor([rest + [0] * (longest - len(rest)) for rest in rests], device=model.device)
    # Padding comes after the text, where causal attention never looks, so one mask serves all.
    mask = torch.ones(longest, begun + longest, dtype=torch.bool, device=model.device).tril(begun)
    output = model(
        input_ids=ids,
        position_ids=torch.arange(begun, begun + longest, device=model.device)[None],
        attention_mask=mask[None, None],  # a mask of four dimensions is used as it is
        beginning=beginning,
        use_cache=True,
        logits_to_keep=1,
    )
    return [(layer.keys, layer.values) for layer in output.past_key_values.layers]


def _step(model: PreTrainedModel, going: Sequence[_Batch]) -> None:
    """Feed each row's last token; gives each batch the logits for the next one, by the model's own head, in float32."""
    output = model(
        input_ids=torch.cat([batch.tokens for batch in going])[:, None],
        position_ids=torch.cat([batch.lengths + batch.own.length for batch in going])[:, None],
        attention_mask=torch.empty(1, 1, 1, 1, device=model.device),  # of four dimensions, so used as it is: not at all
        past_key_values=_KeptByBatches(max(batch.own.length for batch in going)),
        going=going,
        use_cache=True,
        logits_to_keep=1,
    )
    logits = output.logits[:, -1].float()
    for batch, part in zip(going, logits.split([len(batch.active) for batch in going]), strict=True):
        batch.logits = part
        batch.own.length += 1


def _slots(conversation: torch.Tensor) -> torch.Tensor:
    """A table (conversations, most rows of one) of rows, -1 for none, by each row's conversation (sorted)."""
    counts = conversation.bincount()
    starts = counts.cumsum(0) - counts
    slots = starts[:, None] + torch.arange(int(counts.max()), device=conversation.device)
    return slots.masked_fill(slots >= (starts + counts)[:, None], -1)
