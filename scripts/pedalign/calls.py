"""The calls of Snakemake in this folder: what they check before they start, and which live, so that what a dead one had
locked can be unlocked."""

import fcntl
import os
import shlex
import socket
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from pedalign.errors import UserError

LIVING = Path(".snakemake/living")  # locked by each call for as long as it lives; holds the hosts of all calls
LOCKS = Path(".snakemake/locks")  # Snakemake's own, which stay behind when a call is killed
_CLOCKS_DIFFER = 60  # seconds, of machines that share a folder

_held: list[int] = []


def check_writable(folder: Path) -> None:
    """Raises UserError where nothing can be written in the folder, or where it would be made."""
    there = next(one for one in (folder.absolute(), *folder.absolute().parents) if one.exists())
    if not os.access(there, os.W_OK):
        raise UserError(
            f"{folder}: no permission to write there",
            "change that (ls -ld shows permissions, mount read-only disks), or set 'results' in config.yaml",
        )


def check_clock(files: Iterable[str]) -> None:
    """Raises UserError where a file is newer than now: Snakemake would fail each job that reads it, as it ends."""
    future = [file for file in files if os.path.exists(file) and os.stat(file).st_mtime > time.time() + _CLOCKS_DIFFER]
    if future:
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(os.stat(future[0]).st_mtime))
        raise UserError(
            f"{future[0]}: was changed in the future ({when}), as are {len(future) - 1} other files",
            f"set the clock right, then: find {' '.join(_parts(future))} -newermt now -exec touch {{}} +",
        )


def _parts(files: Iterable[str]) -> list[str]:
    """What of the working directory holds these files, as a shell reads it; of files elsewhere their own folders."""
    inside = (Path(os.path.relpath(file)) for file in files)
    return sorted({shlex.quote(str(path.parent if path.parts[0] == ".." else path.parts[0])) for path in inside})


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
