"""The log-probabilities on which TRL's trainers train, and the proof that they are the model's own.

TRL replaces the model's own last step: it multiplies hidden states by the output embeddings, and applies to the logits
what it knows of the model. That is fast and saves memory, but is wrong for some architectures. So before a training its
log-probabilities are compared with the model's plain forward pass; if they differ, the training uses the model's own
logits (`prove_head`).

On the CPU, TRL's function scores every position, since some accelerators need tensors of one shape. Ours, which
replaces it there (`fast_head`), scores only the trained positions.
"""

import functools
import types
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear
from transformers.integrations.liger import apply_liger_kernel
from trl.trainer import utils
from trl.trainer.utils import FusedCausalLMOutput

from pedalign.core.errors import UserError
from pedalign.core.processes import everywhere, is_first_process, sharded
from pedalign.models.log_probs import agree, forget_lengths, keeps_last_logits, log_probabilities_alone, unwrapped

# Logits in memory at a time: 64 MB as float32. With a vocabulary of 49,152 these are 341 positions, with 8,192 2,048.
TILE = 2**24
FUSED, OWN, ALONE = "fused", "the model's", "the model's, row by row"  # ways to get log-probabilities, best first
_PER_TOKEN = ("log_probs", "entropy", "mean_logits", "is_top1", "label_mask")


class _LogProbs(torch.autograd.Function):
    """Log-probabilities of targets (positions) from logits (positions, vocabulary), and whether each target is the most
    likely token.

    The logits are overwritten, at the end by their gradient.
    """

    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        top = logits.amax(-1)
        at = targets[:, None]
        of_targets = logits.gather(1, at).squeeze(1)
        masses = logits.sub_(top[:, None]).exp_()
        total = masses.sum(-1)
        hit = of_targets == top
        ctx.save_for_backward(masses, total, at)
        ctx.mark_non_differentiable(hit)
        return of_targets - top - total.log(), hit

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor, _: torch.Tensor) -> tuple[torch.Tensor, None]:
        masses, total, at = ctx.saved_tensors
        masses.mul_((-gradient / total)[:, None])
        return masses.scatter_add_(1, at, gradient[:, None]), None


class _TiledLogProbs(torch.autograd.Function):
    """`of_logits` of all logits, which are computed a tile at a time, and again for their gradient. The gradient of the
    weights is accumulated in place."""

    @staticmethod
    @torch.amp.custom_fwd(device_type="cpu")
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        targets: torch.Tensor,
        of_logits: Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]],
    ) -> tuple[torch.Tensor, torch.Tensor]:
        ctx.save_for_backward(hidden, weight, bias, targets)
        ctx.of_logits = of_logits
        size = _tile(weight)
        parts = [
            of_logits(linear(states, weight, bias), tokens)
            for states, tokens in zip(hidden.split(size), targets.split(size), strict=True)
        ]
        log_probs, hit = (torch.cat(part) for part in zip(*parts, strict=True))
        ctx.mark_non_differentiable(hit)
        return log_probs, hit

    @staticmethod
    @once_differentiable
    @torch.amp.custom_bwd(device_type="cpu")
    def backward(ctx: Any, gradient: torch.Tensor, _: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # type: ignore[override]
        hidden, weight, bias, targets = ctx.saved_tensors
        needed = ctx.needs_input_grad
        of_hidden = torch.empty_like(hidden)
        of_weight = torch.zeros_like(weight) if needed[1] else None
        of_bias = torch.zeros_like(bias) if needed[2] else None
        size = _tile(weight)
        tiles = zip(*(one.split(size) for one in (hidden, targets, gradient, of_hidden)), strict=True)
        for states, tokens, of_log_probs, of_states in tiles:
            logits = linear(states, weight, bias).requires_grad_()
            with torch.enable_grad():
                log_probs, _ = ctx.of_logits(logits, tokens)
            (of_logits,) = torch.autograd.grad(log_probs, logits, of_log_probs)
            of_states.copy_(of_logits @ weight)
            if of_weight is not None:
                of_weight.addmm_(of_logits.to(weight.dtype).T, states.to(weight.dtype))
            if of_bias is not None:
                of_bias += of_logits.sum(0)
        return of_hidden, of_weight, of_bias, None, None


def _tile(weight: torch.Tensor) -> int:
    """The number of positions that have TILE logits."""
    return max(1, TILE // len(weight))


class _InTiles:
    """Replaces TRL's autograd function."""

    @staticmethod
    def apply(
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        targets: torch.Tensor,
        temperature: float,
        chunk_size: int,
        softcap: float | None,
        scale: float,
        outputs: Sequence[str],
    ) -> tuple[torch.Tensor | None, ...]:
        """Log-probabilities of `targets` (positions), from `hidden` (positions, size) and `weight` (vocabulary, size).

        Then figures that TRL logs. Entropies and mean logits are nan: they take a tenth of a step on the CPU, and
        nothing depends on them. The log-sums of squared probabilities (WPO's weights) are None. The last one says
        whether a target is the most likely token.

        If there are more than TILE logits, one tile is in memory at a time.
        """

        def of_logits(logits: torch.Tensor, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            if scale != 1:
                logits = logits * scale
            if softcap is not None:
                logits = softcap * torch.tanh(logits / softcap)
            if temperature != 1:
                logits = logits / temperature
            return _LogProbs.apply(logits.float(), tokens)

        if len(targets) <= _tile(weight):
            log_probs, hit = of_logits(linear(hidden, weight, bias), targets)
        else:
            log_probs, hit = _TiledLogProbs.apply(hidden, weight, bias, targets, of_logits)
        unknown = torch.full_like(log_probs, float("nan"), requires_grad=False)
        return log_probs, unknown, None, unknown, hit


@contextmanager
def fast_head() -> Iterator[None]:
    """Within this context TRL's trainers use our function, if there is no GPU. Sharded weights are left to TRL, which
    gathers them for its own function."""
    if torch.cuda.is_available():
        yield
        return
    original = utils._use_triton, utils._ChunkedLogProbFunction
    utils._use_triton = lambda device: True
    if not sharded():
        utils._ChunkedLogProbFunction = _InTiles
    try:
        yield
    finally:
        utils._use_triton, utils._ChunkedLogProbFunction = original


def prove_head(trainer: Any, batches: Sequence[dict[str, torch.Tensor]]) -> str:
    """Set the model to the first correct way to get log-probabilities in this training, and return it: FUSED, OWN or
    ALONE.

    A way is correct if on `batches` (`input_ids`, `attention_mask` and `labels` of trained tokens, all (rows, tokens))
    it gives the log-probabilities of each row alone by the model's plain forward pass; and, for a mixture of experts,
    the model's auxiliary loss. All processes of a training choose the same.
    Raises UserError if no way is correct.
    """
    model = unwrapped(trainer.model)
    given, was_training = model.forward, model.training
    trainer.model.eval()  # dropout would look like a mistake
    problem = ""
    ways = {FUSED: given, OWN: _own_head(model, given, False), ALONE: _own_head(model, given, True)}
    for way, forward in ways.items():
        model.forward = forward
        try:
            right = all(_is_right(trainer, batch, way) for batch in batches)
            problem = problem or "the log-probabilities of a batch are not those of its rows alone"
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # an architecture may raise anything
            right, problem = False, f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
        if everywhere(right):
            trainer.model.train(was_training)
            if way != FUSED and is_first_process():
                print(f"log-probabilities: {way}; TRL's are wrong for {type(model).__name__}", flush=True)
            return way
    raise UserError(
        f"{type(model).__name__} cannot be trained here: {problem}", "set another model in its entry of config.yaml"
    )


def _own_head(model: Any, given: Callable[..., Any], alone: bool) -> Callable[..., Any]:
    """A forward pass that replaces `given`, which TRL has put into the model: with `fused_lm_head`, log-probabilities
    from the model's own logits, of all rows together or of each row `alone`."""

    keeps = keeps_last_logits(model)

    def of_rows(labels: torch.Tensor, inputs: dict[str, Any]) -> FusedCausalLMOutput:
        targets = labels[:, 1:]
        mask = targets != -100
        first = int(mask.any(0).int().argmax())
        if keeps:
            inputs = {**inputs, "logits_to_keep": labels.shape[1] - first}
        outputs = given(**inputs)
        logits = outputs.logits[:, first - labels.shape[1] : -1][mask[:, first:]]
        per_token = _LogProbs.apply(logits.float(), targets[mask])
        log_probs, hit = (one.new_zeros(mask.shape).masked_scatter(mask, one) for one in per_token)
        unknown = torch.full_like(log_probs, float("nan"), requires_grad=False).masked_fill(~mask, 0)
        aux_loss = getattr(outputs, "aux_loss", None)
        return FusedCausalLMOutput(
            log_probs=log_probs, entropy=unknown, mean_logits=unknown, is_top1=hit, label_mask=mask, aux_loss=aux_loss
        )

    @functools.wraps(type(model).forward)
    def forward(
        self: Any, *args: Any, fused_lm_head: bool = False, labels: torch.Tensor | None = None, **inputs: Any
    ) -> Any:
        if not fused_lm_head or labels is None:
            return given(*args, labels=labels, **inputs)
        if not alone:
            return of_rows(labels, inputs)
        ids, lengths = inputs.pop("input_ids"), inputs.pop("attention_mask").sum(1).tolist()
        made = []
        for row, length in enumerate(lengths):
            forget_lengths(self, ids)
            made.append(of_rows(labels[row : row + 1, :length], {**inputs, "input_ids": ids[row : row + 1, :length]}))

        def padded(name: str) -> torch.Tensor:
            whole = getattr(made[0], name).new_zeros(len(ids), ids.shape[1] - 1)
            for row, one in enumerate(made):
                whole[row, : lengths[row] - 1] = getattr(one, name)[0]
            return whole

        aux_losses = [one.aux_loss for one in made if one.aux_loss is not None]
        aux_loss = torch.stack(aux_losses).mean() if aux_losses else None
        return FusedCausalLMOutput(**{name: padded(name) for name in _PER_TOKEN}, aux_loss=aux_loss)

    return types.MethodType(forward, model)


@torch.no_grad()
def _is_right(trainer: Any, batch: dict[str, torch.Tensor], way: str) -> bool:
    options: dict[str, Any] = {"output_router_logits": True} if trainer.aux_loss_enabled else {}
    batch = {name: one.to(trainer.model.device) for name, one in batch.items()}
    labels, rows = batch["labels"], {name: one for name, one in batch.items() if name != "labels"}
    model = unwrapped(trainer.model)
    with trainer.accelerator.autocast():
        found = trainer.model(**batch, **options, use_cache=False, fused_lm_head=True)
        for row, length in enumerate(batch["attention_mask"].sum(1).tolist()):
            ids, trained = batch["input_ids"][row, :length].tolist(), labels[row, :length] != -100
            start = int(trained.int().argmax())
            alone = log_probabilities_alone(model, ids[:start], ids[start:])[trained[start:]]
            if not agree(found.log_probs[row, : length - 1][trained[1:]], alone, computing_dtype(trainer)):
                return False
        if options and way == FUSED:
            own = model(**rows, **options, use_cache=False).aux_loss
            return bool(torch.isclose(found.aux_loss, own, rtol=1e-2 if trainer.args.bf16 else 1e-4))
    if options and found.aux_loss is None:
        trainer.aux_loss_enabled = False  # the configuration has one, but the forward pass returns none
    return True


def apply_kernels(trainer: Any) -> None:
    """Put Liger's kernels into the model, if the training has them. The trainer itself would do so as it starts to
    train, after the proof."""
    if trainer.args.use_liger_kernel:
        apply_liger_kernel(trainer.model, trainer.args.liger_kernel_config)
        trainer.args.use_liger_kernel = False


def computing_dtype(trainer: Any) -> torch.dtype:
    """The dtype in which a training computes; its weights may have more bits."""
    return torch.bfloat16 if trainer.args.bf16 else trainer.model.dtype
