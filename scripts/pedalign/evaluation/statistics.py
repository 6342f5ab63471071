"""Intervals and tests for replies that come in conversations.

Replies of one conversation are not independent, so conversations are resampled, never replies
(the cluster bootstrap; Davison & Hinkley 1997, section 3.8).
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
HELD = 2**20  # numbers in memory at a time while resampling


def resampled(counts: Array, resamples: int, seed: int) -> Array:
    """Bootstrap `counts` (conversations, ...): `resamples` draws of as many conversations, with replacement. Returns
    their sums (resamples, ...).

    Equal arguments draw the same conversations, so two tutors on the same test split are resampled in pairs.
    """
    rng, clusters = np.random.default_rng(seed), counts.shape[0]

    def some(draws: int) -> Array:
        drawn = rng.integers(clusters, size=(draws, clusters))
        places = drawn + clusters * np.arange(draws)[:, None]
        weights = np.bincount(places.ravel(), minlength=draws * clusters).reshape(draws, clusters)
        return np.tensordot(weights.astype(float), counts, axes=1)

    return np.concatenate([some(draws) for draws in _parts(resamples, clusters)])


def _parts(resamples: int, clusters: int) -> list[int]:
    """How many resamples to draw at a time, to limit memory."""
    size = max(1, HELD // clusters)
    return [min(size, resamples - done) for done in range(0, resamples, size)]


def interval(values: Array) -> list[float]:
    """The 95% percentile interval of resampled values; draws without a value (nan) are left out."""
    low, high = np.nanquantile(values, [0.025, 0.975])
    return [round(float(low), 6), round(float(high), 6)]


def permutation_p(differences: Array, resamples: int, seed: int) -> float:
    """Two-sided p-value of a paired permutation test on differences (conversations,): signs are flipped at random.

    The observed sum is counted among the permutations, so the test is valid (Phipson & Smyth 2010).
    """
    rng, observed, extreme = np.random.default_rng(seed), abs(differences.sum()), 0
    for draws in _parts(resamples, len(differences)):
        signs = rng.choice((-1.0, 1.0), size=(draws, len(differences)))
        extreme += int((np.abs(signs @ differences) >= observed - 1e-9).sum())
    return (extreme + 1) / (resamples + 1)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values (1979), in the given order: they control the error rate of all tests together."""
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, at in enumerate(sorted(range(len(p_values)), key=lambda at: p_values[at])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[at]))
        adjusted[at] = largest
    return adjusted
