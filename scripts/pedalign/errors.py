"""The one exception for mistakes a user can mend, and the one place that prints it."""

import difflib
import os
import sys
from collections.abc import Callable, Iterable

from pedalign.phases import account


class UserError(Exception):
    """A mistake in what the user gave: `problem` says what and where, `remedy` how to mend it.

    Anything else that reaches the terminal as a traceback is a bug in the workflow.
    """

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(f"error: {_one_line(problem)}\n  mend: {_one_line(remedy)}")
        self.problem = problem
        self.remedy = remedy


def _one_line(text: str) -> str:
    return " ".join(text.split())


def nearest(name: str, valid: Iterable[str]) -> str:
    """A remedy for a wrong name: the nearest valid one if there is any, and all valid ones."""
    names = sorted(str(one) for one in valid)
    close = difflib.get_close_matches(str(name), names, n=1)
    suggestion = f"did you mean '{close[0]}'? " if close else ""
    return f"{suggestion}valid: {', '.join(names) or 'none'}"


def run(main: Callable[[], None]) -> None:
    """Run a script's `main`; a `UserError` ends it with two lines and status 1.

    A script with phases says at the end what it spent its time on. Of several processes, the first one speaks.
    """
    first = os.environ.get("RANK", "0") == "0"
    try:
        main()
    except UserError as error:
        sys.exit(str(error) if first else 1)
    if first and (spent := account()):
        print(spent, flush=True)
