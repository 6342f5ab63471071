"""Reads and stores long lists in parts, so that memory use stays flat."""

import json
import os
import re
import tempfile
from array import array
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

from pedalign.core.artifacts import iterate_csv, opened, read_json
from pedalign.core.errors import UserError

_PART = 2**20  # characters read at a time
_BEHIND = ",] \t\n\r"  # what may follow a member of a list
_SPACE = re.compile(r"[ \t\n\r]*")


def json_kind(value: Any) -> str:
    """The JSON name of a value's type."""
    names = {dict: "object", list: "list", str: "string", bool: "boolean", type(None): "null"}
    return names.get(type(value), "number")


def iterate_json(path: Path, of: str, remedy: str) -> Iterator[Any]:
    """The members of the JSON list in a file, one after another; only a part of the file is in memory.

    Raises UserError as `read_json` does, and if it is not a list; `of` says in the message what the list should hold.
    """
    try:
        with opened(path) as file:
            yield from _members(file)
    except (ValueError, RecursionError):
        kind = json_kind(read_json(path))  # if it is not JSON, raises UserError with the place
        raise UserError(f"{path}: a JSON {kind}, not a list of {of}", remedy) from None


def iterate_lines(path: Path) -> Iterator[Any]:
    """The values of JSON lines (one value a line), one after another. Blank lines are skipped.

    Raises UserError, with the line, where it is not JSON.
    """
    with opened(path) as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                value = json.loads(line)
            except (ValueError, RecursionError) as error:
                what = f"{error.msg} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else str(error)
                remedy = "write one JSON object on each line, with a JSON library"
                raise UserError(f"{path}: line {number}: not JSON: {what}", remedy) from None
            yield value


def _members(file: TextIO) -> Iterator[Any]:
    """The members of the JSON list in a file. Raises ValueError if the file is not JSON or not a list."""
    decode = json.JSONDecoder().raw_decode
    text, at = "", 0  # the part in memory, and the position in it

    def more() -> bool:
        nonlocal text, at
        part = file.read(max(_PART, len(text) - at))
        text, at = text[at:] + part, 0
        return bool(part)

    def mark() -> str:
        """The next character that is not space; "" at the end."""
        nonlocal at
        while True:
            at = _SPACE.match(text, at).end()  # type: ignore[union-attr]
            if at < len(text) or not more():
                return text[at : at + 1]

    def member() -> Any:
        nonlocal at
        while True:
            try:
                value, end = decode(text, at)
                if end < len(text) and text[end] in _BEHIND:  # else the number may go on
                    at = end
                    return value
            except json.JSONDecodeError:
                pass
            if not more():
                raise ValueError

    if mark() != "[":
        raise ValueError
    at += 1
    ended = mark() == "]"
    at += ended
    while not ended:
        mark()
        yield member()
        if mark() not in ("]", ","):
            raise ValueError
        ended = text[at] == "]"
        at += 1
    if mark():
        raise ValueError


class Lazy(Sequence[Any]):
    """A sequence of `make(key)` for each of the keys, computed at each access."""

    def __init__(self, make: Callable[[Any], Any], keys: Sequence[Any]) -> None:
        self._make, self._keys = make, keys

    def __len__(self) -> int:
        return len(self._keys)

    def __getitem__(self, at: Any) -> Any:
        return Lazy(self._make, self._keys[at]) if isinstance(at, slice) else self._make(self._keys[at])

    def __iter__(self) -> Iterator[Any]:
        return map(self._make, self._keys)


class Stored(Sequence[Any]):
    """A sequence of JSON records in a temporary file, each read at each access."""

    def __init__(self) -> None:
        self._file, self._starts = tempfile.TemporaryFile(), array("q")  # noqa: SIM115 (open as long as the object lives)

    def append(self, record: Any) -> None:
        self._starts.append(self._file.seek(0, os.SEEK_END))
        self._file.write(json.dumps(record).encode() + b"\n")

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, at: Any) -> Any:
        self._file.seek(self._starts[at])
        return json.loads(self._file.readline())


def read_records(path: Path) -> Sequence[Any]:
    """The members of the JSON list in a file; if `write_records` wrote the file, each is read at its access.

    Raises UserError as `read_json` does; for a record that is not JSON, at its access.
    """
    starts = array("q")
    if not path.is_file():
        return read_json(path)  # raises UserError
    file = open(path, "rb")  # noqa: SIM115 (open as long as the records are in use)
    opening, line, at = file.readline(), b"", 2
    for line in file:
        if not (line.startswith(b"{") and line.endswith((b"},\n", b"}\n"))):
            break
        starts.append(at)
        at += len(line)
    if opening != b"[\n" or line != b"]\n" or file.read(1):
        return read_json(path)

    def record_at(start: int) -> Any:
        file.seek(start)
        try:
            return json.loads(file.readline().decode().rstrip(",\n"))
        except (ValueError, RecursionError):
            read_json(path)  # raises UserError with the place
            raise

    return Lazy(record_at, starts)


class Table:
    """The rows of a CSV file with a header, read one after another, from the start in each loop.

    Raises UserError as `iterate_csv` does.
    """

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        self.path, self.columns = path, columns

    def __iter__(self) -> Iterator[dict[str, str]]:
        return iterate_csv(self.path, self.columns)
