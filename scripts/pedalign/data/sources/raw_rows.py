"""Reads the rows of a raw file that an importer takes: a JSON list, JSON lines, or an object that holds the list."""

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from pedalign.core.artifacts import parse_json
from pedalign.core.errors import UserError
from pedalign.data.formats import Look, looks_like
from pedalign.data.sources.imported import Unusable


def rows(lines: Iterable[str]) -> Iterator[Any]:
    """The rows of a raw file, given as its lines; for a line that is not JSON, an `Unusable` that says so.

    The file is a JSON list, JSON lines (blank ones are skipped), or one JSON object with the list under one of its
    keys. Raises UserError if a list is not JSON, or an object has no such list, or several.
    """
    text = "\n".join(lines).lstrip("\ufeff").strip()
    if text.startswith("["):
        yield from parse_json(text, "the JSON list")
    elif isinstance(whole := _parsed(text), dict) and text.startswith("{"):
        yield from _listed(whole)
    else:
        yield from (_parsed(line) for line in text.split("\n") if line.strip())


def looks_of(lines: Sequence[str]) -> Look | None:
    """What a raw file seems to be, by its first row; None if that is not known."""
    head = next(filter(str.strip, lines), "").lstrip("\ufeff")
    if "problems" in head.split(",") or head.startswith("- problem:"):
        return Look("a problem bank", "class")
    first = next((row for row in rows(lines) if isinstance(row, dict)), {})
    turns = first.get("conversations")
    if isinstance(turns, list) and turns and isinstance(turns[0], dict) and "from" in turns[0]:
        return looks_like(first) or Look("conversations of 'from' and 'value'", "sharegpt")
    return looks_like(first)


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return Unusable("not JSON")


def _listed(whole: dict[str, Any]) -> list[Any]:
    """The rows in the one object of a file: those of its list of objects, or itself if these are turns."""
    lists = {
        key: value
        for key, value in whole.items()
        if isinstance(value, list) and any(isinstance(v, dict) for v in value)
    }
    if any({"role", "content"} <= set(one) or {"from", "value"} <= set(one) for one in _objects(lists.values())):
        return [whole]
    if len(lists) > 1:
        names = " and ".join(map(repr, list(lists)[:4]))
        raise UserError(f"one JSON object, with lists under its keys {names}", "save the list of conversations alone")
    return next(iter(lists.values()), [whole])


def _objects(lists: Iterable[list[Any]]) -> Iterator[dict[str, Any]]:
    return (one for values in lists for one in values[:1] if isinstance(one, dict))
