"""A scanner for one mapping, written as a Python literal or as JSON, in untrusted text.

Nothing is evaluated. Time is linear in the length of the text; length and depth are bounded, so a
hundred thousand brackets or quotes cost milliseconds and raise nothing but `NotALiteral`.
"""

import re
from dataclasses import dataclass
from typing import Any

MAX_CHARACTERS = 20_000
MAX_DEPTH = 8

# Nearly every reply is a flat mapping of texts without escapes. These two patterns read it at once, with the
# same result as the scanner. Each can match in only one way, so their time is linear too.
_TEXT = r"""(?:"([^"\\\ud800-\udfff]*)"|'([^'\\\ud800-\udfff]*)')"""
_TEXTS = re.compile(_TEXT)
_FLAT = re.compile(rf"\{{\s*(?:{_TEXT}\s*:\s*{_TEXT}\s*(?:,\s*|(?=\}})))*\}}")

_SPACE = re.compile(r"\s*")
_ATOM = re.compile(r"[+-]?[0-9][0-9._eE+-]{0,40}|[A-Za-z]+")
_WORDS = {"None": None, "null": None, "True": True, "true": True, "False": False, "false": False}
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "\n": "", "/": "/"}
_HEX = {"x": 2, "u": 4, "U": 8}


class NotALiteral(ValueError):
    """The text holds no mapping that can be read; the message says why."""


@dataclass(frozen=True)
class Number:
    """A number as written. It is not text, so not a valid value of a field."""

    text: str


def kind(value: Any) -> str:
    """What a scanned value is, if it is not text, and how to write it as text."""
    if isinstance(value, Number):
        return f'a number, {value.text}; write it as text: "{value.text}"'
    if isinstance(value, bool):
        word = str(value).lower()
        return f'the value {word}, not text; write it as text: "{word}"'
    return "null" if value is None else "a mapping" if isinstance(value, dict) else "a list"


class CutOff(NotALiteral):
    """The text ends before its mapping is closed. `entries` are those whose key and value are complete."""

    entries: dict[str, Any]


def scan_mapping(text: str) -> dict[str, Any]:
    """The first mapping in `text`, from its first `{` to the brace that closes it.

    Words before and after it are allowed (models like to talk), a second mapping is not.
    Raises NotALiteral where there is no mapping, it is broken, too long or too deep; CutOff where it is not closed.
    """
    if len(text) > MAX_CHARACTERS:
        raise NotALiteral(f"longer than {MAX_CHARACTERS} characters")
    start = text.find("{")
    if start < 0:
        raise NotALiteral("no '{'")
    if flat := _FLAT.match(text, start):
        texts = [double or single for double, single in _TEXTS.findall(text, start, flat.end())]
        value, end = dict(zip(texts[::2], texts[1::2], strict=True)), flat.end()
    else:
        value, end = _value(text, start, 0)
    if "{" in text[end:]:
        raise NotALiteral("more than one mapping")
    if not isinstance(value, dict):
        raise NotALiteral("a set, not a mapping")
    return value


def _skip(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    return match.end() if match else at


def _value(text: str, at: int, depth: int) -> tuple[Any, int]:
    at = _skip(text, at)
    first = text[at : at + 1]
    if first in ("'", '"'):
        return _strings(text, at)
    if first in ("{", "[", "("):
        if depth >= MAX_DEPTH:
            raise NotALiteral(f"nested deeper than {MAX_DEPTH}")
        return _mapping(text, at + 1, depth) if first == "{" else _sequence(text, at + 1, depth)
    match = _ATOM.match(text, at)
    if not match:
        if not first or (first in "+-" and at + 1 == len(text)):
            raise CutOff("ends too early")
        raise NotALiteral(f"unexpected {first!r} at character {at}")
    word = match.group()
    if word in _WORDS:
        return _WORDS[word], match.end()
    if match.end() == len(text) and any(one.startswith(word) for one in _WORDS):
        raise CutOff("ends too early")
    if word[0].isalpha():
        raise NotALiteral(f"unquoted word {word[:20]!r} at character {at}")
    return Number(word), match.end()


def _mapping(text: str, at: int, depth: int) -> tuple[dict[str, Any], int]:
    found: dict[str, Any] = {}
    try:
        while True:
            at = _skip(text, at)
            if text[at : at + 1] == "}":
                return found, at + 1
            key, at = _value(text, at, depth + 1)
            at = _expect(text, at, ":")
            value, at = _value(text, at, depth + 1)
            if isinstance(key, str):
                found[key] = value
            at = _separator(text, at, "}")
    except CutOff as cut:
        cut.entries = found  # the outermost mapping is the last to set it
        raise


def _sequence(text: str, at: int, depth: int) -> tuple[list[Any], int]:
    found: list[Any] = []
    while True:
        at = _skip(text, at)
        if text[at : at + 1] in ("]", ")"):
            return found, at + 1
        value, at = _value(text, at, depth + 1)
        found.append(value)
        at = _separator(text, at, "])")


def _expect(text: str, at: int, mark: str) -> int:
    at = _skip(text, at)
    if text[at : at + 1] != mark:
        if at >= len(text):
            raise CutOff("ends too early")
        raise NotALiteral(f"'{mark}' expected at character {at}")
    return at + 1


def _separator(text: str, at: int, closing: str) -> int:
    at = _skip(text, at)
    following = text[at : at + 1]
    if following == ",":
        return at + 1
    if following and following in closing:
        return at
    if not following:
        raise CutOff("ends too early")
    raise NotALiteral(f"',' expected at character {at}")


def _strings(text: str, at: int) -> tuple[str, int]:
    """One string, or several adjacent ones, which Python joins."""
    parts = []
    while text[at : at + 1] in ("'", '"'):
        part, at = _string(text, at)
        parts.append(part)
        after = _skip(text, at)
        if text[after : after + 1] in ("'", '"'):
            at = after
    return "".join(parts), at


_PLAIN = {quote: re.compile(rf"[^\\{quote}]*") for quote in ("'", '"')}


def _string(text: str, at: int) -> tuple[str, int]:
    quote = text[at]
    at += 1
    parts = []
    while True:
        match = _PLAIN[quote].match(text, at)
        if match:
            parts.append(match.group())
            at = match.end()
        if at >= len(text):
            raise CutOff("a string is not closed")
        if text[at] == quote:
            return join_surrogates("".join(parts)), at + 1
        escaped = text[at + 1 : at + 2]
        if escaped in _HEX:
            digits = text[at + 2 : at + 2 + _HEX[escaped]]
            if len(digits) < _HEX[escaped] and re.fullmatch("[0-9a-fA-F]*", digits):
                raise CutOff("a string is not closed")
            if not re.fullmatch(f"[0-9a-fA-F]{{{_HEX[escaped]}}}", digits) or int(digits, 16) > 0x10FFFF:
                raise NotALiteral(f"bad escape at character {at}")
            parts.append(chr(int(digits, 16)))
            at += 2 + _HEX[escaped]
        elif escaped in ("\\", "'", '"'):
            parts.append(escaped)
            at += 2
        elif escaped in _ESCAPES:
            parts.append(_ESCAPES[escaped])
            at += 2
        else:
            parts.append("\\")
            at += 1


def join_surrogates(text: str) -> str:
    """Join pairs of escapes, as JSON writes some characters; half of a pair becomes a replacement mark."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
