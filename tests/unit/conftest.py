"""The unit tests' models are so small that threads only wait for each other: one is several times as fast."""

import torch

torch.set_num_threads(1)
