"""Reads the tutoring conversations in physics of arXiv 2309.12161, whose tutor goes through states between two turns.

The states with a reply to the student are the tutor's turns, with all their fields as they are written: the rubric says
what their labels stand for. The other states (whether to calculate, with which code, and the result) are left out, and
counted: the student does not see them, and a reply has one form.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable
from typing import Any

from pedalign.core.errors import UserError
from pedalign.data.conversations import writable
from pedalign.data.rubric import Rubric
from pedalign.data.sources.imported import Imported, Talk, Unusable, imported

STUDENT = "student"
REPLIES = ("initial_state", "no_python_state", "received_python_state")
# State → what it is, as it is counted.
INTERNAL = {
    "deciding_state": "decisions about a calculation left out",
    "use_python_state": "Python programs left out",
    "python_output": "results of Python programs left out",
}
_WORD = re.compile(r"\S")
_MARK = re.compile(r"\s*Student:\s*")


def conversations(lines: Iterable[str], rubric: Rubric) -> Imported:
    """The conversations of JSON objects, in a list or one after another. An id is the object's `id`.

    Raises UserError if the rubric has no field that these replies have.
    """
    names = {"Evaluation of Student Response", "Action Based on Evaluation", "Step Number", "Step State"}
    if not names & {field.name for field in rubric.label_fields}:
        raise UserError(
            f"the replies have the labels {', '.join(sorted(names))}; the rubric {rubric.name} has none of them",
            "use datasets/rubrics/physics.yaml",
        )
    return imported(_objects("\n".join(lines)), _conversation)


def _objects(text: str) -> Iterable[Any]:
    """The JSON values of a text, those of a list one by one; None, as the last, for what is not JSON."""
    at, decoder = 0, json.JSONDecoder()
    while (found := _WORD.search(text, at)) is not None:
        at = found.start()
        try:
            value, at = decoder.raw_decode(text, at)
        except (ValueError, RecursionError):
            yield None
            return
        yield from value if isinstance(value, list) else [value]


def _conversation(record: Any) -> Talk:
    if record is None:
        raise Unusable("not JSON")
    if not isinstance(record, dict):
        raise Unusable("not an object")
    if not isinstance(record.get("id"), str) or not record["id"].strip():
        raise Unusable("no 'id'")
    if not isinstance(record.get("conversations"), list):
        raise Unusable("no 'conversations'")
    texts: list[str] = []
    changes: Counter[str] = Counter()
    try:
        for turn in record["conversations"]:
            _add(turn, texts, changes)
    except Unusable as reason:
        if len(texts) < 2:
            raise
        return Talk(writable(record["id"]), texts[: len(texts) // 2 * 2], str(reason), changed=changes)
    if len(texts) < 2:
        raise Unusable("no reply of the tutor")
    return Talk(writable(record["id"]), texts, changed=changes)


def _add(turn: Any, texts: list[str], changes: Counter[str]) -> None:
    """Add a turn to the alternating texts, or count why it is left out. Raises Unusable if neither can be."""
    if not isinstance(turn, dict) or not isinstance(turn.get("from"), str):
        raise Unusable("a turn without 'from'")
    speaker, value = turn["from"], turn.get("value")
    asked = len(texts) % 2 == 1  # the student's turn has no reply yet
    if speaker == STUDENT:
        if asked:
            raise Unusable("two turns of the student in a row")
        if not isinstance(value, str) or not value.strip():
            raise Unusable("a turn of the student without text")
        if mark := _MARK.match(value):
            changes["marks 'Student:' taken off the start of a turn"] += 1
            value = value[mark.end() :]
        texts.append(writable(value))
    elif speaker in REPLIES:
        if not asked:
            raise Unusable("a reply without a turn of the student before it")
        if not isinstance(value, dict):
            raise Unusable("a reply that is no mapping")
        texts.append(writable(json.dumps(value, ensure_ascii=False)))
    elif speaker in INTERNAL:
        changes[INTERNAL[speaker]] += 1
    else:
        raise Unusable(f"unknown state {speaker[:40]!r}")
