"""The figures that the paper's published evaluation prints for a responses.csv (evaluate_responses.py)."""

import sys
from collections.abc import Iterable
from typing import Any

from sklearn.metrics import accuracy_score, f1_score

from pedalign import paper
from pedalign.rubric import Rubric

# Stands beside the figures that it explains (metrics.json).
NOTES = {
    "paper_accuracy": "as evaluate_responses.py prints it: a response that is not one Python literal as a whole has no "
    "label, and labels are compared unstripped; ours finds the mapping in the text, as Python or JSON, and strips",
    "paper_macro_f1": "as evaluate_responses.py prints it: the mean over the sorted labels of gold and predicted "
    "replies without the first of them, which is a real label where every reply has one; ours is over all gold labels",
    "paper_support": "the replies it counts: gold replies whose fields are all text and whose labels have a label's "
    "length, whatever they are; ours counts gold replies whose labels are the rubric's",
}


def paper_scores(responses: Iterable[dict[str, str]], rubric: Rubric, first_turn: bool) -> dict[str, dict[str, Any]]:
    """For each label field's key what evaluate_responses.py prints: `paper_accuracy`, `paper_macro_f1` (shares), and
    `paper_support` (rows). The two are None where no row has a valid gold reply.

    A response that is not a Python literal, or lacks the field, has the label ""; labels are compared unstripped.
    Macro-F1 is the mean over the sorted labels of gold and predicted replies together without the first: that is ""
    where any label is missing, and a real label where none is.
    """
    gold: dict[str, list[str]] = {field.key: [] for field in rubric.label_fields}
    predicted: dict[str, list[str]] = {field.key: [] for field in rubric.label_fields}
    for row in responses:
        wanted = paper.read_literal(row["gpt"])
        if not paper.valid_gold(wanted, rubric) or (row["turn"] == "0" and not first_turn):
            continue
        found = paper.read_literal(row["response"])
        for field in rubric.label_fields:
            value = found.get(field.name) if isinstance(found, dict) else ""
            gold[field.key].append(sys.intern(wanted[field.name]))
            predicted[field.key].append(sys.intern(value) if isinstance(value, str) else "")
    return {key: _paper_score(gold[key], predicted[key]) for key in gold}


def _paper_score(gold: list[str], predicted: list[str]) -> dict[str, Any]:
    if not gold:
        return {"paper_accuracy": None, "paper_macro_f1": None, "paper_support": 0}
    labels = sorted({*gold, *predicted})[1:]
    f1 = f1_score(gold, predicted, labels=labels, average="macro", zero_division=0) if labels else None
    return {
        "paper_accuracy": round(float(accuracy_score(gold, predicted)), 6),
        "paper_macro_f1": None if f1 is None else round(float(f1), 6),
        "paper_support": len(gold),
    }
