"""A gain that is none is told nowhere: not in the table, not on the page, not on the card."""

import json
import random
import re
from html import unescape
from pathlib import Path

import pytest
from reported import RUBRIC, reported

from pedalign.core.artifacts import read_csv
from pedalign.reporting.table import table

pytestmark = pytest.mark.slow


def judged(gold: dict[str, str], draw: random.Random) -> dict[str, str]:
    """The gold reply's fields in their order; of the labels some are wrong, the same ones for every tutor."""
    labels = {field.name: draw.choice(list(field.labels)) for field in RUBRIC.label_fields if draw.random() < 0.4}
    return {**gold, **labels}


def cut_or_closed(policy: str, gold: dict[str, str], _: random.Random) -> tuple[str, str]:
    """Both tutors judge alike. The fine-tuned one is cut off behind its labels, the aligned one closes its reply."""
    reply = judged(gold, random.Random(json.dumps(gold)))
    labels = json.dumps({field.name: reply[field.name] for field in RUBRIC.label_fields})
    return (f'{labels[:-1]}, "Tutorbot": "Let us', "length") if policy == "sft" else (labels, "stop")


def format_learned(policy: str, gold: dict[str, str], draw: random.Random) -> tuple[str, str]:
    """Both tutors judge alike. The fine-tuned one does not come to its labels in 6 of 100 replies."""
    reply = judged(gold, random.Random(json.dumps(gold)))
    return ('{"Eval', "length") if policy == "sft" and draw.random() < 0.06 else (json.dumps(reply), "stop")


class Told:
    """What a user reads of a run."""

    def __init__(self, page: Path) -> None:
        self.table = table(read_csv(page.with_name("summary.csv")))
        text = page.read_text().partition("<script")[0]
        self.answer, *_ = re.findall(r'<p class="answer">(.*?)</p>', unescape(text))
        self.page = unescape(
            re.sub(r"<svg.*?</svg>|<style.*?</style>|<details>.*?</details>|<[^>]*>", " ", text, flags=re.S)
        )
        self.card = (page.parent / "tiny/dpo-b0.1/README.md").read_text()


def test_replies_that_become_closed_but_stay_defective_are_no_gain(tmp_path: Path) -> None:
    told = Told(reported(tmp_path / "results", tests=40, said=cut_or_closed, valid_format=0.9))
    assert "Nothing can be told of what the aligned tutor tiny dpo-b0.1 gained" in told.answer
    assert "both valid (0) none none none all replies +0.0, not tested" in " ".join(told.table.split())
    for text in (told.table, told.page, told.card.partition("## Measured")[2]):
        assert not re.search(r"\bp\s*[<=]\s*[01]|significant|[+\u2212](?!0\.0)\d", text)
    for text in (told.table, told.page):
        assert re.search(r"tiny sft: \d+ of \d+ replies end at max_new_tokens 40", text)
    accuracies = re.findall(r"tiny (?:sft|dpo-b0.1) +0.0 +(\S+)", told.table)
    assert len(accuracies) == 2 and accuracies[0] == accuracies[1]


def test_a_format_that_is_learned_is_told_as_such_and_no_gain_of_labels(tmp_path: Path) -> None:
    told = Told(reported(tmp_path / "results", tests=120, said=format_learned, valid_format=0.9))
    assert "as far as can be told" in told.answer and "The share in valid format is 100.0%" in told.answer
    assert re.search(r"\(\+\d\.\d points, 95% interval \+\d\.\d to \+\d\.\d, p = 0\.005\)\.", told.answer)
    (both,) = re.findall(r"both valid \(\d+\)(.*)", told.table)
    assert both.count("+0.0 [+0.0, +0.0] p=1.000") == 3 and "p=0.005" not in both
    ((format_change, over_all),) = re.findall(r"  all replies +(.*?\]) p=0.005(.*)", told.table)
    assert re.match(r"\+[1-9]\.\d \[\+", format_change)
    assert re.search(r"\+[1-9]\.\d \[\+", over_all) and "p" not in over_all
    assert "| +0.0 [+0.0, +0.0], p = 1.000 | +" in told.card
