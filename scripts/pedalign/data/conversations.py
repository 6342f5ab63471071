"""Reads conversation files: refuses wrong ones, and cuts conversations before a reply that can't be used."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pedalign.core.errors import UserError
from pedalign.core.json_stream import iterate_json, iterate_lines, json_kind
from pedalign.data import paper_rules
from pedalign.data.formats import SHAPE, SPEAKERS, is_json_lines, looks_like
from pedalign.data.paper_rules import INSTRUCTIONS, INSTRUCTIONS_END
from pedalign.data.rubric import Canonical, Rubric
from pedalign.data.spellings import Spelled

Message = dict[str, str]  # {"role": "user" | "assistant", "content": text}, TRL's format

_STRAY_QUOTE = re.compile(r"^[\"'](?=\s*\n)\s*(?=Q\.)")


@dataclass(frozen=True)
class RawConversation:
    """A conversation as its file has it: alternating texts, the student's first."""

    id: str
    texts: tuple[str, ...]
    simulated: bool = False  # true in files that the simulator wrote
    problem: str | None = None  # the problem's id, if the file gives it


@dataclass(frozen=True)
class Conversation:
    """A usable conversation: every student turn has a valid, canonical reply of the tutor.

    `read_as`: what its file writes in another way than the rubric.
    """

    id: str
    messages: tuple[Message, ...]
    problem_id: str | None = None
    read_as: tuple[Spelled, ...] = ()

    @property
    def n_turns(self) -> int:
        """The number of tutor turns."""
        return len(self.messages) // 2

    @property
    def problem(self) -> str:
        """The problem, equal for all conversations about it, and for no others.

        It is the problem's id; without one, the words of the opening question up to a blank line.
        """
        if self.problem_id is not None:
            return f"id:{self.problem_id}"  # no question has a colon here, so that it is never taken for an id
        question = self.messages[0]["content"].rpartition("Q.")[2].partition("\n\n")[0]
        return " ".join(re.findall(r"\w+", question.casefold()))

    def record(self) -> dict[str, Any]:
        """The conversation in the format of a conversation file."""
        speakers = [SPEAKERS[at % 2] for at in range(len(self.messages))]
        entries = [{"from": who, "value": m["content"]} for who, m in zip(speakers, self.messages, strict=True)]
        problem = {} if self.problem_id is None else {"problem": self.problem_id}
        return {"id": self.id, **problem, "conversations": entries}


@dataclass(frozen=True)
class Cut:
    """Where and why a conversation was cut: at its tutor turn `turn` (from 0), for a `defect` of the reply."""

    turn: int
    defect: str
    detail: str


class Reader:
    """Reads the turns of a conversation file by the workflow's rules."""

    paper_rules = False

    def __init__(self, rubric: Rubric) -> None:
        self.rubric = rubric

    def reply(self, text: str) -> Canonical:
        """A tutor turn in the rubric's canonical form, or why it has none. The rubric's spellings are read."""
        return self.rubric.canonical(text, spellings=True)

    def student(self, text: str, turn: int) -> str:
        """A student turn (number `turn`, from 0) without instructions to the tutor.

        Text before the first "Student: " counts as instructions if it holds the title of the published ones or names
        every label field. Other text is the student's own and stays. The first turn may begin with the mark itself.
        """
        before, mark, question = text.partition(INSTRUCTIONS_END)
        names = [field.name for field in self.rubric.label_fields]
        known = INSTRUCTIONS in before or all(name in before for name in names) or (turn == 0 and not before.strip())
        kept = question if mark and known else text
        return _STRAY_QUOTE.sub("", kept) if turn == 0 else kept


class PaperReader(Reader):
    """Reads the turns of a conversation file by the rules of the paper's scripts."""

    paper_rules = True

    def reply(self, text: str) -> Canonical:
        return paper_rules.canonical(text, self.rubric)

    def student(self, text: str, turn: int) -> str:
        return paper_rules.student_turn(text)


def turn_reader(rubric: Rubric, paper_rules: bool) -> Reader:
    """The reader for conversation files, by the paper's rules or by the workflow's."""
    return PaperReader(rubric) if paper_rules else Reader(rubric)


def read_conversations(path: Path, two_endings: bool = False, paper_rules: bool = False) -> Iterator[RawConversation]:
    """The conversations of a file, one after another: a JSON list, or JSON lines with one conversation each.

    `two_endings`: it is a perplexity file, where each conversation ends in two replies to one history. `paper_rules`:
    ids may be repeated (the second "x" becomes "x#2") and conversations empty, as the paper's scripts allow.
    Raises UserError, with file, record and what was found, if a record is not
    `{"id": str, "conversations": [{"from": "human" | "gpt", "value": str}, ...]}` with an id of its own and alternating
    turns, the student's first. A record may have the id of its `problem`.
    """
    seen: dict[str, int] = {}
    repeated = Counter[str]()
    lines = is_json_lines(path)
    records = iterate_lines(path) if lines else iterate_json(path, "conversations", f"the format is {SHAPE}")
    for number, record in enumerate(records):
        conversation = _read_record(record, path, number, two_endings, paper_rules)
        while paper_rules and conversation.id in seen:
            repeated[conversation.id] += 1
            conversation = replace(conversation, id=f"{conversation.id}#{repeated[conversation.id] + 1}")
        if conversation.id in seen:
            raise UserError(
                f"{path}: record {number}: id '{conversation.id}' is also the id of record {seen[conversation.id]}",
                "give every conversation of a file an id of its own",
            )
        seen[conversation.id] = number
        yield conversation


def _read_record(record: Any, path: Path, number: int, two_endings: bool, may_be_empty: bool) -> RawConversation:
    where = f"{path}: record {number}"
    if not isinstance(record, dict):
        raise UserError(
            f"{where}: a JSON {json_kind(record)}, not an object", 'write {"id": ..., "conversations": [...]}'
        )
    if found := looks_like(record):
        raise UserError(f"{where}: looks like {found.what}, not a conversation", found.remedy(path))
    identity = record.get("id")
    if not isinstance(identity, str | int) or isinstance(identity, bool) or identity == "":
        raise UserError(f"{where}: field 'id' is {identity!r}", "give the conversation an id, a string")
    identity = writable(str(identity))
    where = f"{where} (id '{identity}')"
    entries = record.get("conversations")
    if not isinstance(entries, list):
        raise UserError(f"{where}: field 'conversations' is {json_kind(entries)}, not a list", "list its turns there")
    if not entries and not may_be_empty:
        raise UserError(f"{where}: 'conversations' has no turns", "remove the record or add its turns")
    speakers = [entry.get("from") if isinstance(entry, dict) else None for entry in entries]
    if two_endings and (len(entries) < 3 or len(entries) % 2 == 0 or speakers[-2:] != ["gpt", "gpt"]):
        raise UserError(
            f"{where}: 'conversations' does not end in two replies of the tutor ('gpt') to one history",
            "a perplexity file has the original reply and the alternative as the last two entries of each record",
        )
    texts = []
    for at, (speaker, entry) in enumerate(zip(speakers, entries, strict=True)):
        place = f"{where}: turn {at}"
        if speaker not in SPEAKERS:
            raise UserError(f"{place}: unknown speaker {speaker!r} in field 'from'", "valid: human, gpt")
        if speaker != SPEAKERS[at % 2] and not (two_endings and at == len(entries) - 1):
            first = "the tutor ('gpt') speaks first" if at == 0 else f"'{speaker}' speaks twice in a row"
            raise UserError(f"{place}: {first}", "turns alternate and the student ('human') opens")
        value = entry.get("value")
        if not isinstance(value, str):
            raise UserError(f"{place}: field 'value' is {json_kind(value)}, not text", "write the turn's text there")
        texts.append(writable(value))
    problem = record.get("problem")
    if problem is not None and (not isinstance(problem, str | int) or isinstance(problem, bool) or problem == ""):
        raise UserError(f"{where}: field 'problem' is {problem!r}", "write the problem's id, a text, or leave it out")
    problem = None if problem is None else writable(str(problem))
    return RawConversation(identity, tuple(texts), record.get("simulated") is True, problem)


def writable(text: str) -> str:
    """The text with a question mark for each half of a surrogate pair, which UTF-8 can't encode."""
    return text.encode("utf-8", "replace").decode("utf-8")


def clean(raw: RawConversation, reader: Reader) -> tuple[Conversation, Cut | None]:
    """The usable part of a conversation as `reader` reads it, and where it was cut if it was.

    A reply with a defect is dropped, with the student turn before it and all that follows.
    So is a last student turn without a reply.
    """
    messages: list[Message] = []
    read_as: list[Spelled] = []
    for turn in range(len(raw.texts) // 2):
        student, tutor = raw.texts[2 * turn : 2 * turn + 2]
        reply = reader.reply(tutor)
        if reply.defect:
            return Conversation(raw.id, tuple(messages), raw.problem, tuple(read_as)), Cut(
                turn, reply.defect, reply.detail
            )
        read_as += reply.read_as
        messages.append({"role": "user", "content": reader.student(student, turn)})
        messages.append({"role": "assistant", "content": reply.text})
    return Conversation(raw.id, tuple(messages), raw.problem, tuple(read_as)), None


def split_conversations(path: Path) -> Iterator[Conversation]:
    """Read a split that the workflow wrote; its replies are canonical already."""
    roles = ("user", "assistant")
    for raw in read_conversations(path):
        messages = ({"role": roles[at % 2], "content": text} for at, text in enumerate(raw.texts))
        yield Conversation(raw.id, tuple(messages), raw.problem)


def formatted_rows(conversations: Iterable[Conversation], min_turns: int = 2) -> Iterator[dict[str, Any]]:
    """One row per tutor turn: the history with the student's turn as prompt, the gold reply as chosen.

    Conversations of fewer tutor turns than `min_turns` are left out; of fewer than two in the paper's
    preprocess_sft_data.py.
    """
    for conversation in conversations:
        for turn in range(conversation.n_turns if conversation.n_turns >= min_turns else 0):
            yield {
                "conversation_id": conversation.id,
                "turn": turn,
                "prompt": list(conversation.messages[: 2 * turn + 1]),
                "chosen": [conversation.messages[2 * turn + 1]],
            }
