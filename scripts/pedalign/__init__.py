"""The library that the workflow's scripts share."""

import gc

# To import the libraries makes half a million objects and no garbage, to plan 500 runs as many: they are not looked
# through meanwhile.
_USUAL = gc.get_threshold()
gc.set_threshold(1_000_000, *_USUAL[1:])


def collect_as_usual() -> None:
    """Once all is imported: from now on garbage is collected as Python does, save in what was imported, which stays."""
    gc.freeze()
    gc.set_threshold(*_USUAL)
