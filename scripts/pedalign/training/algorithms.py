"""The registry of alignment algorithms: the one place where an algorithm is declared.

Light to import: the config is checked against it before anything is loaded.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from pedalign.core.errors import UserError, nearest


@dataclass(frozen=True)
class AlignmentSettings:
    """What an alignment is told: its algorithm, and the numbers in the loss.

    `beta`: weight of staying near the reference model. `label_noise`: share of pairs that may be the wrong way round;
    an algorithm without `uses_label_noise` takes every pair at its word.
    Raises UserError where the algorithm is not known.
    """

    algorithm: str
    beta: float
    label_noise: float

    def __post_init__(self) -> None:
        if self.algorithm not in ALGORITHMS:
            raise UserError(f"algorithm '{self.algorithm}' is not known", nearest(self.algorithm, ALGORITHMS))


@dataclass(frozen=True)
class Algorithm:
    """An alignment algorithm: its loss, and all that the workflow has to know of it.

    `loss`: the settings that make TRL's loss exactly what the literature calls by the algorithm's name.
    `rows`: what a row of the training is. "pairs" are trained by DPOTrainer. "replies" are the single replies of the
    pairs, trained by KTOTrainer; its estimate depends on the rows that all devices compute at a time.
    """

    loss: Callable[[AlignmentSettings], dict[str, Any]]
    rows: Literal["pairs", "replies"] = "pairs"
    uses_label_noise: bool = False


def expect_batch(rows: str, device_batch_size: int) -> None:
    """Raises UserError where a batch of an algorithm's `rows` needs more than a device computes at a time."""
    if rows == "replies" and device_batch_size < 2:
        raise UserError(
            f"single replies are trained in batches of two or more on each device, device_batch_size is "
            f"{device_batch_size}",
            "set device_batch_size to 2 or more under 'align' in the model's entry of config.yaml",
        )


def _loss_type(name: str) -> Callable[[AlignmentSettings], dict[str, Any]]:
    return lambda settings: {"loss_type": name}


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


ALGORITHMS = {
    "dpo": Algorithm(_loss_type("sigmoid")),  # arXiv 2305.18290, equation 7
    "ipo": Algorithm(_loss_type("ipo")),  # arXiv 2310.12036, equation 17, on log-probabilities per token
    "rso": Algorithm(_loss_type("hinge")),  # arXiv 2309.06657, the hinge-norm loss
    # "A note on DPO with noisy preferences and relationship to IPO" (Mitchell 2023)
    "cdpo": Algorithm(_conservative, uses_label_noise=True),
    "kto": Algorithm(_loss_type("kto"), rows="replies"),  # arXiv 2402.01306, L_KTO
}
