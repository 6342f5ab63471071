"""What the paper's published scripts do to the same inputs, written plainly from their description.

It shares no code with data/paper_rules.py, and reads responses.csv as they do: with Python's csv, the columns prompt,
response and gpt by their place. The rubric is CLASS.
"""

import ast
import csv
import math
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.metrics import accuracy_score, precision_recall_fscore_support

LABELS = {
    "evaluation": "Evaluation of Student Response",
    "action": "Action Based on Evaluation",
    "state": "Subproblem State",
}
FIELDS = [*LABELS.values(), "Subproblem", "Tutorbot"]
TITLE = "Instructions to Act as a Tutorbot"


def literal(text: str) -> tuple[bool, Any]:
    """Whether the text is a Python literal, and which."""
    try:
        return True, ast.literal_eval(text)
    except Exception:
        return False, None


def recorded(reply: str) -> str:
    """generate_responses.py: the literal that the stripped reply is, as Python writes it; else the reply as it is."""
    is_literal, value = literal(reply.strip())
    return str(value) if is_literal else reply


def counts(gold: Any) -> bool:
    """A gold reply that is taken: five texts, with labels of 1, at most 2 and 1 characters."""
    values = [gold.get(name) for name in FIELDS]
    if any(not isinstance(value, str) for value in values):
        return False
    return len(values[0]) == 1 and len(values[1]) <= 2 and len(values[2]) == 1


def rows(table: Path) -> Iterator[tuple[str, str, Any]]:
    """Prompt, response and the gold reply of each row."""
    csv.field_size_limit(131_072)  # Python's default, which this process may have raised
    with table.open(newline="", encoding="utf-8") as file:
        for prompt, response, gold, *_ in list(csv.reader(file))[1:]:
            yield prompt, response, ast.literal_eval(gold)


def pairs(table: Path) -> list[tuple[int, Any, str]]:
    """preprocess_dpo_data.py: for each pair its row, what is chosen, and the text that is rejected."""
    found = []
    for number, (_, response, gold) in enumerate(rows(table)):
        if not counts(gold):
            continue
        is_literal, reply = literal(response)
        if not is_literal:
            found.append((number, gold, response))
            continue
        complete = isinstance(reply, dict) and all(name in reply for name in FIELDS)
        empty = complete and all(reply[name] == "" for name in FIELDS)
        if not complete or empty or any(reply[name].strip() != gold[name].strip() for name in LABELS.values()):
            found.append((number, gold, str(reply)))
    return found


def scores(table: Path, first_turn: bool = False) -> dict[str, tuple[float, float, int] | str]:
    """evaluate_responses.py: for each label field accuracy, macro-F1 and how many rows; or the error it stops with."""
    gold_labels: dict[str, list[str]] = {key: [] for key in LABELS}
    labels: dict[str, list[Any]] = {key: [] for key in LABELS}
    for prompt, response, gold in rows(table):
        if not counts(gold) or (prompt.count("Student:") == 1 and not first_turn):
            continue
        _, reply = literal(response)
        for key, name in LABELS.items():
            gold_labels[key].append(gold[name])
            labels[key].append(reply.get(name, "") if isinstance(reply, dict) else "")
    return {key: score(gold_labels[key], labels[key]) for key in LABELS}


def score(gold: list[str], found: list[Any]) -> tuple[float, float, int] | str:
    predicted = ["" if label is None else label for label in found]
    try:
        right = accuracy_score(gold, predicted)
        known = np.unique(gold + predicted)
        _, _, f1, _ = precision_recall_fscore_support(gold, predicted, labels=known, zero_division=0)
    except (TypeError, ValueError) as error:
        return type(error).__name__
    return float(right), float(np.mean(f1[1:])) if len(f1) > 1 else float("nan"), len(gold)


def drawn(
    files: list[list[dict[str, Any]]], sizes: tuple[int, int, int], seed: int
) -> dict[str, list[list[tuple[str, Any]]]]:
    """preprocess_sft_data.py: the splits' conversations as (speaker, text or mapping) turns, in their order."""
    rng = random.Random(seed)
    splits: dict[str, list[list[tuple[str, Any]]]] = {"sft": [], "dpo": [], "test": []}
    sft, dpo, _ = sizes
    for records in files:
        longer = [record["conversations"] for record in records if len(record["conversations"]) > 2]
        sample = rng.sample(longer, min(sum(sizes), len(longer)))
        parts = {"sft": sample[:sft], "dpo": sample[sft : sft + dpo], "test": sample[sft + dpo :]}
        for split, members in parts.items():
            splits[split] += [turns for turns in map(cleaned, members) if turns]
    return splits


def cleaned(conversation: list[dict[str, str]]) -> list[tuple[str, Any]]:
    """The turns up to the first reply that is no mapping with the label fields, without instructions."""
    turns: list[tuple[str, Any]] = []
    for entry in conversation:
        text = entry["value"]
        if entry["from"] == "human":
            if TITLE in text:
                text = text[text.find("Student: ") + 9 :].replace('"\nQ.', "Q.")
            turns.append(("human", text))
            continue
        _, reply = literal(text)
        if not isinstance(reply, dict) or any(name not in reply for name in LABELS.values()):
            return turns[:-1]
        for name, label in zip(LABELS.values(), ("g", "12", "w"), strict=True):
            reply[name] = label if reply[name] == "N/A" else reply[name]
        turns.append(("gpt", {name: value for name, value in reply.items() if name in FIELDS}))
    return turns


def reply_pairs(records: list[dict[str, Any]]) -> list[tuple[str, dict[str, str]]]:
    """evaluate_ppl.py: for each usable record its prompt, and for both actions the reply as it stands in the file.

    Usable are actions 1 then 2, or 4 then 5, as they are written; nothing else is looked at.
    """
    found = []
    for record in records:
        *history, original, alternative = record["conversations"]
        told = [one["value"] for one in (original, alternative)]
        actions = [ast.literal_eval(text)[LABELS["action"]] for text in told]
        if actions not in (["1", "2"], ["4", "5"]):
            continue
        turns = [history[0]["value"].replace('Student: "\nQ', "Student: Q")]
        turns += [("Student: " if at % 2 else "Tutorbot: ") + one["value"] for at, one in enumerate(history[1:])]
        found.append(("\n\n".join([*turns, "Tutorbot:"]), dict(zip(actions, told, strict=True))))
    return found


def perplexities(mean_losses: dict[str, list[tuple[float, int]]]) -> dict[str, float]:
    """evaluate_ppl.py: for each action, of its replies' mean losses and numbers of tokens."""
    figures = {}
    for action, replies in mean_losses.items():
        tokens = 1e-8 + sum(count - 1 for _, count in replies)
        figures[action] = math.exp(sum(loss * (count - 1) for loss, count in replies) / tokens)
    return figures
