"""MathDial (arXiv 2305.14536): its JSON lines to conversations with the rubric's replies."""

import json
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from pedalign.data.conversations import SPEAKERS
from pedalign.data.rubric import Rubric

TEACHER = "Teacher"  # whoever else speaks, under whatever name, is the student
_TURN = re.compile(r"(?P<speaker>[\w'-]{1,60})\s*:\s*(?P<text>.*)", re.DOTALL)
_MOVE = re.compile(r"\(\s*(?P<move>[^()\s]([^()]{0,38}[^()\s])?)\s*\)\s*(?P<text>.*)", re.DOTALL)


class Unusable(ValueError):
    """A row, or a turn of it, that cannot be used; the message is the reason by which such rows are counted."""


@dataclass(frozen=True)
class Imported:
    """What became of the rows: every row is a record or rejected, and some of the records were cut."""

    records: list[dict[str, Any]]  # of a conversation file
    rejected: dict[str, int]  # reason → rows that gave no conversation
    cut: dict[str, int]  # reason → conversations that end before a turn that cannot be used


def conversations(lines: Iterable[str], rubric: Rubric) -> Imported:
    """The conversations in MathDial's JSON lines; blank lines are no rows.

    An id is the row's `qid`; where that is taken, "-2" stands behind it, or the next number that is free.
    """
    rejected: Counter[str] = Counter()
    cuts: Counter[str] = Counter()
    records: dict[str, dict[str, Any]] = {}
    for line in filter(str.strip, lines):
        try:
            row = _row(line)
            texts, cut = _texts(row, rubric)
        except Unusable as reason:
            rejected[str(reason)] += 1
            continue
        if cut:
            cuts[cut] += 1
        identity, number = row["qid"], 1
        while identity in records:
            number += 1
            identity = f"{row['qid']}-{number}"
        entries = [{"from": SPEAKERS[at % 2], "value": text} for at, text in enumerate(texts)]
        records[identity] = {"id": identity, "conversations": entries}
    return Imported(list(records.values()), dict(rejected), dict(cuts))


def _row(line: str) -> dict[str, str]:
    """The four fields that are used, as text that can be written as UTF-8. Raises Unusable."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        raise Unusable("not JSON") from None
    if not isinstance(row, dict):
        raise Unusable("not an object")
    if type(row.get("qid")) is int:
        row["qid"] = str(row["qid"])
    names = ("qid", "question", "student_incorrect_solution", "conversation")
    for name in names:
        if not isinstance(row.get(name), str) or not row[name].strip():
            raise Unusable(f"no '{name}'")
    return {name: row[name].encode("utf-8", "replace").decode("utf-8") for name in names}


def _texts(row: dict[str, str], rubric: Rubric) -> tuple[list[str], str | None]:
    """Texts that alternate, the student's first, and why they end early if they do.

    Raises Unusable where there is no reply before the first turn that cannot be used.
    """
    student, replies = [[row["question"], row["student_incorrect_solution"]]], []
    cut = None
    try:
        for speaker, turns in groupby(_turns(row["conversation"]), key=lambda turn: turn[0]):
            said = list(dict.fromkeys(text for _, text in turns))  # some turns were sent twice or more
            if speaker is None:
                raise Unusable("a turn without a speaker")
            if speaker == TEACHER:
                replies.append(_reply(said, rubric))
            elif replies:
                student.append(said)
            else:  # the student goes on after the problem and the solution
                student[0] += said
    except Unusable as reason:
        if not replies:
            raise
        cut = str(reason)
    if not replies:
        raise Unusable("no teacher turn")
    spoken = [_opening(*student[0]), *(" ".join(said) for said in student[1:])]
    paired = [text for pair in zip(spoken, replies, strict=False) for text in pair]
    return paired + ([] if cut else spoken[len(replies) :]), cut


def _opening(problem: str, *said: str) -> str:
    """The student's first turn, worded so that `Conversation.problem` is the problem whatever the solution is.

    A blank line ends the problem. The turn starts with the mark that ends instructions ("Student: "), so the same
    words further on mean nothing, and a "Q." further on (as in "BBQ.") is parted, since the last one opens the problem.
    """
    text = f"{' '.join(problem.split())}\n\nMy solution: {' '.join(' '.join(said).split())}"
    return f"Student: Q. {text.replace('Q.', 'Q .')}"


def _turns(conversation: str) -> list[tuple[str | None, str]]:
    """(speaker, text) of the turns that have words; the speaker is None where none is named."""
    turns: list[tuple[str | None, str]] = []
    for turn in map(str.strip, conversation.split("|EOM|")):
        match = _TURN.fullmatch(turn)
        if not match:
            turns += [(None, turn)] if turn else []
            continue
        speaker = TEACHER if match["speaker"] == TEACHER else "Student"
        words = _MOVE.fullmatch(match["text"]) if speaker == TEACHER else None
        if words["text"] if words else match["text"]:
            turns.append((speaker, match["text"]))
    return turns


def _reply(said: list[str], rubric: Rubric) -> str:
    """The rubric's canonical reply for the teacher's consecutive turns, each opening with its move in brackets.

    Joined turns have the move of the first one that scaffolds or tells, by the rubric's pairs: a greeting does not
    name what follows it. Where none does, the move is that of the first. Raises Unusable.
    """
    (field,) = rubric.label_fields
    matches = [_MOVE.fullmatch(text) for text in said]
    found = [(match["move"], match["text"]) for match in matches if match]
    if len(found) < len(said):
        raise Unusable("a teacher turn without a move")
    for move, _ in found:
        if move not in field.labels:
            raise Unusable(f"unknown move {move[:20]!r}")
    weighty = {label for pair in rubric.scaffold_tell for label in pair}
    move = next((move for move, _ in found if move in weighty), found[0][0])
    reply = rubric.serialize({field.key: move, rubric.spoken: " ".join(text for _, text in found)})
    if rubric.parse(reply).defect:
        raise Unusable("a teacher turn that is too long")
    return reply
