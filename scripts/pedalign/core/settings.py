"""Reads a script's settings: one JSON object, as rules pass it, or a YAML or JSON file, as people write it."""

import dataclasses
import json
from argparse import ArgumentParser
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

from pedalign.core.artifacts import read_json, read_settings_file
from pedalign.core.errors import UserError

T = TypeVar("T")


def add_settings_argument(parser: ArgumentParser, kind: type, name: str = "settings") -> None:
    """Add an argument that gives the fields of the dataclass `kind`."""
    fields = ", ".join(field.name for field in dataclasses.fields(kind))
    parser.add_argument(f"--{name}", required=True, help=f"a YAML or JSON file, or a JSON object, with: {fields}")


def read_settings(kind: type[T], given: str) -> T:
    """An instance of the dataclass `kind`, from a JSON object or the path of a file that holds one.

    Raises UserError if keys are missing or unknown.
    """
    names = ", ".join(field.name for field in dataclasses.fields(kind))  # type: ignore[arg-type]
    remedy = f"give a YAML or JSON file, or one JSON object, with these keys: {names}"
    try:
        return kind(**settings_values(given, remedy))
    except TypeError as error:
        raise UserError(f"--settings: {error}", remedy) from None


def settings_values(given: str, remedy: str = "give a YAML or JSON file, or one JSON object") -> dict[str, Any]:
    """The values by name of a JSON object, or of a YAML or JSON file. Raises UserError if `given` is neither."""
    if given.lstrip().startswith(("{", "[")):
        try:
            values = json.loads(given)
        except ValueError as error:
            raise UserError(f"--settings: {error}", remedy) from None
    else:
        values = (read_json if given.endswith(".json") else read_settings_file)(Path(given))
        for name, text in _numbers_as_text(values):
            raise UserError(f"{given}: {name}: '{text}' is text to YAML", f"write {float(text):.1e} as a number has it")
    if not isinstance(values, dict):
        raise UserError("--settings: no names and values", "give a file of `name: value` lines, or one JSON object")
    return values


def _numbers_as_text(values: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """(name, text) of each number that YAML reads as text: `1e-5`, as YAML wants 1.0e-5."""
    for key, value in values.items() if isinstance(values, dict) else ():
        place = f"{name}.{key}" if name else str(key)
        yield from _numbers_as_text(value, place)
        if isinstance(value, str) and value[:1].isdigit():
            try:
                float(value)
            except ValueError:
                continue
            yield place, value
