"""Reads chats as they are found: 'messages' of 'role' and 'content' (OpenAI), and ShareGPT's 'conversations' of 'from'
and 'value'.

System turns are dropped, since the rubric's instruction stands in their place. So are what a tutor says before the
student's first turn, and a last turn without a reply. A conversation ends before the first turn that cannot be used.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from pedalign.data.conversations import writable
from pedalign.data.formats import STUDENTS, SYSTEM, TUTORS
from pedalign.data.rubric import Rubric
from pedalign.data.sources.imported import Imported, Talk, Unusable, imported
from pedalign.data.sources.raw_rows import rows

_LISTS = ("messages", "conversations", "conversation")  # keys of the list of turns
_SHOWN = 20  # characters of a speaker's name in a reason

# What is changed in a conversation; the report counts them.
SYSTEM_DROPPED = "a system turn dropped"
UNANSWERED_DROPPED = "the student's last turn, without a reply, dropped"
GREETING_DROPPED = "the tutor's words before the student's first turn dropped"
STUDENT_MERGED = "turns of the student in a row merged"
REPLY_ONCE = "a reply that was there twice in a row kept once"
REPLY_WRITTEN = "a reply that was an object written as text"
NUMBERS_WRITTEN = "numbers in a reply written as text"
PARTS_JOINED = "parts of a turn joined"
PROBLEM_DROPPED = "a 'problem' that is no id dropped"


@dataclass(frozen=True)
class _Keys:
    """The keys of a turn."""

    speaker: str
    text: str


def messages(lines: Iterable[str], rubric: Rubric) -> Imported:
    """The conversations of rows with 'messages' (or 'conversations') of 'role' and 'content'."""
    return _chats(lines, _Keys("role", "content"))


def sharegpt(lines: Iterable[str], rubric: Rubric) -> Imported:
    """The conversations of rows with 'conversations' of 'from' and 'value'."""
    return _chats(lines, _Keys("from", "value"))


def class_conversations(lines: Iterable[str], rubric: Rubric) -> Imported:
    """CLASS's conversations (arXiv 2305.13272), which a language model made: they count as simulated."""
    return _chats(lines, _Keys("from", "value"), simulated=True)


def _chats(lines: Iterable[str], keys: _Keys, simulated: bool = False) -> Imported:
    return imported(rows(lines), lambda row: _talk(row, keys, simulated))


def _talk(row: Any, keys: _Keys, simulated: bool) -> Talk:
    if not isinstance(row, dict):
        raise Unusable("not an object")
    changed: dict[str, None] = {}
    if any(row.get(name) for name in SYSTEM):  # beside the turns, as some ShareGPT files have it
        changed[SYSTEM_DROPPED] = None
    texts, cut = _texts(_listed(row, keys), keys, changed)
    identity, problem = _identity(row.get("id")), _identity(row.get("problem"))
    if problem is None and row.get("problem") is not None:
        changed[PROBLEM_DROPPED] = None
    simulated = simulated or row.get("simulated") is True
    return Talk(identity or "", texts, cut, problem, tuple(changed), simulated)


def _identity(value: Any) -> str | None:
    usable = isinstance(value, str | int) and not isinstance(value, bool) and str(value).strip()
    return writable(str(value)) if usable else None


def _listed(row: dict[str, Any], keys: _Keys) -> list[Any]:
    """The turns of a row. Raises Unusable if it has none with these keys."""
    for name in _LISTS:
        turns = row.get(name)
        if isinstance(turns, list) and any(isinstance(turn, dict) and keys.speaker in turn for turn in turns):
            return turns
    raise Unusable(f"no turns with '{keys.speaker}' and '{keys.text}'")


def _texts(turns: list[Any], keys: _Keys, changed: dict[str, None]) -> tuple[list[str], str | None]:
    """Alternating texts, the student's first, and why they end early, if they do; adds to what was `changed`.

    Raises Unusable if no reply comes before the first turn that cannot be used.
    """
    texts: list[str] = []
    cut = None
    try:
        for tutor, text in _spoken(turns, keys, changed):
            if tutor and not texts:
                changed[GREETING_DROPPED] = None
            elif tutor == bool(len(texts) % 2):  # a turn of the other speaker
                texts.append(text)
            elif not tutor:
                texts[-1] += f"\n\n{text}"
                changed[STUDENT_MERGED] = None
            elif text == texts[-1]:
                changed[REPLY_ONCE] = None
            else:
                raise Unusable("two replies in a row")  # each has labels of its own, so they are not merged
    except Unusable as reason:
        cut = str(reason)
    if len(texts) < 2:
        raise Unusable(cut or "no reply")
    if len(texts) % 2 and not cut:
        changed[UNANSWERED_DROPPED] = None
    return texts[: len(texts) // 2 * 2], cut


def _spoken(turns: list[Any], keys: _Keys, changed: dict[str, None]) -> Iterator[tuple[bool, str]]:
    """(whether it is the tutor's, its text) of each turn. Raises Unusable at the first one that cannot be used."""
    for turn in turns:
        if not isinstance(turn, dict):
            raise Unusable("a turn that is not an object")
        speaker = turn.get(keys.speaker)
        name = speaker.strip().lower() if isinstance(speaker, str) else ""
        if name in SYSTEM:
            changed[SYSTEM_DROPPED] = None
            continue
        if name not in STUDENTS | TUTORS:
            raise Unusable(f"a turn of {str(speaker)[:_SHOWN]!r}")
        yield name in TUTORS, _text(turn.get(keys.text), name in TUTORS, changed)


def _text(value: Any, tutor: bool, changed: dict[str, None]) -> str:
    if isinstance(value, list):
        parts = [part.get("text") if isinstance(part, dict) else part for part in value]
        texts = [part for part in parts if isinstance(part, str)]
        if len(texts) < len(parts):
            raise Unusable("a turn with parts that are not text")
        value = "\n\n".join(texts)
        changed[PARTS_JOINED] = None
    if isinstance(value, dict) and tutor:
        changed[REPLY_WRITTEN] = None
        numbers = {key: str(one) for key, one in value.items() if type(one) is int}
        if numbers:
            changed[NUMBERS_WRITTEN] = None
        value = json.dumps({**value, **numbers}, ensure_ascii=False)
    if not isinstance(value, str) or not value.strip():
        raise Unusable("a turn without text")
    return writable(value)
