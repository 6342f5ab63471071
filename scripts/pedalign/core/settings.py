"""Reads a script's settings: one JSON object, as rules pass it, or a YAML or JSON file, as people write it."""

import dataclasses
import json
from argparse import ArgumentParser
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from pedalign.core.artifacts import read_json, read_settings_file, yaml_number
from pedalign.core.errors import UserError, nearest
from pedalign.core.section import explained

T = TypeVar("T")


def add_settings_argument(parser: ArgumentParser, kind: type, name: str = "settings") -> None:
    """Add an argument that gives the fields of the dataclass `kind`."""
    fields = ", ".join(field.name for field in dataclasses.fields(kind))
    parser.add_argument(f"--{name}", required=True, help=f"a YAML or JSON file, or a JSON object, with: {fields}")


def read_settings(kind: type[T], given: str, place: str = "--settings") -> T:
    """An instance of the dataclass `kind`, from a JSON object or the path of a file that holds one.

    Raises UserError, after `place`, if keys are missing or unknown, or a value is not of its field's type.
    """
    names = [field.name for field in dataclasses.fields(kind)]  # type: ignore[arg-type]
    remedy = f"give a YAML or JSON file, or one JSON object, with these keys: {', '.join(names)}"
    values = settings_values(given, remedy)
    for name in values:
        if name not in names:
            raise UserError(f"{place}: unknown key '{name}'", nearest(name, names))
    try:
        TypeAdapter(kind).validate_json(json.dumps(values), strict=True)
    except ValidationError as error:
        found = error.errors(include_url=False)[0]
        where = ".".join(map(str, found["loc"]))
        if found["type"] == "missing":
            raise UserError(f"{place}: key '{where}' is missing", remedy) from None
        problem, fix = explained(found)
        raise UserError(f"{place}: {where}: {problem}", fix or remedy) from None
    return kind(**values)


def as_given(settings: Any) -> dict[str, Any]:
    """The fields of a dataclass by name, for a record: without those that may be left out, and are."""
    values = {field: getattr(settings, field.name) for field in dataclasses.fields(settings)}
    return {field.name: value for field, value in values.items() if value != field.default}


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
            raise UserError(f"{given}: {name}: '{text}' is text to YAML", f"write {yaml_number(text)}")
    if not isinstance(values, dict):
        raise UserError("--settings: no names and values", "give a file of `name: value` lines, or one JSON object")
    return values


def _numbers_as_text(values: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """The places and texts of numbers such as `1e-5`, which is text to YAML."""
    for key, value in values.items() if isinstance(values, dict) else ():
        place = f"{name}.{key}" if name else str(key)
        yield from _numbers_as_text(value, place)
        if isinstance(value, str) and "e" in value.lower() and yaml_number(value):
            yield place, value
