"""The library that the workflow's scripts share."""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_USUAL = gc.get_threshold()


def collect_seldom() -> None:
    """Make garbage collection rare. Imports, or a plan of 500 runs, make half a million objects but little garbage."""
    gc.set_threshold(1_000_000, *_USUAL[1:])


def collect_as_usual() -> None:
    """Return to Python's usual garbage collection, but for the objects that exist now: imported code stays."""
    gc.freeze()
    gc.set_threshold(*_USUAL)


@contextmanager
def unseen(*packages: str) -> Iterator[None]:
    """Hide packages from imports: some libraries import an optional package just because it is installed."""
    hidden = {package: None for package in packages if package not in sys.modules}
    sys.modules.update(hidden)  # type: ignore[arg-type]  # None makes an import fail (Python's language reference)
    try:
        yield
    finally:
        for package in hidden:
            del sys.modules[package]


collect_seldom()
