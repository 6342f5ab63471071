"""The one exception for mistakes a user can fix, and the one place that prints it."""

import argparse
import difflib
import errno
import os
import sys
from collections.abc import Callable, Iterable
from typing import NoReturn

import pedalign
from pedalign.core.time_spent import account
from pedalign.core.told import closing


class UserError(Exception):
    """A mistake in what the user gave: `problem` says what and where, `remedy` how to fix it.

    Any other exception, seen as a traceback, is a bug in the workflow.
    """

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(f"error: {_one_line(problem)}\n  fix: {_one_line(remedy)}")
        self.problem = problem
        self.remedy = remedy


_SHOWN = 2000  # most characters of a message


def _one_line(text: str) -> str:
    line = " ".join(text.split())
    return printable(line if len(line) <= _SHOWN else f"{line[:_SHOWN]}…")


def printable(text: str) -> str:
    """The text with control characters (escapes, direction marks) spelt out, so that no terminal acts on them."""
    return "".join(one if one.isprintable() or one == "\n" else one.encode("unicode_escape").decode() for one in text)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{self.prog}: {message}", f"python scripts/{self.prog} --help says what it takes")


def argument_parser(description: str | None) -> argparse.ArgumentParser:
    """A script's argument parser; `description` is the script's docstring."""
    return _Parser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)


def nearest(name: str, valid: Iterable[str]) -> str:
    """A remedy for a wrong name: the nearest valid one if there is any, and all valid ones."""
    names = sorted(str(one) for one in valid)
    close = difflib.get_close_matches(str(name), names, n=1)
    suggestion = f"did you mean '{close[0]}'? " if close else ""
    return f"{suggestion}valid: {', '.join(names) or 'none'}"


_DISKS = {
    errno.ENOSPC: "make room on that disk (df -h shows it), or set 'results' in config.yaml to a folder on another",
    errno.EDQUOT: "make room in your quota, or set 'results' in config.yaml to a folder on another disk",
    errno.EROFS: "mount it for writing, or set 'results' in config.yaml to a folder that can be written",
    errno.EACCES: "change its permissions (ls -l shows them), or set 'results' in config.yaml to a folder of yours",
    errno.EPERM: "change its permissions (ls -l shows them), or set 'results' in config.yaml to a folder of yours",
}


def disk_error(error: OSError) -> UserError | None:
    """The UserError for a disk that is full or cannot be written; None for any other error."""
    if error.errno not in _DISKS:
        return None
    return UserError(
        f"{error.filename or 'a file'}: {error.strerror}", f"{_DISKS[error.errno]}; what is finished stays"
    )


def run(main: Callable[[], None]) -> None:
    """Run a script's `main`; a `UserError`, or a disk that is full or read-only, ends it with two lines and status 1.

    At its end, a script prints what it made and, if it has phases, the time of each. Of several processes, only the
    first one prints.
    """
    pedalign.collect_as_usual()
    first = os.environ.get("RANK", "0") == "0"
    try:
        main()
    except UserError as error:
        sys.exit(str(error) if first else 1)
    except BrokenPipeError:  # the reader of our output has ended, such as `head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        problem = disk_error(error)
        if problem is None:
            raise
        sys.exit(str(problem) if first else 1)
    if first:
        for line in filter(None, (closing(), account())):
            print(line, flush=True)
