"""The figures that the paper's published evaluation prints for a responses.csv (evaluate_responses.py)."""

import sys
from collections.abc import Iterable
from typing import Any

from sklearn.metrics import accuracy_score, f1_score

from pedalign.data import paper_rules
from pedalign.data.rubric import Rubric

# Explanations of the figures, next to them in metrics.json.
NOTES = {
    "paper_accuracy": "as evaluate_responses.py prints it: a response that is not one Python literal as a whole has no "
    "label, and labels are compared unstripped; ours finds the mapping in the text, as Python or JSON, and strips. "
    "Null where the script stops, as paper_note says",
    "paper_macro_f1": "as evaluate_responses.py prints it: the mean over the sorted labels of gold and predicted "
    "replies without the first of them, which is a real label where every reply has one; ours is over all gold labels",
    "paper_support": "the replies it counts: gold replies whose fields are all text and whose labels have a label's "
    "length, whatever they are; ours counts gold replies whose labels are the rubric's",
}


def paper_scores(responses: Iterable[dict[str, str]], rubric: Rubric, first_turn: bool) -> dict[str, dict[str, Any]]:
    """Key of a label field → what evaluate_responses.py computes: `paper_accuracy`, `paper_macro_f1` (shares), and
    `paper_support` (rows). If it stops, or computes no number, the figure is None and `paper_note` says why.

    A response that is not a Python literal, or lacks the field, has the label "". Labels are compared unstripped, and
    numbers as NumPy turns them into text (1 is "1", 1.0 is "1.0").
    Macro-F1 is the mean over the sorted labels of gold and predicted replies together, without the first one: this is
    "" if any label is missing, else a real label.
    """
    gold: dict[str, list[str]] = {field.key: [] for field in rubric.label_fields}
    predicted: dict[str, list[str]] = {field.key: [] for field in rubric.label_fields}
    any_text = {field.key: False for field in rubric.label_fields}
    untold: dict[str, str] = {}  # field → type of a label that has no text
    too_long = False
    for row in responses:
        wanted = paper_rules.read_literal(row["gpt"])
        too_long = too_long or len(row["response"]) > paper_rules.MAX_CHARACTERS
        if not paper_rules.valid_gold(wanted, rubric) or (row["turn"] == "0" and not first_turn):
            continue
        found = paper_rules.read_literal(row["response"])
        for field in rubric.label_fields:
            value = found.get(field.name) if isinstance(found, dict) else ""
            value = "" if value is None else value
            text = _as_text(value)
            if text is None:
                untold.setdefault(field.key, type(value).__name__)
            any_text[field.key] |= isinstance(value, str)
            gold[field.key].append(sys.intern(_as_text(wanted[field.name]) or ""))
            predicted[field.key].append(sys.intern(text or ""))
    scores = {}
    for key in gold:
        if not gold[key]:
            stop = "ValueError: no gold reply counts"
        elif too_long:
            stop = f"_csv.Error: a response has more than {paper_rules.MAX_CHARACTERS} characters"
        elif not any_text[key]:
            stop = "ValueError: no label of a response is text"
        elif key in untold:
            stop = f"TypeError: the label of a response is a {untold[key]}"
        else:
            scores[key] = _paper_score(gold[key], predicted[key])
            continue
        scores[key] = _figures(None, None, len(gold[key]), f"evaluate_responses.py stops with {stop}")
    return scores


def _as_text(value: Any) -> str | None:
    """A label as NumPy writes it in a list with texts; None if NumPy does not turn it into text."""
    if isinstance(value, str):
        return value.rstrip("\0")
    if isinstance(value, bytes):
        return value.decode("ascii").rstrip("\0") if value.isascii() else None
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        return None
    return str(value) if isinstance(value, bool | int | float | complex) else None


def _paper_score(gold: list[str], predicted: list[str]) -> dict[str, Any]:
    labels = sorted({*gold, *predicted})
    codes = {label: at for at, label in enumerate(labels)}  # NumPy would give every label the length of the longest
    wanted, found = ([codes[label] for label in side] for side in (gold, predicted))
    right = float(accuracy_score(wanted, found))
    if len(labels) == 1:
        return _figures(right, None, len(gold), "macro-F1 is not a number: there is one label, which it leaves out")
    return _figures(
        right, float(f1_score(wanted, found, labels=range(1, len(labels)), average="macro", zero_division=0)), len(gold)
    )


def _figures(right: float | None, macro_f1: float | None, support: int, note: str = "") -> dict[str, Any]:
    return {
        "paper_accuracy": None if right is None else round(right, 6),
        "paper_macro_f1": None if macro_f1 is None else round(macro_f1, 6),
        "paper_support": support,
        **({"paper_note": note} if note else {}),
    }
