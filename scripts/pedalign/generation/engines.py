"""Chooses the engine for a model: the fastest of those that are proved to give this model's own replies.

The proof takes seconds. A few prompts are answered by transformers' own `generate`, each alone, and by the engine. Both
are made to write the same tokens, and at each step the log-probabilities of all tokens must agree. The prompts are on
both sides of every length at which the configuration says that something changes (a window, a chunk, scaled positions).

Rounding to 16 bits hides small mistakes, so a model in bfloat16 is also tried in float32, if memory allows.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from transformers import PreTrainedModel

from pedalign.core.errors import UserError, nearest
from pedalign.core.processes import sharded
from pedalign.data.conversations import Conversation
from pedalign.generation import plain_engine, shared_prefix_engine
from pedalign.generation.common import Completion, GenerationSettings, History, TokenChooser, history
from pedalign.models.checkpoints import free_memory
from pedalign.models.log_probs import length_switches, unwrapped
from pedalign.models.prompt_format import Renderer

Generate = Callable[..., list[list[Completion]]]
SHARED_PREFIX, PLAIN, VLLM = "shared_prefix", "plain", "vllm"
ALONE = "plain, one prompt at a time"
# The fastest first: "auto" takes the first that is proved. All are compared with the last one.
ENGINES: dict[str, Generate] = {
    SHARED_PREFIX: shared_prefix_engine.generate,
    PLAIN: plain_engine.generate,
    ALONE: partial(plain_engine.generate, padded=False),
}
_TOKENS = 8  # length of each reply in the proof
_NEVER = -1  # an end token that no model generates
_SIDES = 4  # a prompt ends so many tokens before a switch: its reply crosses it
# The difference of log-probabilities that counts as rounding: its lower and upper bound. Between them, it is four times
# the difference of the model's own forward pass from its `generate`. In float32 it is the largest of any token; in 16
# bits the mean, as unlikely tokens of a large vocabulary differ by 0.8 without a mistake (SmolLM2-135M; mean 0.08).
_EXACT, _ROUNDED = (1e-3, 1e-2), (0.15, 0.5)

Replies = dict[tuple[str, int], list[torch.Tensor]]  # history's id, turn → log-probabilities (vocabulary) of each step


@dataclass(frozen=True)
class Engine:
    """A chosen engine. `name`: as in records. `why`: why no faster one was chosen; empty if none is faster.

    vLLM has no `generate` here: it runs in an environment of its own (`vllm_engine`).
    """

    name: str
    generate: Generate = plain_engine.generate
    why: str = ""

    def __str__(self) -> str:
        return f"engine: {self.name}" + (f" ({self.why})" if self.why else "")


@torch.inference_mode()
def choose_engine(model: PreTrainedModel, histories: Sequence[History], settings: GenerationSettings) -> Engine:
    """The engine that `settings.engine` names (for "auto", the fastest), once it is proved for the model.

    The proof uses some of the `histories` to answer, and prompts of other lengths made of them. Raises UserError if
    no engine is proved, or transformers itself can't answer.
    """
    names = {"auto": list(ENGINES), **{name: [name] for name in ENGINES if name != ALONE}, PLAIN: [PLAIN, ALONE]}
    if settings.engine not in names:
        raise UserError(f"engine '{settings.engine}' is not known", nearest(settings.engine, names))
    training = model.training
    model.eval()
    probes = probe_histories(histories, settings.max_new_tokens, sorted(length_switches(model.config)))
    try:
        proofs = _proofs(model, probes)
        reasons = [proof.otherwise for proof in proofs if proof.otherwise][:1]
        for name in names[settings.engine]:
            problem = next(filter(None, (proof.problem(name) for proof in proofs)), None)
            if problem is None:
                return Engine(name, ENGINES[name], "; ".join(reasons))
            reasons.append(f"{name} can't serve it: {problem}")
    finally:
        model.train(training)
    raise UserError(
        f"engine '{settings.engine}' does not serve this {model.config.model_type} model: {reasons[-1]}",
        "set 'engine: auto' under 'generate' in the model's entry of config.yaml",
    )


def engine_for(model: Any, rendering: Renderer, conversations: Sequence[Conversation], engine: str) -> Engine:
    """The engine that a model, with an adapter or without, will use once it is trained on the conversations.

    Whether an engine is right depends on the model's computations, so it can be known before the training.
    """
    if engine == VLLM:
        return Engine(VLLM)
    order = sorted(conversations, key=lambda one: (sum(len(message["content"]) for message in one.messages), one.id))
    some = [order[at] for at in sorted({0, len(order) // 2, len(order) - 1})]
    histories = [
        history(one.id, [one.messages[: 2 * turn + 1] for turn in range(one.n_turns)], rendering) for one in some
    ]
    return choose_engine(unwrapped(model), histories, GenerationSettings(_TOKENS, 0, 0.0, 1.0, None, 0, engine))


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"


def probe_histories(histories: Sequence[History], max_new_tokens: int, switches: Sequence[int]) -> list[History]:
    """The prompts of the proof: the first and last of the shortest and of the longest history, and one that ends just
    before each of the `switches` that a reply can reach."""
    order = sorted(histories, key=lambda history: (len(history.ids), history.id))
    some = {at: order[at] for at in (0, len(order) - 1)}
    probes = [
        History(f"{at}", one.ids, sorted({one.prompt_lengths[0], one.prompt_lengths[-1]})) for at, one in some.items()
    ]
    shortest = min(min(probe.prompt_lengths) for probe in probes)
    longest = order[-1].ids
    for switch in switches:
        if shortest < switch <= len(longest) + max_new_tokens and switch > 2 * _SIDES:
            length = switch - _SIDES
            repeated = longest * (length // len(longest) + 1)
            probes.append(History(f"before {switch}", repeated[:length], [length]))
    return probes


def _proofs(model: PreTrainedModel, probes: Sequence[History]) -> "list[_Proof]":
    """A proof in float32, if memory suffices for such weights next to the model's, and one in the model's own dtype."""
    own, numbers = model.dtype, sum(one.numel() for one in _weights(model))
    if own == torch.float32:
        return [_Proof(model, probes, own, _EXACT)]
    proofs = []
    quantized = getattr(model, "is_quantized", False) or sharded()
    if not quantized and 1.2 * 4 * numbers < free_memory(model.device):
        with suppress(UserError):  # memory does not suffice after all
            proofs.append(_Proof(model, probes, torch.float32, _EXACT))
    least, most = _ROUNDED
    if not proofs:  # the forward pass may then differ by more than rounding, so it raises no bound
        most = least
    return [*proofs, _Proof(model, probes, own, (least, most))]


def _weights(model: PreTrainedModel) -> list[torch.Tensor]:
    return [one for one in (*model.parameters(), *model.buffers()) if one.is_floating_point()]


@contextmanager
def _computing_in(model: PreTrainedModel, dtype: torch.dtype) -> Iterator[None]:
    """Give the model weights of `dtype` within the block; afterwards they are the same tensors as before."""
    weights = [one for one in _weights(model) if one.dtype != dtype] if dtype != model.dtype else []
    own = [one.data for one in weights]
    try:
        for one in weights:
            one.data = one.data.to(dtype)
        yield
    finally:
        for one, data in zip(weights, own, strict=True):
            one.data = data


class _Proof:
    """The replies of transformers' `generate` to the probes, with the model in `dtype`, for comparison with engines.

    `rounding`: the bounds of the difference that counts as rounding. `otherwise`: a message if the model's own forward
    pass gives other numbers, else empty. Raises UserError if transformers can't answer.
    """

    def __init__(
        self, model: PreTrainedModel, probes: Sequence[History], dtype: torch.dtype, rounding: tuple[float, float]
    ) -> None:
        self.model, self.probes, self.dtype, kind = model, probes, dtype, model.config.model_type
        try:
            with _computing_in(model, dtype):
                self.truth = _answered(ENGINES[ALONE], model, probes)
                self.tokens = {key: [int(step.argmax()) for step in steps] for key, steps in self.truth.items()}
                forward = _forward(model, probes, self.tokens)
        except UserError:
            raise
        except Exception as error:  # a model's code can raise anything
            raise UserError(
                f"transformers' own generate fails with this {kind} model: {_said(error)}",
                "take a model of another architecture (docs/how-to/engines.md lists them)",
            ) from None
        if not all(torch.stack(steps).isfinite().all() for steps in self.truth.values()):
            raise UserError(
                f"the log-probabilities of this {kind} model are no numbers (nan or infinite)",
                "check its weights, and 'dtype' in the model's entry of config.yaml",
            )
        off = max(self._differences(forward).values())
        least, most = rounding
        self.allowed = min(max(least, 4 * off), most)
        self.otherwise = ""
        if off > most:
            self.otherwise = (
                f"transformers' generate and this model's forward pass differ by {off:.2g}; replies are generate's"
            )

    def problem(self, name: str) -> str | None:
        """How an engine's log-probabilities differ from the true ones; None if they agree up to rounding."""
        if name == ALONE:
            return None
        try:
            with _computing_in(self.model, self.dtype):
                found = _answered(ENGINES[name], self.model, self.probes, self.tokens)
        except Exception as error:  # a model's code can raise anything
            return _said(error)
        for (identity, turn), difference in self._differences(found).items():
            if not difference <= self.allowed:
                length = next(one for one in self.probes if one.id == identity).prompt_lengths[turn]
                return f"log-probabilities differ by {difference:.2g} behind a prompt of {length} tokens"
        return None

    def _differences(self, found: Replies) -> dict[tuple[str, int], float]:
        """Each prompt's difference from the true log-probabilities: the largest in float32, the mean in 16 bits."""
        exact = self.dtype == torch.float32
        offs = {key: (torch.stack(found[key]) - torch.stack(steps)).abs() for key, steps in self.truth.items()}
        return {key: float(off.max() if exact else off.mean()) for key, off in offs.items()}


def _chooser(seen: Replies, tokens: dict[tuple[str, int], list[int]] | None) -> type[TokenChooser]:
    """A TokenChooser that stores all log-probabilities in `seen` and takes the given tokens, else the likeliest."""

    class Recording(TokenChooser):
        def __init__(self, histories: Sequence[History], rows: Sequence[tuple[int, int]], *how: Any) -> None:
            self.keys = [(histories[at].id, turn) for at, turn in rows]

        def choose(self, logits: torch.Tensor, active: torch.Tensor, step: int) -> torch.Tensor:
            chosen = []
            for row, one in zip(active.tolist(), logits.float().log_softmax(-1).cpu(), strict=True):
                seen.setdefault(self.keys[row], []).append(one)
                chosen.append(tokens[self.keys[row]][step] if tokens else int(one.argmax()))
            return torch.tensor(chosen, device=logits.device)

    return Recording


def _answered(
    generate: Generate,
    model: PreTrainedModel,
    probes: Sequence[History],
    tokens: dict[tuple[str, int], list[int]] | None = None,
) -> Replies:
    seen: Replies = {}
    settings = GenerationSettings(_TOKENS, 0, 0.0, 1.0, None, 0)
    generate(model, probes, _NEVER, settings, chooser=_chooser(seen, tokens))
    return seen


def _forward(model: PreTrainedModel, probes: Sequence[History], tokens: dict[tuple[str, int], list[int]]) -> Replies:
    """The log-probabilities by one forward pass over each prompt and the tokens after it.

    In most models they differ from those of `generate` only by rounding; others compute differently as a text grows.
    """
    found: Replies = {}
    for probe in probes:
        for turn, length in enumerate(probe.prompt_lengths):
            ids = torch.tensor([[*probe.ids[:length], *tokens[probe.id, turn][:-1]]], device=model.device)
            logits = model(input_ids=ids, use_cache=False).logits[0, length - 1 :]
            found[probe.id, turn] = list(logits.float().log_softmax(-1).cpu())
    return found
