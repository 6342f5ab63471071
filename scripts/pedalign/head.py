"""TRL's language-model head, made fast for the CPU.

TRL takes the log-probabilities of replies in tiles, once in the forward and once more in the backward pass, so that a
GPU's memory never holds all logits; and off GPUs it scores every position, since some accelerators need tensors of one
shape. A CPU has the memory, and takes any shape: all logits of the trained positions at once, in whose memory their
gradient is computed later. The losses are the same.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear
from trl.trainer import utils

from pedalign.processes import sharded


class _LogProbs(torch.autograd.Function):
    """Log-probabilities of targets (positions) by logits (positions, vocabulary), and whether each is the likeliest.

    The logits are overwritten, by the gradient in the end.
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


class _AllAtOnce:
    """In the place of TRL's autograd function."""

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
        """The log-probabilities of `targets` (positions), of `hidden` (positions, size), `weight` (vocabulary, size).

        Then what TRL logs besides: entropies and mean logits, which take a tenth of a step on the CPU and on which
        nothing depends, are nan; the log-sums of squared probabilities (WPO's weights) are left out; whether a target
        is the likeliest token is told.
        """
        logits = linear(hidden, weight, bias)
        if scale != 1:
            logits = logits * scale
        if softcap is not None:
            logits = softcap * torch.tanh(logits / softcap)
        if temperature != 1:
            logits = logits / temperature
        log_probs, hit = _LogProbs.apply(logits.float(), targets)
        unknown = torch.full_like(log_probs, float("nan"), requires_grad=False)
        return log_probs, unknown, None, unknown, hit


@contextmanager
def fast_head() -> Iterator[None]:
    """TRL's trainers train by it within, where there is no GPU. Sharded weights are left to TRL, which gathers them for
    its own function."""
    if torch.cuda.is_available():
        yield
        return
    original = utils._use_triton, utils._ChunkedLogProbFunction
    utils._use_triton = lambda device: True
    if not sharded():
        utils._ChunkedLogProbFunction = _AllAtOnce
    try:
        yield
    finally:
        utils._use_triton, utils._ChunkedLogProbFunction = original
