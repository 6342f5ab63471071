"""The rules of the paper's published scripts, to the letter, so that figures can be compared to the digit.

They belong to "Pedagogical Alignment of Large Language Models" (arXiv 2402.05000): what counts as a reply that can be
read, as a valid gold reply, and as a mistake. Where the workflow's own rules are better, docs/paper-numbers.md says how
the two differ. Field names, labels and their lengths are the rubric's.
"""

import ast
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

from pedalign.literal import MAX_CHARACTERS, join_surrogates
from pedalign.rubric import Canonical, Field, Rubric

NOT_APPLICABLE = "N/A"


def read_literal(text: str) -> Any:
    """The Python literal that `text` is, as a whole; None where it is none, or longer than a reply can be.

    The published scripts read replies by `ast.literal_eval`: words around a mapping, and JSON's `null`, `true` and
    `false`, are refused. Nothing is run; the length bounds time and memory.
    """
    if len(text) > MAX_CHARACTERS:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes that Python does not know
            return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None


def canonical(text: str, rubric: Rubric) -> Canonical:
    """A tutor turn of a conversation file as the paper keeps it, or why it cuts the conversation there.

    Kept is every mapping that has the label fields, whatever stands in them; "N/A" becomes the label for it. A
    reply whose fields are all text is written in the rubric's canonical form, any other as Python writes it.
    """
    mapping = read_literal(text)
    if not isinstance(mapping, dict):
        return Canonical("", "unparseable", "not one Python mapping")
    missing = [field.name for field in rubric.label_fields if field.name not in mapping]
    if missing:
        return Canonical("", "incomplete", f"'{missing[0]}' is missing")
    for field in rubric.label_fields:
        if mapping[field.name] == NOT_APPLICABLE and field.not_applicable:
            mapping[field.name] = field.not_applicable
    if all(isinstance(mapping.get(field.name), str) for field in rubric.fields):
        values = {field.key: join_surrogates(mapping[field.name]) for field in rubric.fields}
        return Canonical(rubric.serialize(values))
    names = {field.name for field in rubric.fields}
    return Canonical(str({name: value for name, value in mapping.items() if name in names}))


def canonical_form(rubric: Rubric, paper_rules: bool) -> Callable[[str], Canonical]:
    """How tutor turns are brought into canonical form: as the paper keeps them, or as the rubric does."""
    return partial(canonical, rubric=rubric) if paper_rules else rubric.canonical


def valid_gold(mapping: Any, rubric: Rubric) -> bool:
    """Whether the paper takes a gold reply into pairs and scores: all fields are text, labels of a label's length.

    CLASS has one character for evaluation and state, at most two for the action; which characters is not asked.
    """
    if not isinstance(mapping, dict):
        return False
    values = [mapping.get(field.name) for field in rubric.fields]
    if not all(isinstance(value, str) for value in values):
        return False
    return all(_of_label_length(mapping[field.name], field) for field in rubric.label_fields)


def _of_label_length(value: str, field: Field) -> bool:
    lengths = {len(label) for label in field.labels}
    return len(value) in lengths if len(lengths) == 1 else len(value) <= max(lengths)


def why_rejected(gold: str, response: str, rubric: Rubric) -> str | None:
    """Why the paper makes a preference pair of a response, or None where it makes none (the gold reply is not valid,
    or all labels agree): "unparseable", "incomplete" (a field is missing, or all are empty), or the key of the first
    label field that differs (preprocess_dpo_data.py)."""
    wanted, found = read_literal(gold), read_literal(response)
    if not valid_gold(wanted, rubric):
        return None
    if found is None:
        return "unparseable"
    names = [field.name for field in rubric.fields]
    if not isinstance(found, dict) or any(name not in found for name in names):
        return "incomplete"
    if all(found[name] == "" for name in names):
        return "incomplete"
    for field in rubric.label_fields:
        value = found[field.name]
        if not isinstance(value, str) or value.strip() != wanted[field.name].strip():
            return field.key
    return None
