"""What a script says at its end: the artifact, and the figures that a person can use."""

import pytest

from pedalign.core import told
from pedalign.core.artifacts import write_json

LABEL = {"macro_f1": 0.5}
SHARED = {"test_shares_problem_with_sft": {"conversations": 3, "of": 12}}
CASES = {
    "metrics.json": (
        {
            "evaluation": {"accuracy": 0.981, **LABEL},
            "state": {"accuracy": 1, **LABEL},
            "valid_format": 0.996,
            "n_rows": 7,
        },
        "of 7 replies 99.6% in valid format; right: evaluation 98.1%, state 100.0%",
    ),
    "comparison.json": (
        {
            "action": {"difference": -0.004, "macro_f1_difference": 0},
            "valid_format": {"difference": 0.003},
            "n_rows": 7,
        },
        "valid format +0.3, action -0.4 points over all 7 replies",
    ),
    "preferences_counts.json": (
        {"responses": 9, "pairs": [{"pairs": 8}, {"pairs": 5}], "reasons": {"unparseable": 3, "label": 2}},
        "5 pairs of 9 replies: 3 unparseable, 2 label",
    ),
    "splits.json": (
        {
            "splits": {"sft": {"conversations": 30, "wanted": 30}, "dpo": {"conversations": 4, "wanted": 9}},
            "cut_by_reason": {"incomplete": 2, "a": 1},
            "leaks": SHARED,
            "read_as": {"names": [], "labels": [{"replies": 5}, {"replies": 2}]},
        },
        "sft 30, dpo 4 of 9 conversations; 3 cut short; 7 labels read from another spelling; "
        "3 of 12 test conversations share their problem with sft",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_an_artifact_is_told_by_its_figures(name, tmp_path, monkeypatch):
    monkeypatch.setattr(told, "_made", [])
    content, figures = CASES[name]
    write_json(tmp_path / name, content)
    told.made([tmp_path / "another.json", tmp_path / name])
    assert told.closing() == f"{tmp_path / name}: {figures}"


def test_what_cannot_be_read_is_not_told(tmp_path, monkeypatch):
    monkeypatch.setattr(told, "_made", [])
    (tmp_path / "metrics.json").write_text("{}")
    told.made([tmp_path / "metrics.json", tmp_path / "summary.csv"])
    assert told.closing() == ""
