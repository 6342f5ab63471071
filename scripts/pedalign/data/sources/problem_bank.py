"""Problem banks: problems split into subproblems, each with an answer, a hint and a typical mistake."""

import json
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pedalign.core.artifacts import read_csv, read_yaml
from pedalign.core.errors import UserError


@dataclass(frozen=True)
class Subproblem:
    question: str
    answer: str
    partial_response: str  # a student's partly right answer
    incorrect_response: str  # a typical wrong answer
    hint: str
    feedback: str  # to the wrong answer, without the right one


@dataclass(frozen=True)
class Problem:
    text: str
    subproblems: tuple[Subproblem, ...]


def read_problems(path: Path) -> tuple[list[Problem], dict[str, int]]:
    """The usable problems of a bank, and how many were not usable, by reason.

    A bank is our YAML (`datasets/bio-problems.yaml`) or a CSV as published with CLASS
    (arXiv 2305.13272), whose column `problems` holds JSON.
    Raises UserError where the file is neither, or holds no usable problem.
    """
    rejected: Counter[str] = Counter()
    entries = _csv_entries(path, rejected) if path.suffix.lower() == ".csv" else _yaml_entries(path)
    problems = []
    for entry in entries:
        try:
            problems.append(_problem(entry))
        except ValueError as reason:
            rejected[str(reason)] += 1
    if not problems:
        found = ", ".join(f"{reason}: {count}" for reason, count in rejected.items()) or "it is empty"
        raise UserError(f"{path}: no usable problem ({found})", "compare with datasets/bio-problems.yaml")
    return problems, dict(rejected)


def _yaml_entries(path: Path) -> list[Any]:
    entries = read_yaml(path)
    if not isinstance(entries, list):
        raise UserError(f"{path}: not a list of problems", "compare with datasets/bio-problems.yaml")
    return entries


# Names in the published CSV → names in our YAML.
_PUBLISHED_NAMES = {
    "Problem": "problem",
    "SubProblems": "subproblems",
    "Question": "question",
    "Answer": "answer",
    "Hint": "hint",
    "Incorrect Response": "incorrect_response",
    "Feedback": "feedback",
}


def _csv_entries(path: Path, rejected: Counter[str]) -> list[Any]:
    def renamed(mapping: dict[str, Any]) -> dict[str, Any]:
        return {_PUBLISHED_NAMES.get(name, name): value for name, value in mapping.items()}

    entries = []
    for row in read_csv(path):
        if "problems" not in row:
            raise UserError(f"{path}: no column 'problems'", "a CSV bank needs that column, with JSON in it")
        try:
            entries.append(json.loads(row["problems"] or "", object_hook=renamed))
        except (ValueError, RecursionError):
            rejected["not JSON"] += 1
    return entries


def _problem(entry: Any) -> Problem:
    """The problem in an entry. Raises ValueError with the reason if the entry is not usable."""
    if not isinstance(entry, dict):
        raise ValueError("not a mapping")
    subproblems = entry.get("subproblems")
    if not isinstance(subproblems, list) or len(subproblems) < 2:
        raise ValueError("fewer than two subproblems")
    return Problem(_text(entry, "problem"), tuple(_subproblem(one) for one in subproblems))


def _subproblem(entry: Any) -> Subproblem:
    if not isinstance(entry, dict):
        raise ValueError("a subproblem is not a mapping")
    answer = _text(entry, "answer").rstrip(".")
    incorrect = _text(entry, "incorrect_response").rstrip(".")
    if answer.casefold() == incorrect.casefold():
        raise ValueError("the wrong answer is the right one")
    return Subproblem(
        question=_text(entry, "question"),
        answer=answer,
        # If the bank has none, the right and the wrong answer together count as partly right.
        partial_response=(
            _text(entry, "partial_response") if "partial_response" in entry else f"{answer}, and {lowered(incorrect)}"
        ).rstrip("."),
        incorrect_response=incorrect,
        hint=_text(entry, "hint"),
        feedback=_text(entry, "feedback"),
    )


def _text(entry: dict[str, Any], name: str) -> str:
    value = entry.get(name)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"no '{name}'" if value is None or value == "" else f"'{name}' is no text")
    return " ".join(value.split())


def lowered(text: str) -> str:
    """The text with a lower-case first letter, unless it begins with a name such as DNA, CO2 or X-linked."""
    first = re.match(r"\w+", text)
    keeps = first and (first.group() == "I" or any(c.isupper() or c.isdigit() for c in first.group()[1:]))
    single = first and len(first.group()) == 1 and first.group() != "A"
    return text if keeps or single else text[:1].lower() + text[1:]
