"""The registry of alignment algorithms: the loss that TRL computes for each, with its settings.

Light to import: the config is checked against it before anything is loaded.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class AlignmentSettings:
    """`beta`: weight of staying near the reference model. `label_noise`: share of pairs that may be the wrong way
    round (cdpo allows for it, the others take every pair at its word)."""

    algorithm: str
    beta: float
    label_noise: float


def _pairwise(loss_type: str) -> Callable[[AlignmentSettings], dict[str, Any]]:
    return lambda settings: {"loss_type": loss_type}


def _conservative(settings: AlignmentSettings) -> dict[str, Any]:
    """TRL ignores label_smoothing for its sigmoid loss, but not for its robust one.

    With P and N the losses of a pair as given and turned round, and noise e: robust R = ((1 - e) P - e N) / (1 - 2e).
    So 2 (1 - e) P - (1 - 2e) R = (1 - e) P + e N, which is wanted.
    """
    noise = settings.label_noise
    return {
        "loss_type": ["sigmoid", "robust"],
        "loss_weights": [2 * (1 - noise), -(1 - 2 * noise)],
        "label_smoothing": noise,
    }


# algorithm → TRL's loss, with the settings that make it exactly what the literature calls by that name
ALGORITHMS: dict[str, Callable[[AlignmentSettings], dict[str, Any]]] = {
    "dpo": _pairwise("sigmoid"),  # arXiv 2305.18290, equation 7
    "ipo": _pairwise("ipo"),  # arXiv 2310.12036, equation 17, on log-probabilities per token
    "rso": _pairwise("hinge"),  # arXiv 2309.06657, the hinge-norm loss
    "cdpo": _conservative,  # "A note on DPO with noisy preferences and relationship to IPO" (Mitchell 2023)
    "kto": _pairwise("kto"),  # arXiv 2402.01306, L_KTO
}
