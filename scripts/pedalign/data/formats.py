"""Recognizes common formats that are not conversation files, and says how to import them.

Nothing here reads these formats. It makes the error for a refused file more useful.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pedalign.core.artifacts import opened, read_json
from pedalign.core.errors import UserError

SPEAKERS = ("human", "gpt")  # the student, the tutor
SHAPE = '[{"id": "...", "conversations": [{"from": "human", "value": "..."}, {"from": "gpt", "value": "{...}"}, ...]}]'

# Names of speakers in chats, in lower case.
STUDENTS = frozenset({"human", "user", "student"})
TUTORS = frozenset({"gpt", "assistant", "tutor"})
SYSTEM = frozenset({"system", "developer"})

_HEAD = 1000  # characters that are searched for the first one that is not space
_ROLES = "from: human for the student, gpt for the tutor; value: the turn's text; no system turn"
_BY_HAND = f"nothing here reads it yet; write it as {SHAPE} ({_ROLES})"


class Look(NamedTuple):
    """What a record seems to be, in words, and the importer that reads it, if there is one; else a remedy."""

    what: str
    importer: str | None = None
    by_hand: str = _BY_HAND

    def remedy(self, path: Path) -> str:
        """How to use a file of such records."""
        if self.importer is None:
            return self.by_hand
        lines = f"import: {{format: {self.importer}, files: {path}}}"
        return f"write '{lines}' into the settings, in place of 'source' (docs/tutorials/own-conversations.md)"


def is_json_lines(path: Path) -> bool:
    """Whether a file has an object a line; if not, it should be a JSON list.

    Raises UserError if the file is one JSON object, which is no list of conversations, unless its name ends in .jsonl.
    """
    with opened(path) as file:
        if not file.read(_HEAD).lstrip().startswith("{"):
            return False
        file.seek(0)
        filled = filter(str.strip, file)
        first, more = next(filled), next(filled, None) is not None
    try:
        json.loads(first)
        lines = more or path.suffix == ".jsonl"
    except (ValueError, RecursionError):
        lines = path.suffix == ".jsonl"  # else an object over several lines
    if not lines:
        record = read_json(path)
        found, remedy = _inside(record, path)
        raise UserError(f"{path}: a JSON object, not a list of conversations: {found}", remedy)
    return True


def _inside(record: Mapping[str, Any], path: Path) -> tuple[str, str]:
    """What an object is that should be a list, and a remedy."""
    written = f"the format is {SHAPE}"
    if found := looks_like(record):
        return f"it looks like {found.what}", found.remedy(path)
    if isinstance(record.get("conversations"), list) and "id" in record:
        return "it is a single conversation; put it in a list: [ ... ]", written
    lists = [name for name, value in record.items() if isinstance(value, list) and value]
    if lists:
        what = f"the list is under its key '{lists[0]}'"
        if found := looks_like(record[lists[0]][0]):
            return f"{what}, of what looks like {found.what}", found.remedy(path)
        return f"{what}; the file must be that list alone", written
    if record and all(isinstance(value, dict) for value in record.values()):
        key = next(iter(record))
        return f"its keys, such as '{key}', may be the ids; write them as 'id' into the records of a list", written
    return f"its keys are {', '.join(map(repr, list(record)[:6])) or 'none'}", written


def looks_like(record: Any) -> Look | None:
    """The format that a record seems to have; None if it may be a conversation."""
    if not isinstance(record, dict):
        return None
    if {"qid", "student_incorrect_solution", "conversation"} <= set(record):
        return Look("rows of MathDial", "mathdial")
    if _turns(record.get("messages"), "role", "content"):
        return Look("OpenAI chat messages ('messages' with 'role' and 'content')", "messages")
    for key in ("conversations", "conversation"):
        turns = record.get(key, [])
        if _turns(turns, "role", "content"):
            return Look(f"chat messages ('{key}' with 'role' and 'content')", "messages")
        if _turns(turns, "from", "value"):
            return _sharegpt([turn for turn in turns if isinstance(turn, dict)])
    if {"role", "content"} <= set(record) or {"from", "value"} <= set(record):
        return Look("single turns", by_hand=f"put the turns of a conversation into one record; {_BY_HAND}")
    if {"prompt", "chosen"} <= set(record):
        by_hand = f"whole conversations are needed; the format is {SHAPE}"
        return Look("preference pairs ('prompt', 'chosen')", by_hand=by_hand)
    if {"instruction", "output"} <= set(record):
        by_hand = f"the format is {SHAPE}"
        return Look("Alpaca's questions and answers ('instruction', 'output')", by_hand=by_hand)
    return None


def _sharegpt(turns: list[dict[str, Any]]) -> Look | None:
    """What ShareGPT's turns are that a conversation file may not have; None if it may have all of them."""
    speakers = list(dict.fromkeys(str(turn.get("from")) for turn in turns))
    if speakers[0] == "system":
        return Look("ShareGPT conversations that open with a system turn", "sharegpt")
    if any(name.endswith("_state") for name in speakers):
        return Look("conversations of Tutorbot-Spock-Phys, whose tutor goes through states", "phys300")
    if not set(speakers) & set(SPEAKERS):
        what = f"ShareGPT conversations whose speakers are {', '.join(map(repr, speakers[:4]))}"
        known = {name.lower() for name in speakers} <= STUDENTS | TUTORS | SYSTEM
        return Look(what, "sharegpt" if known else None, "write 'human' for the student and 'gpt' for the tutor")
    if any(isinstance(turn.get("value"), dict) for turn in turns):
        return Look("ShareGPT conversations with objects for texts", "sharegpt")
    return None


def _turns(value: Any, speaker: str, text: str) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict) and {speaker, text} <= set(value[0])
