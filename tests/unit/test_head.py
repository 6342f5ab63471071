"""The head that training on the CPU uses gives what TRL's own gives."""

import pytest
import torch
from trl.kernels.chunked_logprob import ChunkedLogProbFunction

from pedalign.head import _AllAtOnce


@pytest.mark.parametrize(
    ("bias", "temperature", "softcap", "scale"),
    [(False, 1.0, None, 1.0), (True, 0.7, None, 1.0), (False, 1.0, 30.0, 1.0), (True, 2.0, 5.0, 0.5)],
)
@pytest.mark.parametrize("positions", [0, 37])
def test_its_log_probabilities_and_gradients_are_those_of_trls_head(bias, temperature, softcap, scale, positions):
    torch.manual_seed(0)
    given = [torch.randn(positions, 16), torch.randn(300, 16), torch.randn(300) if bias else None]
    targets = torch.randint(300, (positions,))
    likeliest = torch.nn.functional.linear(*given).argmax(-1)
    targets[:5] = likeliest[:5]
    made = []
    for function in (_AllAtOnce, ChunkedLogProbFunction):
        inputs = [None if one is None else one.clone().requires_grad_() for one in given]
        log_probs, *_, hit = function.apply(
            *inputs, targets, temperature, 128, softcap, scale, ("log_probs", "is_top1")
        )
        (log_probs * torch.arange(positions)).sum().backward()
        made.append([log_probs, hit.float(), *(one.grad for one in inputs if one is not None)])
    for ours, theirs in zip(*made, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-4, rtol=1e-4)
