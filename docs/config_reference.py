"""Writes docs/reference/config.md out of the declaration of the settings (scripts/pedalign/workflow/config.py)."""

import inspect
import json
import re
import types
import typing
from collections.abc import Iterator
from typing import Any, Literal

from pydantic import AfterValidator
from pydantic.fields import FieldInfo

from pedalign.core.section import Section
from pedalign.data.sources.importers import IMPORTERS
from pedalign.training.algorithms import ALGORITHMS
from pedalign.workflow import setting_types
from pedalign.workflow.config import Config

INTRODUCTION = """\
# Settings

<!-- made by `make readme` from scripts/pedalign/workflow/config.py -->

All settings, in the order of `config.yaml`, which shows each with a value. To change some, write a file that holds
only these and add `--configfile my.yaml`. To change one at the top level, add `--config seed=7`. Both come after the
targets of the command.

The workflow checks all settings when it is called. A mistake ends the call with two lines: the key and its place, and
how to fix it. A setting that is "required" has no default: `config.yaml`, or your file, gives it. An entry of `models:`
that has the name of one in `config.yaml` needs only what differs.
"""

_KINDS: dict[Any, str] = {int: "integer", float: "number", bool: "true or false", str: "text", Any: "text, or a list"}
_CHECKED = {
    setting_types.name: "letters, digits, `.`, `_`, `-`",
    setting_types.path: "a path",
    setting_types.url: "an http(s) URL without user and password",
    setting_types.algorithm: ", ".join(f"`{name}`" for name in ALGORITHMS),
    setting_types.importer: ", ".join(f"`{name}`" for name in IMPORTERS),
    setting_types.up_to: "`up to 4`",
}
_LIMITS = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than"}
_LENGTHS = {"min_length": "entries: at least {}", "max_length": "entries: at most {}"}


def page() -> str:
    """The whole page, as Markdown."""
    parts = [line for section, places in _sections().items() for line in _part(section, places)]
    return "\n".join([INTRODUCTION, *parts])


def _sections() -> dict[type[Section], list[str]]:
    """Every section of the config, in declared order → where its keys stand."""
    found: dict[type[Section], list[str]] = {}

    def walk(section: type[Section], place: str) -> None:
        found.setdefault(section, []).append(place)
        for name, field in section.by_key().items():
            for part, inside in _inside(field.annotation):
                walk(part, f"{place}.{name}{inside}".lstrip("."))

    walk(Config, "")
    return found


def _inside(kind: Any, place: str = "") -> Iterator[tuple[type[Section], str]]:
    """The sections in a type, each with what its place adds to the name of the setting."""
    if isinstance(kind, type) and issubclass(kind, Section):
        yield kind, place
    parts = typing.get_args(kind)
    if typing.get_origin(kind) is dict:
        parts, place = parts[1:], f"{place}.<name>"
    elif typing.get_origin(kind) is list:
        place = f"{place}[]"
    for part in parts:
        yield from _inside(part, place)


def _part(section: type[Section], places: list[str]) -> Iterator[str]:
    title = "Top level" if section is Config else ", ".join(f"`{place}`" for place in places)
    meaning = [] if section is Config else [_linked(inspect.cleandoc(section.__doc__ or "")), ""]
    yield from [f"## {title}", "", *meaning]
    yield from ["| setting | type or choices | default | limits | meaning |", "|---|---|---|---|---|"]
    for name, field in section.by_key().items():
        kinds, limits = _described(field.annotation, field.metadata)
        parts = [part for part, _ in _inside(field.annotation)]
        text = field.description or (inspect.cleandoc(parts[0].__doc__ or "") if parts else "")
        cells = [f"`{name}`", " or ".join(kinds), _default(field), ", ".join(limits), _linked(text)]
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
    if section.is_open():
        yield from ["", "Further keys are allowed and are not checked here."]
    yield ""


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    if isinstance(field.default, Section):
        return "see below"
    return "none" if field.default is None else f"`{json.dumps(field.default)}`"


def _described(kind: Any, metadata: typing.Iterable[Any] = ()) -> tuple[list[str], list[str]]:
    """(type or choices, limits) in words."""
    metadata = list(metadata)
    if typing.get_origin(kind) is typing.Annotated:
        kind, *more = typing.get_args(kind)
        flat = [part for one in more for part in (one.metadata if isinstance(one, FieldInfo) else [one])]
        return _described(kind, [*flat, *metadata])
    limits = [words for one in metadata for words in _limits(one, kind)]
    checked = [_CHECKED[one.func] for one in metadata if isinstance(one, AfterValidator) and one.func in _CHECKED]
    if checked:
        return checked, limits
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        return [", ".join(f"`{part}`" for part in parts)], limits
    if origin in (typing.Union, types.UnionType):
        found = [_described(part) for part in parts if part is not type(None)]
        kinds = [word for words, _ in found for word in words]
        if len(kinds) == 2 and kinds[1] == f"a list of {kinds[0]}":
            kinds = [f"{kinds[0]}; or a list"]
        return kinds, [*dict.fromkeys(limit for _, of_part in found for limit in of_part), *limits]
    if origin is list:
        words, inner = _described(parts[0])
        return [f"a list of {' or '.join(words)}"], [*inner, *limits]
    if origin is dict:
        return ["keys with values"], limits
    if isinstance(kind, type) and issubclass(kind, Section):
        return ["keys, see below"], limits
    return [_KINDS[kind]], limits


def _limits(one: Any, kind: Any) -> Iterator[str]:
    for name, words in _LIMITS.items():
        if (value := getattr(one, name, None)) is not None:
            yield f"{words} {value}"
    for name, words in _LENGTHS.items():
        value = getattr(one, name, None)
        if value is not None and kind is not str:
            yield words.format(value)


def _linked(text: str) -> str:
    """On one line, with links to the pages that it names."""
    text = re.sub(r"\s+", " ", text).replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"\bdocs/([\w-]+)/([\w-]+)\.md", r"[\2](../\1/\2.md)", text)
