"""Checks before a call of Snakemake starts, and detects stale locks left by killed calls."""

import argparse
import fcntl
import json
import os
import shlex
import socket
import sys
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

import yaml
from snakemake.cli import get_argument_parser

from pedalign.core.errors import UserError
from pedalign.core.provenance import RENAMED, record_path

LIVING = Path(".snakemake/living")  # locked by each call while it runs; lists the hosts of all calls
LOCKS = Path(".snakemake/locks")  # Snakemake's own, which a killed call leaves behind
_CLOCKS_DIFFER = 60  # seconds by which clocks of machines with a shared folder may differ

_SETTINGS_SUFFIXES = (".yaml", ".yml", ".json")
_CHECK_PATH = "check the path: it is taken from where Snakemake is called; a target stands first, or after --"
_FIX_FILE = "write it as config.yaml is written: names and values, of which it needs only those that differ"
_TARGETS_FIRST = "put targets first (snakemake --cores all TARGET {option}), or after --"

_held: list[int] = []


def check_command_line() -> None:
    """End the call with two lines if a settings file can't be read, or if Snakemake would read a target as a settings
    file or a setting, because it comes after --configfile or --config.

    profiles/default calls this before Snakemake reads such files.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--configfile", "--configfiles", nargs="+", default=[])
    parser.add_argument("--config", "-C", nargs="*", default=[])
    known, _ = parser.parse_known_args(sys.argv[1:])
    for file in map(Path, known.configfile):
        if problem := _no_settings(file):
            fix = _TARGETS_FIRST.format(option="--configfile my.yaml")
            if file.suffix in _SETTINGS_SUFFIXES and not record_path(file).exists():
                fix = _FIX_FILE if file.exists() else _CHECK_PATH
            told = f"{file}: Snakemake reads what follows --configfile as a settings file, and {problem}"
            sys.exit(str(UserError(told, fix)))
    check_rule_names(sys.argv[1:])
    for entry in known.config:
        if "=" not in entry:
            problem = f"{entry}: Snakemake reads what follows --config as a setting, and this is no name=value"
            sys.exit(str(UserError(problem, _TARGETS_FIRST.format(option="--config seed=7"))))
        if not entry.partition("=")[0].isidentifier():
            problem = f"{entry}: --config takes a name at the top level of config.yaml"
            sys.exit(str(UserError(problem, "write what is nested into a file, and give it: --configfile my.yaml")))


_STAGES = ("sft", "generate", "pair", "align", "score")  # rules with a job for each model, tutor or split
# Rules and targets of older versions → their present names.
_OLD = {**RENAMED, "respond_shard": "generate_shard", "splits": "split", "preferences": "pair", "evaluate": "score"}


def check_rule_names(arguments: Sequence[str]) -> None:
    """End the call with two lines if it uses an old name of a rule or target, or a stage as a target. Snakemake would
    refuse such a target, because a stage has a job for each model."""
    known, _ = get_argument_parser().parse_known_args(arguments)
    named = {*known.targets, *(known.until or ()), *(known.omit_from or ()), *(known.forcerun or ())}
    for name in sorted(named, key=" ".join(arguments).find):  # Snakemake keeps some as sets
        if now := _OLD.get(name):
            whole = f": snakemake --cores all {f'--until {now}' if now in _STAGES else now}"
            fix = f"write {now}" + (whole if name in known.targets else "")
            sys.exit(str(UserError(f"{name}: is called {now} now", fix)))
    for name in known.targets:
        if name in _STAGES:
            fix = f"snakemake --cores all --until {name} makes those of all runs; or name the file that you want"
            sys.exit(str(UserError(f"{name}: as a target, it does not say of which model or tutor", fix)))


def _no_settings(file: Path) -> str:
    """Why this is not a settings file; empty if it is one."""
    if file.is_dir():
        return "this is a folder"
    if not file.exists():
        return "there is no such file"
    if record_path(file).exists():
        return "this was made by the workflow"
    if not file.is_file():  # a pipe, which can be read only once
        return ""
    try:
        text = file.read_text(encoding="utf-8")
        try:
            settings = json.loads(text)
        except ValueError:
            settings = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        where = f" (line {error.problem_mark.line + 1}: {error.problem})" if error.problem_mark else ""
        return f"this is neither JSON nor YAML{where}"
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        return f"this can't be read: {error}"
    return "" if isinstance(settings, dict) else "this has no names at its top level"


def check_writable(folder: Path) -> None:
    """Raises UserError if nothing can be written in the folder or, if it is missing, if it can't be made."""
    there = next(one for one in (folder.absolute(), *folder.absolute().parents) if one.exists())
    if not os.access(there, os.W_OK):
        raise UserError(
            f"{folder}: no permission to write there",
            "change that (ls -ld shows permissions, mount read-only disks), or set 'results' in config.yaml",
        )


def check_clock(files: Iterable[str]) -> None:
    """Raises UserError if a file is newer than now: Snakemake would fail each job that reads it, at the job's end."""
    future = [file for file in files if os.path.exists(file) and os.stat(file).st_mtime > time.time() + _CLOCKS_DIFFER]
    if future:
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(os.stat(future[0]).st_mtime))
        others = f", as are {len(future) - 1} other files" if len(future) > 1 else ""
        raise UserError(
            f"{future[0]}: was changed in the future ({when}){others}",
            f"set the clock right, then: find {' '.join(_parts(future))} -newermt now -exec touch {{}} +",
        )


def _parts(files: Iterable[str]) -> list[str]:
    """Entries of the working directory that hold these files, or for files elsewhere their folders, shell-quoted."""
    inside = (Path(os.path.relpath(file)) for file in files)
    return sorted({shlex.quote(str(path.parent if path.parts[0] == ".." else path.parts[0])) for path in inside})


def live() -> None:
    """Show other calls, as long as this process runs, that a call runs in this folder: hold a shared lock on LIVING."""
    LIVING.parent.mkdir(exist_ok=True)
    file = os.open(LIVING, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
    with suppress(OSError):  # a network file system without locks
        fcntl.flock(file, fcntl.LOCK_SH)
    if socket.gethostname() not in _hosts():
        os.write(file, f"{socket.gethostname()}\n".encode())
    _held.append(file)


def locked_by_the_dead() -> bool:
    """Whether there are stale locks: locks of a call that has certainly ended.

    Raises UserError if the call still runs, or may still run on another machine.
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
                "this folder is locked by a call of Snakemake; its file system does not show whether that still runs",
                "if no call runs: snakemake --unlock",
            ) from None
        others = _hosts() - {socket.gethostname()}
        if others:
            raise UserError(
                f"this folder is locked by a call of Snakemake, which may still run on {', '.join(sorted(others))}",
                f"if none runs there: rm {LIVING}; snakemake --unlock",
            )
    return True


def _hosts() -> set[str]:
    return set(LIVING.read_text().split())
