"""The library that the workflow's scripts share."""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_USUAL = gc.get_threshold()


def collect_seldom() -> None:
    """While libraries are imported or 500 runs planned, which makes half a million objects and hardly any garbage."""
    gc.set_threshold(1_000_000, *_USUAL[1:])


def collect_as_usual() -> None:
    """Once all is imported: from now on garbage is collected as Python does, save in what was imported, which stays."""
    gc.freeze()
    gc.set_threshold(*_USUAL)


@contextmanager
def unseen(*packages: str) -> Iterator[None]:
    """As if these were not installed, for imports of libraries that take them where they are, whether needed or not."""
    hidden = {package: None for package in packages if package not in sys.modules}
    sys.modules.update(hidden)  # type: ignore[arg-type]  # None: an import fails, by Python's reference
    try:
        yield
    finally:
        for package in hidden:
            del sys.modules[package]


collect_seldom()
