"""The base class of settings and rubrics (pydantic), and the messages for mistakes in them."""

import json
import re
import sys
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, Discriminator, Field, PlainValidator, Tag, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from pedalign.core.artifacts import yaml_number
from pedalign.core.errors import UserError, nearest

S = TypeVar("S", bound="Section")

_SHOWN = 100  # most characters of a wrong value
# Snakemake's --config reads `true`, and values in braces or brackets, as text.
_TEXT_HINT = (
    "; in a file without quotes; to --config give True or False with a capital, and what is nested in a file: "
    "--configfile FILE"
)


class Section(BaseModel):
    """Named values. The text below a field says what it means; messages and the reference of settings show it."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, use_attribute_docstrings=True)

    renamed: ClassVar[Mapping[str, str]] = {}  # old name of a field → its name now

    def values(self, **options: Any) -> dict[str, Any]:
        """The values by name, those of nested sections too; `options` are those of pydantic's `model_dump`."""
        # Without a warning: pydantic warns of integers in fields of floats.
        return self.model_dump(warnings=False, by_alias=True, **options)

    @classmethod
    def by_key(cls) -> dict[str, Any]:
        """The declared fields by their keys. A key that is a keyword of Python has an underscore in the class."""
        return {field.alias or name: field for name, field in cls.model_fields.items()}

    @classmethod
    def given_at(cls, values: Any, path: list[Any]) -> list[Any]:
        """Where the value at a path was given; for a section that takes values from other places too."""
        return path

    @classmethod
    def is_open(cls) -> bool:
        """Whether the section takes fields that it does not declare."""
        return cls.model_config.get("extra") == "allow"

    @model_validator(mode="before")
    @classmethod
    def _names(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        for name in values:
            if name in cls.renamed:
                raise mistake(f"'{name}' has another name now", f"write '{cls.renamed[name]}' for '{name}'")
            if name not in cls.by_key() and not cls.is_open():
                raise mistake(f"unknown key '{name}'", nearest(name, cls.by_key()), key=name)
        for name, field in cls.by_key().items():
            if field.is_required() and name not in values:
                meaning = f" ({as_part(field.description)})" if field.description else ""
                raise mistake(f"key '{name}' is missing", f"add '{name}:'{meaning}")
        return values


def mistake(problem: str, remedy: str = "", place: str = "", key: str | None = None) -> PydanticCustomError:
    """The error for a validator to raise; `place` is the path of the wrong value, below the value that is validated,
    and `key` a key of it that should not be there.

    Without a `remedy`, the message shows the field's meaning.
    """
    context = {"problem": problem, "remedy": remedy, "place": place, "key": key}
    return PydanticCustomError("mistake", "{problem}", context)


def as_part(sentence: str) -> str:
    """A sentence for the middle of another one: without its capital and full stop."""
    first = sentence.partition(" ")[0]
    start = sentence[:1].lower() if first[1:].islower() else sentence[:1]
    return (start + sentence[1:]).rstrip(".")


Text = Annotated[str, Field(min_length=1)]


def one_or_list(kind: Any) -> Any:
    """The type of a value of `kind`, or of a list of such values."""
    tags = Annotated[kind, Tag("()")] | Annotated[list[kind], Field(min_length=1), Tag("(list)")]
    return Annotated[tags, Discriminator(lambda value: "(list)" if isinstance(value, list) else "()")]


def text_or(kind: Any, text: Any = Text) -> Any:
    """The type of a `text`, or of a value of `kind`."""
    tags = Annotated[text, Tag("(text)")] | Annotated[kind, Tag("()")]
    return Annotated[tags, Discriminator(lambda value: "(text)" if isinstance(value, str) else "()")]


def _number(value: Any) -> int | float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= sys.float_info.max:
        raise PydanticCustomError("float_type", "no number")
    return value


Number = Annotated[float, PlainValidator(_number)]  # an integer stays an integer, nan is refused


def read(kind: type[S], values: Any, where: str, reference: str = "see the comments in config.yaml") -> S:
    """Check `values` and make a section of them.

    Raises UserError with the first mistake: its key and place (after `where`), what was found and what is valid.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        found = min(error.errors(include_url=False), key=_order)
    meaning, below, key = _meaning(kind, found["loc"]) or reference, "", None
    if found["type"] == "mistake":
        problem, remedy, below, key = (found["ctx"][name] for name in ("problem", "remedy", "place", "key"))
        remedy = remedy or meaning
    else:
        problem, remedy = explained(found, meaning)
    if isinstance(found["input"], str) and found["type"] in _TYPES and where == "config":
        remedy += _TEXT_HINT
    parts = [part for part in found["loc"] if not str(part).startswith("(")]
    if parts[-1:] == ["[key]"]:
        problem, parts = f"the key {parts[-2]!r} is not allowed", parts[:-2]
    path = [*parts, *filter(None, below.split("."))]
    path = kind.given_at(values, [*path, key])[:-1] if key is not None else kind.given_at(values, path)
    place = _place(values, path)
    raise UserError(f"{where}: {place}: {problem}", remedy)


def _order(error: Any) -> tuple[list[str], bool]:
    """The sort key of mistakes: a wrong name comes before a mistake in its value."""
    return [str(part) for part in error["loc"] if part != "[key]"], "[key]" not in error["loc"]


def _place(values: Any, parts: Sequence[Any]) -> str:
    """The path of a value, such as `fields[1] (Action).labels`: a list member's number is followed by its name."""
    path = ""
    for part in parts:
        try:
            values = values[part]
        except (KeyError, IndexError, TypeError):
            values = None
        path += f"[{part}]" if isinstance(part, int) else f".{part}"
        if isinstance(part, int) and isinstance(values, dict) and isinstance(values.get("name"), str):
            path += f" ({values['name']})"
    return path.lstrip(".") or "top level"


def _meaning(kind: Any, parts: Iterable[Any]) -> str:
    """The meaning of the innermost declared field on the path to a value."""
    told = ""
    for part in parts:
        sections = [one for one in _sections(kind) if part in one.by_key()]
        if sections:
            field = sections[0].by_key()[part]
            kind, told = field.annotation, field.description or ""
    return as_part(told)


def _sections(kind: Any) -> Iterator[type[Section]]:
    if isinstance(kind, type) and issubclass(kind, Section):
        yield kind
    for part in typing.get_args(kind):
        yield from _sections(part)


def explained(error: Any, meaning: str = "") -> tuple[str, str]:
    """What is wrong in an error of pydantic, and how to fix it; `meaning`: what the field is for."""
    kind, context, value = error["type"], error.get("ctx", {}), error["input"]
    told = f": {meaning}" if meaning else ""
    if kind == "literal_error":
        return f"is {shown(value)}", nearest(str(value), re.findall(r"'([^']*)'", context["expected"]))
    if kind in _LIMITS:
        words, name = _LIMITS[kind]
        return f"is {shown(value)}", f"give {words} {context[name]}{told}"
    if kind in _LENGTHS:
        return f"is {shown(value)}", f"{_LENGTHS[kind].format(**context)}{told}"
    if kind in _TYPES:
        found = f"is {shown(value)}" + (f" ({_KINDS[type(value)]})" if type(value) in _KINDS else "")
        if kind == "float_type" and (number := yaml_number(value)):
            return found, f"write {number}, as YAML takes {value} for a text"
        return found, f"give {_TYPES[kind]}{told}"
    return f"is {shown(value)}: {error['msg']}", meaning


def shown(value: Any) -> str:
    """A value as messages show it: as YAML writes it, cut if it is long, and without a URL's password."""
    text = json.dumps(value) if value is None or isinstance(value, bool) else repr(value)
    text = re.sub(r"//[^/@]*@", "//…@", text)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


_KINDS = {str: "text", int: "integer", float: "number", list: "list", dict: "keys with values"}
_LIMITS = {
    "greater_than_equal": ("at least", "ge"),
    "greater_than": ("more than", "gt"),
    "less_than_equal": ("at most", "le"),
    "less_than": ("less than", "lt"),
}
_LENGTHS = {
    "too_short": "list at least {min_length}",
    "too_long": "list at most {max_length}",
    "string_too_short": "write a text there",
}
_TYPES = {
    "int_type": "an integer",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "a text",
    "list_type": "a list",
    "dict_type": "keys with values",
    "model_type": "keys with values",
    "model_attributes_type": "keys with values",
}
