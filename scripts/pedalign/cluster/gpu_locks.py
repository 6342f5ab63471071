"""Locks the GPUs of a machine for its jobs: one lock per GPU, which the kernel releases however its holder ends.

Snakemake counts GPUs but does not say which ones a job gets, and counts only those of its own jobs. Linux only.
"""

import fcntl
import os
import re
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from itertools import islice, takewhile
from pathlib import Path
from urllib.parse import quote

from pedalign.core.errors import UserError

_NVIDIA_SMI_TIMEOUT = 60.0  # seconds; it takes about ten to wake many GPUs
_PAUSES = (0.05, 1.0)  # seconds between two tries: at first, at most
_REMINDER = 300.0  # seconds until a waiting job reports again for whom it waits
_HOLDER_BYTES = 200


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Card:
    """A GPU as nvidia-smi lists it; `memory` in bytes, None if unknown."""

    index: str
    uuid: str
    name: str
    memory: int | None


def visible_devices() -> list[str]:
    """The GPUs that a process may use on this machine, as CUDA_VISIBLE_DEVICES names them.

    The variable counts up to its first invalid entry, as in CUDA (so "" and "-1" mean none). If it is not set: all GPUs
    that nvidia-smi lists. Raises UserError if nvidia-smi hangs.
    """
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is None:
        return [card.index for card in listed_cards()]
    valid = takewhile(re.compile(r"\d+|(GPU|MIG)-.+").fullmatch, (entry.strip() for entry in named.split(",")))
    return list(dict.fromkeys(valid))


def listed_cards() -> list[Card]:
    """All GPUs of this machine by nvidia-smi; none if it fails. Raises UserError if it hangs."""
    command = ["nvidia-smi", "--query-gpu=index,uuid,name,memory.total", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=_NVIDIA_SMI_TIMEOUT)
    except (FileNotFoundError, PermissionError):
        return []
    except subprocess.TimeoutExpired:
        raise UserError(
            f"nvidia-smi does not answer within {_NVIDIA_SMI_TIMEOUT:g} s",
            "see what `nvidia-smi` does in a shell; a driver that hangs needs a reboot",
        ) from None
    if answer.returncode != 0:
        _say(f"nvidia-smi failed: {' '.join((answer.stdout + answer.stderr).split())}")
        return []
    return read_cards(answer.stdout)


def read_cards(text: str) -> list[Card]:
    """The GPUs in output of nvidia-smi: index, uuid, name, MiB. Some print "No devices were found" and exit with 0."""
    rows = [[cell.strip() for cell in line.split(",")] for line in text.splitlines()]
    return [
        Card(index, uuid, name, int(memory) * 2**20 if memory.isdecimal() else None)
        for index, uuid, name, memory in (row for row in rows if len(row) == 4)
    ]


@contextmanager
def lease(
    count: int, devices: Sequence[str], report: Callable[[str], None] = _say, label: str = ""
) -> Iterator[list[str]]:
    """`count` of the distinct `devices`, held by this process alone until the block ends or the process dies.

    Waits until so many are free at once, and holds none while it waits. Jobs are served in the order in which they came
    (as far as the kernel keeps it), so one that wants all is not starved by many that want one. Programs that this
    process starts do not hold the locks; a fork without exec would. `report` prints for whom the job waits and what it
    got; `label` (if empty, the script's name) is how reports of other jobs name this one. Raises UserError if there are
    fewer devices than `count`, or if the locks can't be opened.
    """
    if count > len(devices):
        raise UserError(
            f"{_gpus(count)} asked for, {len(devices)} usable on this machine ({','.join(devices) or 'none'})",
            f"set gpu to at most {len(devices)} in the model's 'resources' in config.yaml, "
            "or run it on a cluster: snakemake --profile slurm",
        )
    if count == 0:
        yield []
        return
    holder = f"pid {os.getpid()} ({label or Path(sys.argv[0]).stem})"
    with ExitStack() as held:
        files = _open("gpu", devices, held)
        with ExitStack() as line:
            # One queue per device, so that jobs that share no device never wait for each other. All enter the queues in
            # the same order, or two jobs could each wait for the other.
            for file in _open("line", sorted(devices), line).values():
                if not _locked(file):
                    report(f"waiting for {_gpus(count)}, in line behind {_holder(file)}")
                    fcntl.flock(file, fcntl.LOCK_EX)
                _sign(file, holder)
            leased = _take(count, files, report)
            for device in leased:
                _sign(files[device], holder)
        report(f"leased {_gpus(count)} of this machine: {','.join(leased)}")
        yield leased


def _take(count: int, files: dict[str, int], report: Callable[[str], None]) -> list[str]:
    """Lock the files of `count` devices as soon as so many are free at once."""
    pause, longest = _PAUSES
    said, reminder = "", 0.0
    while True:
        taken = list(islice((device for device, file in files.items() if _locked(file)), count))
        if len(taken) == count:
            return taken
        busy = ", ".join(f"{device}: {_holder(file)}" for device, file in files.items() if device not in taken)
        for device in taken:
            fcntl.flock(files[device], fcntl.LOCK_UN)
        if busy != said or time.monotonic() > reminder:
            report(f"waiting for {_gpus(count)}; {busy}")
            said, reminder = busy, time.monotonic() + _REMINDER
        time.sleep(pause)
        pause = min(2 * pause, longest)


def _gpus(count: int) -> str:
    return f"{count} GPU{'' if count == 1 else 's'}"


def _locked(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _sign(file: int, holder: str) -> None:
    os.pwrite(file, holder.encode()[:_HOLDER_BYTES].ljust(_HOLDER_BYTES), 0)  # one write: nobody reads half of it


def _holder(file: int) -> str:
    return os.pread(file, _HOLDER_BYTES, 0).decode(errors="replace").strip() or "another job"


def _open(kind: str, devices: Iterable[str], until: ExitStack) -> dict[str, int]:
    """Device → descriptor of its lock file of this kind, open until `until` is closed."""
    files = {}
    try:
        folder = _folder()
        for device in devices:
            files[device] = _open_shared(folder / f"{kind}.{quote(device, safe='')}")
            until.callback(os.close, files[device])
    except OSError as error:
        raise UserError(
            f"no lock on GPUs: {error}",
            "set PEDALIGN_LEASES to a folder on a disk of this machine that all its users may write to",
        ) from None
    return files


def _open_shared(path: Path) -> int:
    """A descriptor to read and write a file that all users of the machine may lock; made if it is missing."""
    flags = os.O_RDWR | os.O_NOFOLLOW
    with suppress(FileExistsError):
        file = os.open(path, flags | os.O_CREAT | os.O_EXCL)
        os.fchmod(file, 0o666)  # whatever the umask
        return file
    return os.open(path, flags)  # with O_CREAT, another user's file in /tmp is refused (fs.protected_regular)


def _folder() -> Path:
    """The folder of the locks: one for all users and shells of the machine, so not below TMPDIR.

    Slurm may number the GPUs of each job from 0, so each Slurm job has a folder of its own. It is on a disk, because
    /run/lock is small.
    """
    job = os.environ.get("SLURM_JOB_ID")
    shared = Path("/run/lock")
    usable = not job and shared.is_dir() and shared.stat().st_mode & stat.S_IWOTH
    folders = [Path(os.environ.get("PEDALIGN_LEASES") or (shared if usable else Path("/tmp")) / "pedalign-gpus")]
    if job:
        node = os.environ.get("SLURMD_NODENAME", "")
        folders.append(folders[0] / quote(f"slurm.{job}.{node}", safe=""))
    for folder in folders:
        with suppress(FileExistsError):
            folder.mkdir(parents=True)
            folder.chmod(0o1777)  # whatever the umask; only who made it may do this
    return folders[-1]
