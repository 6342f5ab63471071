"""Detects trainings that went wrong, from their history: figures that should have improved and did not."""

from collections.abc import Sequence
from typing import Any

_LEAST = 0.001  # a loss fell if it is lower by more than this share of its first value


def unlearned(history: Sequence[dict[str, Any]]) -> list[str]:
    """Problems of a training, in words: a loss that did not fall, a reward margin that did not rise.

    Compares the means of the first and the last quarter of the steps; a single step shows nothing.
    """
    problems = []
    for name, what, sign in (("loss", "the loss did not fall", -1), ("rewards/margins", "the margin did not rise", 1)):
        values = [step[name] for step in history if name in step]
        if len(values) > 1:
            quarter = max(1, len(values) // 4)
            first, last = (sum(part) / quarter for part in (values[:quarter], values[-quarter:]))
            if not sign * (last - first) > (_LEAST * abs(first) if name == "loss" else 0):
                problems.append(f"{what} ({first:.4f} at first, {last:.4f} at last)")
    return problems
