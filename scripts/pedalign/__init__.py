"""The library that the workflow's scripts share."""

import gc

_USUAL = gc.get_threshold()


def collect_seldom() -> None:
    """While libraries are imported or 500 runs planned, which makes half a million objects and hardly any garbage."""
    gc.set_threshold(1_000_000, *_USUAL[1:])


def collect_as_usual() -> None:
    """Once all is imported: from now on garbage is collected as Python does, save in what was imported, which stays."""
    gc.freeze()
    gc.set_threshold(*_USUAL)


collect_seldom()
