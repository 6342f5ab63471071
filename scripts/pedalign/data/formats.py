"""Recognizes common formats that are not conversation files, and says how to convert them.

Nothing here reads these formats. It makes the error for a refused file more useful.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pedalign.core.artifacts import opened, read_json
from pedalign.core.errors import UserError

SPEAKERS = ("human", "gpt")  # the student, the tutor
SHAPE = '[{"id": "...", "conversations": [{"from": "human", "value": "..."}, {"from": "gpt", "value": "{...}"}, ...]}]'

_HEAD = 2**20  # characters that are searched for the first record
_ROLES = "from: human for the student, gpt for the tutor; value: the turn's text; no system turn"
_BY_HAND = f"nothing here reads it yet; write it as {SHAPE} ({_ROLES})"
_SPEAKERS = "write 'human' for the student and 'gpt' for the tutor"
_NO_SYSTEM = "take the system turn out: the rubric's instructions stand in its place"


def refuse_other_formats(path: Path) -> None:
    """Raise UserError if a file begins with a JSON object, so that it is not a list of conversations."""
    with opened(path) as file:
        head = file.read(1000)
        if not head.lstrip().startswith("{"):
            return
        head = (head + file.read(_HEAD)).lstrip()
    try:
        record, end = json.JSONDecoder().raw_decode(head)
        lines = head[end:].lstrip().startswith("{")
    except (ValueError, RecursionError):  # not JSON, or longer than what was read
        record, lines = read_json(path), False
    if lines:
        what, remedy = looks_like(record) or ("conversations", "")
        join = f"json.dump([json.loads(line) for line in open('{path}') if line.strip()], open('NEW.json', 'w'))"
        remedy = remedy or f'write one JSON list of them: python -c "import json; {join}"'
        raise UserError(f"{path}: looks like JSON Lines (one object a line) of {what}, not a JSON list", remedy)
    raise UserError(f"{path}: a JSON object, not a list of conversations: {_inside(record)}", f"the format is {SHAPE}")


def _inside(record: Mapping[str, Any]) -> str:
    if found := looks_like(record):
        return f"it looks like {found[0]}"
    if isinstance(record.get("conversations"), list) and "id" in record:
        return "it is a single conversation; put it in a list: [ ... ]"
    lists = [name for name, value in record.items() if isinstance(value, list) and value]
    if lists:
        found = looks_like(record[lists[0]][0])
        of = f", of what looks like {found[0]}" if found else ""
        return f"the list is under its key '{lists[0]}'{of}; the file must be that list alone"
    if record and all(isinstance(value, dict) for value in record.values()):
        return (
            f"its keys, such as '{next(iter(record))}', may be the ids; write them as 'id' into the records of a list"
        )
    return f"its keys are {', '.join(map(repr, list(record)[:6])) or 'none'}"


def looks_like(record: Any) -> tuple[str, str] | None:
    """The format that a record seems to have, and a remedy; None if it may be a conversation."""
    if not isinstance(record, dict):
        return None
    if {"qid", "student_incorrect_solution", "conversation"} <= set(record):
        command = "python scripts/import_conversations.py FILE --format mathdial --output NEW.json"
        return "rows of MathDial", f"{command} makes a conversation file"
    if _turns(record.get("messages"), "role", "content"):
        return "OpenAI chat messages ('messages' with 'role' and 'content')", _BY_HAND
    for key in ("conversations", "conversation"):
        turns = record.get(key, [])
        if _turns(turns, "role", "content"):
            return f"chat messages ('{key}' with 'role' and 'content')", _BY_HAND
        if _turns(turns, "from", "value"):
            speakers = list(dict.fromkeys(str(turn.get("from")) for turn in turns if isinstance(turn, dict)))
            known = set(speakers) & set(SPEAKERS)
            if speakers[0] == "system":
                remedy = _NO_SYSTEM if known else f"{_NO_SYSTEM}; {_SPEAKERS}"
                return "ShareGPT conversations that open with a system turn", remedy
            names = ", ".join(f"'{name}'" for name in speakers[:4])
            return None if known else (f"ShareGPT conversations whose speakers are {names}", _SPEAKERS)
    if {"role", "content"} <= set(record) or {"from", "value"} <= set(record):
        return "single turns", f"put the turns of a conversation into one record; {_BY_HAND}"
    if {"prompt", "chosen"} <= set(record):
        return "preference pairs ('prompt', 'chosen')", f"whole conversations are needed; the format is {SHAPE}"
    if {"instruction", "output"} <= set(record):
        return "Alpaca's questions and answers ('instruction', 'output')", f"the format is {SHAPE}"
    return None


def _turns(value: Any, speaker: str, text: str) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict) and {speaker, text} <= set(value[0])
