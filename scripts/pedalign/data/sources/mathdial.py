"""Reads MathDial's JSON lines (arXiv 2305.14536) as conversations whose replies have the rubric's form."""

import re
from collections.abc import Iterable
from itertools import groupby
from typing import Any

from pedalign.core.errors import UserError
from pedalign.data.conversations import writable
from pedalign.data.rubric import Rubric
from pedalign.data.sources.imported import Imported, Talk, Unusable, imported
from pedalign.data.sources.raw_rows import rows

TEACHER = "Teacher"  # any other name is the student's
_TURN = re.compile(r"(?P<speaker>[\w'-]{1,60})\s*:\s*(?P<text>.*)", re.DOTALL)
_MOVE = re.compile(r"\(\s*(?P<move>[^()\s]([^()]{0,38}[^()\s])?)\s*\)\s*(?P<text>.*)", re.DOTALL)


def conversations(lines: Iterable[str], rubric: Rubric) -> Imported:
    """The conversations in MathDial's JSON lines. The row's `qid` is the id, and that of the problem.

    Raises UserError if the rubric has other fields than one label, the teacher's move, and the text.
    """
    if len(rubric.label_fields) != 1 or len(rubric.fields) != 2:
        raise UserError(
            f"MathDial has one label, the move, and the text; the rubric {rubric.name} has other fields",
            "use datasets/rubrics/mathdial.yaml",
        )
    return imported(rows(lines), lambda row: _conversation(row, rubric))


def _conversation(found: Any, rubric: Rubric) -> Talk:
    row = _row(found)
    return Talk(row["qid"], *_texts(row, rubric), problem=row["qid"])


def _row(row: Any) -> dict[str, str]:
    """The four fields that are used, as text that UTF-8 can encode. Raises Unusable if one is missing."""
    if not isinstance(row, dict):
        raise Unusable("not an object")
    if type(row.get("qid")) is int:
        row["qid"] = str(row["qid"])
    names = ("qid", "question", "student_incorrect_solution", "conversation")
    for name in names:
        if not isinstance(row.get(name), str) or not row[name].strip():
            raise Unusable(f"no '{name}'")
    return {name: writable(row[name]) for name in names}


def _texts(row: dict[str, str], rubric: Rubric) -> tuple[list[str], str | None]:
    """Alternating texts, the student's first, and why they end early, if they do.

    Raises Unusable if no reply comes before the first turn that can't be used.
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
            else:  # the student adds to the problem and the solution
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
    """The student's first turn, worded so that `Conversation.problem` does not depend on the solution.

    A blank line ends the problem. The turn starts with the mark that ends instructions ("Student: "), so a later one
    has no effect. A later "Q." (as in "BBQ.") gets a space, since the last one begins the problem.
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

    Joined turns have the move of the first one that scaffolds or tells, by the rubric's pairs: the move of a greeting
    would not fit what follows. If none does, they have the move of the first one. Raises Unusable.
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
