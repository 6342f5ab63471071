"""The calls of Snakemake that work in this folder: which live, so that what a dead one locked can be unlocked."""

import fcntl
import os
import socket
from contextlib import suppress
from pathlib import Path

from pedalign.errors import UserError

LIVING = Path(".snakemake/living")  # locked by each call for as long as it lives; holds the hosts of all calls
LOCKS = Path(".snakemake/locks")  # Snakemake's own, which stay behind when a call is killed

_held: list[int] = []


def live() -> None:
    """Let others know, for as long as this process lives, that a call works here."""
    LIVING.parent.mkdir(exist_ok=True)
    file = os.open(LIVING, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
    with suppress(OSError):  # a network's file system without locks
        fcntl.flock(file, fcntl.LOCK_SH)
    if socket.gethostname() not in _hosts():
        os.write(file, f"{socket.gethostname()}\n".encode())
    _held.append(file)


def locked_by_the_dead() -> bool:
    """Whether there are locks, and the call that left them is dead for certain.

    Raises UserError where it lives, or where it may live on another machine.
    """
    if not LOCKS.is_dir() or not any(LOCKS.iterdir()):
        return False
    LIVING.touch()
    with open(LIVING) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                "another call of Snakemake works in this folder", "wait for its end, or work in another checkout"
            ) from None
        except OSError:
            raise UserError(
                "this folder is locked by a call of Snakemake, and its file system does not tell whether that lives",
                "once none does: snakemake --unlock",
            ) from None
        others = _hosts() - {socket.gethostname()}
        if others:
            raise UserError(
                f"this folder is locked by a call of Snakemake, which may live on {', '.join(sorted(others))}",
                f"once none lives there: rm {LIVING}; snakemake --unlock",
            )
    return True


def _hosts() -> set[str]:
    return set(LIVING.read_text().split())
