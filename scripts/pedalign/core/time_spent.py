"""Measures what a job spends its time on, and prints it as the last line of its log."""

import time

_begun: list[tuple[str, float]] = []


def begin(phase: str) -> None:
    """Begin a phase of the job: working, loading, training, generating or saving."""
    _begun.append((phase, time.monotonic()))


def account() -> str:
    """The time of each phase: `time: 0.40 s loading, 121.30 s training`. Time before the first phase is not counted."""
    if not _begun:
        return ""
    ends = [moment for _, moment in _begun[1:]] + [time.monotonic()]
    spent: dict[str, float] = {}
    for (phase, start), end in zip(_begun, ends, strict=True):
        spent[phase] = spent.get(phase, 0.0) + end - start
    return "time: " + ", ".join(f"{seconds:.2f} s {phase}" for phase, seconds in spent.items())
