"""Reads and writes long lists in files in parts, so that memory stays flat."""

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

_PART = 2**20  # characters that are read at a time
_BEHIND = ",] \t\n\r"  # a member of a list
_SPACE = re.compile(r"[ \t\n\r]*")


def json_kind(value: Any) -> str:
    """What JSON calls a value."""
    names = {dict: "object", list: "list", str: "string", bool: "boolean", type(None): "null"}
    return names.get(type(value), "number")


def iterate_json(path: Path, of: str, remedy: str) -> Iterator[Any]:
    """The members of the JSON list in a file, one after another; no more than a part of the file is held at a time.

    Raises UserError as `read_json` does, and where it is not a list, of what `of` says.
    """
    try:
        with opened(path) as file:
            yield from _members(file)
    except (ValueError, RecursionError):
        kind = json_kind(read_json(path))  # which says what is wrong, and where
        raise UserError(f"{path}: a JSON {kind}, not a list of {of}", remedy) from None


def _members(file: TextIO) -> Iterator[Any]:
    """Raises ValueError where the file is not JSON, or not a list."""
    decode = json.JSONDecoder().raw_decode
    text, at = "", 0  # what was read, and how far it is used

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
                if end < len(text) and text[end] in _BEHIND:  # else it may be half a number
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
    """What `make` gives for each of the keys, whenever it is asked for."""

    def __init__(self, make: Callable[[Any], Any], keys: Sequence[Any]) -> None:
        self._make, self._keys = make, keys

    def __len__(self) -> int:
        return len(self._keys)

    def __getitem__(self, at: Any) -> Any:
        return Lazy(self._make, self._keys[at]) if isinstance(at, slice) else self._make(self._keys[at])

    def __iter__(self) -> Iterator[Any]:
        return map(self._make, self._keys)


class Stored(Sequence[Any]):
    """Records (JSON) in a temporary file, each read when it is asked for."""

    def __init__(self) -> None:
        self._file, self._starts = tempfile.TemporaryFile(), array("q")  # noqa: SIM115 (as long as this)

    def append(self, record: Any) -> None:
        self._starts.append(self._file.seek(0, os.SEEK_END))
        self._file.write(json.dumps(record).encode() + b"\n")

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, at: Any) -> Any:
        self._file.seek(self._starts[at])
        return json.loads(self._file.readline())


def read_records(path: Path) -> Sequence[Any]:
    """The members of the JSON list in a file. Of one that `write_records` wrote, each is read when it is asked for.

    Raises UserError as `read_json` does; where a record is not JSON, when it is asked for.
    """
    starts = array("q")
    if not path.is_file():
        return read_json(path)  # says what is wrong
    file = open(path, "rb")  # noqa: SIM115 (open as long as the records are asked for)
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
            read_json(path)  # says where
            raise

    return Lazy(record_at, starts)


class Table:
    """The rows of a CSV file with a header, read anew and one after another whenever they are asked for.

    Raises UserError as `iterate_csv` does.
    """

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        self.path, self.columns = path, columns

    def __iter__(self) -> Iterator[dict[str, str]]:
        return iterate_csv(self.path, self.columns)
