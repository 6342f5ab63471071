"""The head that training on the CPU uses gives what TRL's own gives."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from trl.kernels.chunked_logprob import ChunkedLogProbFunction

from pedalign.training import trl_log_probs
from pedalign.training.trl_log_probs import _InTiles


@pytest.mark.parametrize(
    ("bias", "temperature", "softcap", "scale"),
    [(False, 1.0, None, 1.0), (True, 0.7, None, 1.0), (False, 1.0, 30.0, 1.0), (True, 2.0, 5.0, 0.5)],
)
@pytest.mark.parametrize("tile", [2**24, 300 * 10])
@pytest.mark.parametrize("positions", [0, 37])
def test_its_log_probabilities_and_gradients_are_those_of_trls_head(
    bias, temperature, softcap, scale, positions, tile, monkeypatch
):
    monkeypatch.setattr(trl_log_probs, "TILE", tile)
    torch.manual_seed(0)
    given = [torch.randn(positions, 16), torch.randn(300, 16), torch.randn(300) if bias else None]
    targets = torch.randint(300, (positions,))
    likeliest = torch.nn.functional.linear(*given).argmax(-1)
    targets[:5] = likeliest[:5]
    made = []
    for function in (_InTiles, ChunkedLogProbFunction):
        inputs = [None if one is None else one.clone().requires_grad_() for one in given]
        log_probs, *_, hit = function.apply(
            *inputs, targets, temperature, 128, softcap, scale, ("log_probs", "is_top1")
        )
        (log_probs * torch.arange(positions)).sum().backward()
        made.append([log_probs, hit.float(), *(one.grad for one in inputs if one is not None)])
    for ours, theirs in zip(*made, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-4, rtol=1e-4)


class _Largest(TorchDispatchMode):
    """Notes the most numbers that a tensor has."""

    numbers = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        for one in made if isinstance(made, (list, tuple)) else [made]:
            if isinstance(one, torch.Tensor):
                self.numbers = max(self.numbers, one.numel())
        return made


def test_no_more_logits_than_a_tile_are_held_at_a_time(monkeypatch):
    monkeypatch.setattr(trl_log_probs, "TILE", 50 * 1000)
    hidden, weight = torch.randn(400, 16).requires_grad_(), torch.randn(1000, 16).requires_grad_()
    with _Largest() as largest:
        log_probs, *_ = _InTiles.apply(hidden, weight, None, torch.randint(1000, (400,)), 1.0, 128, None, 1.0, ())
        log_probs.sum().backward()
    assert largest.numbers == 50 * 1000
