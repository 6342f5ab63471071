"""Measures what a job spends its time on, and prints it as the last line of its log."""

import time

_begun: list[tuple[str, float]] = []


def begin(phase: str) -> None:
    """From now on the job's time is spent on this: working, loading, training, generating or saving."""
    _begun.append((phase, time.monotonic()))


def account() -> str:
    """`time: 0.40 s loading, 121.30 s training, 0.51 s saving`. What came before the first phase is not in it."""
    if not _begun:
        return ""
    ends = [moment for _, moment in _begun[1:]] + [time.monotonic()]
    spent: dict[str, float] = {}
    for (phase, start), end in zip(_begun, ends, strict=True):
        spent[phase] = spent.get(phase, 0.0) + end - start
    return "time: " + ", ".join(f"{seconds:.2f} s {phase}" for phase, seconds in spent.items())
