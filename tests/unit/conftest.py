"""The unit tests' models are so small that threads only wait for each other: one is several times as fast."""

import signal

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def sigterm():
    """Each test begins with the same handler of SIGTERM, which trainings replace."""
    handler = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, handler)
