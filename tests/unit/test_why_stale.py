"""Why an artifact is made anew, in words."""

import pytest

from pedalign.core.code_digest import code
from pedalign.core.provenance import other_code
from pedalign.core.staleness import in_words

PARAMS = (
    "Params have changed since last execution: Union of exclusive params before and now across all output: before: {} "
    "now: {} "
)


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("Missing output files: a.json; Input files updated by another job: b.csv", "not there yet"),
        ("Updated input files: f, e, d, c, b, a", "changed: a, b and 4 more"),
        ("Updated input files: rows.json", "changed: rows.json"),
        ("Input files updated by another job: a.json, b.csv", "after a.json, b.csv"),
        ("Code has changed since last execution", "its command changed"),
        ("Forced execution", "asked for"),
        (PARAMS.format("'0123456789abcdef'", "'fedcba9876543210'"), "code changed"),
        (PARAMS.format("<nothing exclusive>", "'fedcba9876543210'"), "code changed"),
        (PARAMS.format("""'{"epochs": 1}'""", """'{"epochs": 2}'"""), "settings changed"),
        (
            PARAMS.format("""'{"a": 1}','0123456789abcdef'""", """'fedcba9876543210','{"a": 2}'"""),
            "code changed; settings changed",
        ),
        (
            "Set of input files has changed since last execution; Updated input files: a",
            "other input files; changed: a",
        ),
        ("Finished (was: Updated input files: rows.json)", "changed: rows.json"),
        ("Something that a later version says", "Something that a later version says"),
    ],
)
def test_a_reason_is_told_shortly(reason, words) -> None:
    assert in_words(reason, ["nowhere/a.json"]) == words


def test_what_a_script_made_under_its_old_name_is_compared_with_the_script_of_now(root) -> None:
    for old, now in (("finetune", "sft"), ("respond", "generate"), ("optimize", "align"), ("pair", "pair")):
        made = {"made_by": f"scripts/{old}.py", "code": code(root / f"scripts/{now}.py")}
        assert other_code(made) == []
    assert other_code({"made_by": "scripts/gone.py", "code": {}}) == ["scripts/gone.py is gone"]
