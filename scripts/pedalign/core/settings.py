"""A script's settings, handed over by its rule as one JSON object."""

import dataclasses
import json
from typing import Any, TypeVar

from pedalign.core.errors import UserError

T = TypeVar("T")


def from_json(kind: type[T], text: str) -> T:
    """An instance of the dataclass `kind`. Raises UserError where keys are missing or unknown."""
    try:
        values: Any = json.loads(text)
        return kind(**values)
    except (ValueError, TypeError) as error:
        names = ", ".join(field.name for field in dataclasses.fields(kind))  # type: ignore[arg-type]
        raise UserError(f"--settings: {error}", f"give one JSON object with these keys: {names}") from None
