"""Detects trainings that went wrong, from their history: what should have become better, and did not."""

from collections.abc import Sequence
from typing import Any

_LEAST = 0.001  # share of its first value by which a loss falls that fell


def unlearned(history: Sequence[dict[str, Any]]) -> list[str]:
    """Of a training's steps, in words: a loss that did not fall, a margin of rewards that did not rise.

    Means of the first and the last quarter of the steps are compared; one step alone tells nothing.
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
