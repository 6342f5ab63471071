"""Checks settings and rubrics against a JSON schema, and names the first mistake and its fix."""

import functools
import re
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import jsonschema
import yaml

from pedalign.core.errors import UserError, nearest

_MOST_ERRORS = 1_000  # that the first is chosen from: each takes time
_SHOWN = 100  # characters of a wrong value


def _is_integer(_: Any, value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(_: Any, value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max  # no nan


# JSON schema takes 120.0 for an integer and nan for a number; neither is what a size or a rate can be.
_Validator = jsonschema.validators.extend(
    jsonschema.Draft202012Validator,
    type_checker=jsonschema.Draft202012Validator.TYPE_CHECKER.redefine_many(
        {"integer": _is_integer, "number": _is_number}
    ),
)


@functools.cache
def read_schema(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def check(data: Any, schema: Path, where: str, reference: str, text_hint: str = "") -> None:
    """Raises UserError with the first mistake of `data`: its key and place, what was found, what would be right.

    `where` opens the message; `reference` is the remedy where the schema describes none; `text_hint` is added where
    text stands in place of another type.
    """
    errors = islice(_Validator(read_schema(schema)).iter_errors(data), _MOST_ERRORS)
    first = min(errors, key=lambda error: [str(part) for part in error.absolute_path], default=None)
    if first:
        raise _explained(first, f"{where}: {_place(data, first)}", reference, text_hint)


def _place(data: Any, error: jsonschema.ValidationError) -> str:
    """The path of a value, such as `fields[1] (Action).labels`: a member of a list has its name behind its number."""
    place = ""
    for part in error.absolute_path:
        data = data[part]
        place += f"[{part}]" if isinstance(part, int) else f".{part}"
        if isinstance(part, int) and isinstance(data, dict) and isinstance(data.get("name"), str):
            place += f" ({data['name']})"
    return place.lstrip(".") or "top level"


def _explained(error: jsonschema.ValidationError, place: str, reference: str, text_hint: str) -> UserError:
    schema: dict[str, Any] = error.schema if isinstance(error.schema, dict) else {}
    wanted: Any = error.validator_value
    described = schema.get("description")
    match error.validator:
        case "additionalProperties":
            valid = schema.get("properties", {})
            unknown = next(key for key in _keys(error) if key not in valid)
            return UserError(f"{place}: unknown key '{unknown}'", nearest(unknown, valid))
        case "required":
            missing = next(key for key in wanted if key not in _keys(error))
            return UserError(f"{place}: key '{missing}' is missing", f"add '{missing}:'{_meaning(schema, missing)}")
        case "enum":
            return UserError(f"{place}: is {error.instance!r}", nearest(str(error.instance), map(str, wanted)))
        case "pattern":
            shown = re.sub(r"//[^/@]*@", "//…@", _shown(error.instance))  # a URL's password
            problem = f"key {shown} is not allowed" if "propertyNames" in error.absolute_schema_path else f"is {shown}"
            return UserError(f"{place}: {problem}", described or f"it must match {wanted}; {reference}")
        case "type":
            kind = type(error.instance).__name__
            remedy = f"give a value of type {_TYPES.get(str(wanted), wanted)}"
            if described:
                remedy += f": {described}"
            if isinstance(error.instance, str):
                remedy += text_hint
            return UserError(f"{place}: is {_shown(error.instance)} ({kind})", remedy)
        case "if" | "then" | "else" | "dependentRequired" | "oneOf" | "anyOf" | "const":
            return UserError(f"{place}: {error.message}", described or reference)
        case _:
            limits = ", ".join(f"{key} {schema[key]}" for key in _LIMITS if key in schema)
            remedy = f"allowed: {limits or error.message}"
            return UserError(f"{place}: is {_shown(error.instance)}", f"{remedy}; {described}" if described else remedy)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _keys(error: jsonschema.ValidationError) -> list[str]:
    return list(error.instance) if isinstance(error.instance, dict) else []


_TYPES = {"object": "object (keys with values)", "array": "array (a list)"}
_LIMITS = (
    *("minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum"),
    *("minItems", "maxItems", "minProperties", "minLength"),
)


def _meaning(schema: dict[str, Any], key: str) -> str:
    meaning = schema.get("properties", {}).get(key, {}).get("description")
    return f" ({meaning})" if meaning else ""
