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
    an algorithm without `uses_label_noise` takes every pair at its word. `sft_weight`: weight of the fine-tuning loss
    of the gold replies, for an algorithm with `uses_sft_weight`.
    Raises UserError where the algorithm is not known.
    """

    algorithm: str
    beta: float
    label_noise: float
    sft_weight: float = 1.0

    def __post_init__(self) -> None:
        if self.algorithm not in ALGORITHMS:
            raise UserError(f"algorithm '{self.algorithm}' is not known", nearest(self.algorithm, ALGORITHMS))


@dataclass(frozen=True)
class Algorithm:
    """An alignment algorithm: its loss, and all that the workflow has to know of it.

    `loss`: the settings that make TRL's loss exactly what the literature calls by the algorithm's name.
    `trainer`: TRL's trainer. DPO, CPO and ORPO learn from pairs, KTO from their single replies; CPO and ORPO have no
    reference model. `reads`: arguments of the trainer's config that this loss reads and others of its trainer ignore.
    `least_batch`: rows that a device must compute at a time; a loss that compares the rows of a batch needs two.
    """

    loss: Callable[[AlignmentSettings], dict[str, Any]]
    trainer: Literal["DPO", "KTO", "CPO", "ORPO"] = "DPO"
    uses_label_noise: bool = False
    uses_sft_weight: bool = False
    reads: tuple[str, ...] = ()
    least_batch: int = 1

    @property
    def rows(self) -> str:
        """What a row of the training is."""
        return "replies" if self.trainer == "KTO" else "pairs"

    @property
    def uses_reference(self) -> bool:
        return self.trainer in ("DPO", "KTO")


def expect_batch(algorithm: str, device_batch_size: int) -> None:
    """Raises UserError where a batch of an algorithm needs more rows than a device computes at a time."""
    least = ALGORITHMS[algorithm].least_batch
    if device_batch_size < least:
        raise UserError(
            f"{algorithm} compares the rows that a device computes at a time, at least {least}; device_batch_size is "
            f"{device_batch_size}",
            f"set device_batch_size to {least} or more under 'align' in the model's entry of config.yaml",
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


def _robust(settings: AlignmentSettings) -> dict[str, Any]:
    return {"loss_type": "robust", "label_smoothing": settings.label_noise}


def _exo(settings: AlignmentSettings) -> dict[str, Any]:
    return {"loss_type": "exo_pair", "label_smoothing": 1e-3}  # the paper's; it must not be 0


def _with_sft(settings: AlignmentSettings) -> dict[str, Any]:
    return {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, settings.sft_weight]}


def _cpo(settings: AlignmentSettings) -> dict[str, Any]:
    return {"loss_type": "sigmoid", "cpo_alpha": settings.sft_weight}


def _simpo(settings: AlignmentSettings) -> dict[str, Any]:
    return {"loss_type": "simpo", "cpo_alpha": 0.0}


_DIVERGENCES = ("f_divergence_type", "f_alpha_divergence_coef")  # only for losses of the difference of two rewards
_SMOOTHED = ("label_smoothing",)

# Formulas, and the loss before the first step: docs/explanation/algorithms.md.
ALGORITHMS = {
    "dpo": Algorithm(_loss_type("sigmoid"), reads=_DIVERGENCES),  # arXiv 2305.18290, equation 7
    # arXiv 2310.12036, equation 17, on log-probabilities per token
    "ipo": Algorithm(_loss_type("ipo"), reads=_DIVERGENCES),
    "rso": Algorithm(_loss_type("hinge"), reads=_DIVERGENCES),  # arXiv 2309.06657, the hinge-norm loss
    # "A note on DPO with noisy preferences and relationship to IPO" (Mitchell 2023)
    "cdpo": Algorithm(_conservative, uses_label_noise=True, reads=_DIVERGENCES),
    "kto": Algorithm(_loss_type("kto"), trainer="KTO", least_batch=2),  # arXiv 2402.01306, L_KTO
    "robust": Algorithm(_robust, uses_label_noise=True, reads=_DIVERGENCES),  # arXiv 2403.00409, equation 12
    "exo": Algorithm(_exo, reads=(*_SMOOTHED, *_DIVERGENCES)),  # arXiv 2402.00856, equation 16
    "nca": Algorithm(_loss_type("nca_pair")),  # arXiv 2402.05369, for two replies
    "bco": Algorithm(_loss_type("bco_pair")),  # arXiv 2404.04656, of a pair, without the shift of the reward
    "sppo": Algorithm(_loss_type("sppo_hard")),  # arXiv 2405.00675, equation 4.7 with hard preferences
    "aot": Algorithm(_loss_type("aot"), reads=_SMOOTHED, least_batch=2),  # arXiv 2406.05882
    "aot_unpaired": Algorithm(_loss_type("aot_unpaired"), reads=_SMOOTHED, least_batch=2),  # arXiv 2406.05882
    "apo_zero": Algorithm(_loss_type("apo_zero")),  # arXiv 2408.06266, equation 7
    "apo_down": Algorithm(_loss_type("apo_down")),  # arXiv 2408.06266, equation 8
    # arXiv 2406.08414, equation 5
    "discopop": Algorithm(_loss_type("discopop"), reads=("discopop_tau", *_DIVERGENCES)),
    # arXiv 2411.15124, equation 6: DPO on log-probabilities per token
    "dpo_norm": Algorithm(_loss_type("sigmoid_norm"), reads=_DIVERGENCES),
    "dpo_sft": Algorithm(_with_sft, uses_sft_weight=True, reads=_DIVERGENCES),  # arXiv 2404.19733, equation 1
    "cpo": Algorithm(_cpo, trainer="CPO", uses_sft_weight=True, reads=(*_SMOOTHED, "alpha")),  # arXiv 2401.08417, eq. 5
    # arXiv 2405.14734, equation 6
    "simpo": Algorithm(_simpo, trainer="CPO", reads=(*_SMOOTHED, "alpha", "simpo_gamma")),
    "orpo": Algorithm(lambda settings: {}, trainer="ORPO"),  # arXiv 2403.07691, equation 6
}
