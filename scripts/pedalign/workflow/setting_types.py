"""Types of settings: texts, counts, shares and names, with their limits."""

import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from pedalign.core.errors import nearest
from pedalign.core.section import Number, mistake, shown
from pedalign.data.sources.importers import IMPORTERS
from pedalign.training.algorithms import ALGORITHMS

LONGEST_NAME = 100  # characters


def name(text: str) -> str:
    if len(text) > LONGEST_NAME:
        raise mistake(f"is a name of {len(text)} characters", f"use at most {LONGEST_NAME}; it names files and folders")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", text):
        raise mistake(f"is {text!r}", "use letters, digits, '.', '_' and '-'")
    return text


def path(text: str) -> str:
    if not text or not text.isprintable() or set(text) & {"{", "}"}:
        raise mistake(f"is {text!r}", "name a path without braces and control characters")
    return text


def url(text: str) -> str:
    if not text.startswith(("http://", "https://")) or "@" in text or text.split() != [text]:
        remedy = "give an http(s) URL without user and password, which logs would show; ~/.netrc is read for them"
        raise mistake(f"is {shown(text)}", remedy)
    return text


def one_of(registry: Mapping[str, Any]) -> Callable[[str], str]:
    """A check that lets a text pass if it is a name in a registry."""

    def check(text: str) -> str:
        if text not in registry:
            raise mistake(f"is {text!r}", nearest(text, registry))
        return text

    return check


algorithm, importer = one_of(ALGORITHMS), one_of(IMPORTERS)


def up_to(text: str) -> str:
    number = text.removeprefix("up to ")
    if number == text or not number.isdecimal() or int(number) == 0:
        raise mistake(f"is {text!r}", "give a number, or 'up to 4'")
    return text


Name = Annotated[str, AfterValidator(name)]
Path = Annotated[str, AfterValidator(path)]
Count = Annotated[int, Field(ge=1)]
Natural = Annotated[int, Field(ge=0)]
Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]
Share = Annotated[Number, Field(ge=0, lt=1)]
Shares = Annotated[list[Annotated[Number, Field(ge=0, le=1)]], Field(min_length=2, max_length=2)]
Positive = Annotated[Number, Field(gt=0)]
Weight = Annotated[Number, Field(ge=0)]
Beta = Annotated[Number, Field(gt=0, le=1e7)]
Format = Annotated[str, AfterValidator(importer)]
UpTo = Annotated[str, AfterValidator(up_to)]
Algorithm = Annotated[str, AfterValidator(algorithm)]
Attention = Literal["eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention"]
# All of transformers, but reduce_lr_on_plateau and greedy, which look at an evaluation during the training.
Scheduler = Literal[
    "cosine",
    "linear",
    "constant",
    "constant_with_warmup",
    "cosine_with_restarts",
    "cosine_with_min_lr",
    "cosine_warmup_with_min_lr",
    "polynomial",
    "inverse_sqrt",
    "warmup_stable_decay",
]
