"""MathDial (arXiv 2305.14536): its JSON lines to conversations with the rubric's replies."""

import json
import re
from collections import Counter
from typing import Any

from pedalign.conversation import SPEAKERS
from pedalign.rubric import Rubric

TEACHER = "Teacher"
_TURN = re.compile(r"\s*(?P<speaker>[^:\n]{1,60}):\s*(?P<text>.*)", re.DOTALL)
_MOVE = re.compile(r"\(\s*(?P<move>[^()]{1,40}?)\s*\)\s*(?P<text>.*)", re.DOTALL)


class Unusable(ValueError):
    """A row that cannot become a conversation; the message is the reason by which such rows are counted."""


def conversations(lines: list[str], rubric: Rubric) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """Records of a conversation file, and how many rows were not usable, by reason.

    An id is the row's `qid`; the second row with the same one gets "-2" behind it, and so on.
    """
    rejected: Counter[str] = Counter()
    seen: Counter[str] = Counter()
    records = []
    for line in lines:
        if not line.strip():
            continue
        try:
            qid, entries = _conversation(line, rubric)
        except Unusable as reason:
            rejected[str(reason)] += 1
            continue
        seen[qid] += 1
        identity = qid if seen[qid] == 1 else f"{qid}-{seen[qid]}"
        records.append({"id": identity, "conversations": entries})
    return records, dict(rejected)


def _conversation(line: str, rubric: Rubric) -> tuple[str, list[dict[str, str]]]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        raise Unusable("not JSON") from None
    if not isinstance(row, dict):
        raise Unusable("not an object")
    for name in ("question", "student_incorrect_solution", "conversation"):
        if not isinstance(row.get(name), str) or not row[name].strip():
            raise Unusable(f"no '{name}'")
    if "qid" not in row:
        raise Unusable("no 'qid'")
    entries = [{"from": SPEAKERS[0], "value": _opening(row["question"], row["student_incorrect_solution"])}]
    for speaker, text in _merged(row["conversation"]):
        if speaker != TEACHER:
            if len(entries) == 1:  # the student goes on after the opening
                entries[0]["value"] += f"\n\n{text}"
            else:
                entries.append({"from": SPEAKERS[0], "value": text})
        else:
            entries.append({"from": SPEAKERS[1], "value": _reply(text, rubric)})
    if len(entries) < 2:
        raise Unusable("no teacher turn")
    return str(row["qid"]), entries


def _opening(problem: str, solution: str) -> str:
    """The problem stands alone before the blank line, so that conversations about it are known as such."""
    return f"Q. {' '.join(problem.split())}\n\nMy solution: {' '.join(solution.split())}"


def _merged(conversation: str) -> list[tuple[str, str]]:
    """(speaker, text) with consecutive turns of one speaker joined; whoever does not teach is the student.

    Joined teacher turns keep the move of the first; the moves of the others are taken out of the text.
    """
    turns: list[tuple[str, str]] = []
    for turn in conversation.split("|EOM|"):
        if not turn.strip():
            continue
        match = _TURN.fullmatch(turn)
        if not match:
            raise Unusable("a turn without a speaker")
        speaker = TEACHER if match["speaker"].strip() == TEACHER else "Student"
        text = match["text"].strip()
        if turns and turns[-1][0] == speaker:
            move = _MOVE.fullmatch(text) if speaker == TEACHER else None
            turns[-1] = (speaker, f"{turns[-1][1]} {move['text'] if move else text}".strip())
        else:
            turns.append((speaker, text))
    return turns


def _reply(text: str, rubric: Rubric) -> str:
    """The rubric's canonical reply for a teacher turn, which opens with its move in brackets."""
    match = _MOVE.fullmatch(text)
    if not match:
        raise Unusable("a teacher turn without a move")
    (field,) = rubric.label_fields
    if match["move"] not in field.labels:
        raise Unusable(f"unknown move '{match['move'][:20]}'")
    return rubric.serialize({field.key: match["move"], rubric.spoken: match["text"].strip()})
