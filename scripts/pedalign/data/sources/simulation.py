"""Simulates conversations of a student and a tutor about a problem bank, at random from a seed.

The wording and the labels of replies are data (`datasets/simulation.yaml`). The rules are here: subproblems in order, a
hint first and the solution after repeated failure, going back, and replies that are malformed in the ways seen in data
made by language models.
"""

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pedalign.core.artifacts import read_yaml
from pedalign.core.errors import UserError
from pedalign.data.rubric import Rubric
from pedalign.data.sources.problem_bank import Problem, lowered

MAX_TURNS = 12  # most tutor turns of a conversation: then the student gives up


@dataclass
class _Talk:
    """The state of a conversation in progress."""

    problem: Problem
    at: int = 0  # subproblem under discussion
    failures: dict[int, int] = field(default_factory=dict)  # subproblem → failed tries
    done: bool = False


@dataclass(frozen=True)
class _Turn:
    """The student's words, the values of the tutor's reply and, for a hint, those of the reply that tells instead."""

    student: str
    reply: dict[str, str]
    alternative: dict[str, str] | None = None


class Simulator:
    """Draws conversations. Equal arguments give equal conversations."""

    def __init__(self, script: dict[str, Any], rubric: Rubric, malformed_share: float) -> None:
        self.script = script
        self.rubric = rubric
        self.malformed_share = malformed_share

    def conversations(self, problems: Sequence[Problem], count: int, seed: str) -> Iterator[dict[str, Any]]:
        """`count` records of a conversation file, over the problems in shuffled rounds."""
        rng = random.Random(seed)
        order = _rounds(problems, count, rng)
        width = len(str(count))
        for number, problem in enumerate(order):
            entries = []
            for turn in self._talk(problem, rng):
                entries.append({"from": "human", "value": turn.student})
                entries.append({"from": "gpt", "value": self._written(turn.reply, rng)})
            yield {"id": f"{seed}-{number:0{width}}", "simulated": True, "conversations": entries}

    def pairs(self, problems: Sequence[Problem], count: int, seed: str) -> list[dict[str, Any]]:
        """`count` records that end in two replies to one history: one that scaffolds, one that tells."""
        rng = random.Random(seed)
        width = len(str(count))
        records: list[dict[str, Any]] = []
        while len(records) < count:
            turns = list(self._talk(rng.choice(problems), rng))
            candidates = [at for at, turn in enumerate(turns) if turn.alternative]
            if not candidates:
                continue
            end = rng.choice(candidates)
            entries = []
            for turn in turns[: end + 1]:
                entries.append({"from": "human", "value": turn.student})
                entries.append({"from": "gpt", "value": self.rubric.serialize(turn.reply)})
            entries.append({"from": "gpt", "value": self.rubric.serialize(turns[end].alternative or {})})
            records.append({"id": f"{seed}-{len(records):0{width}}", "simulated": True, "conversations": entries})
        return records

    def _talk(self, problem: Problem, rng: random.Random) -> Iterator[_Turn]:
        talk = _Talk(problem)
        student = rng.choice(self.script["students"]["opening"]).format(problem=problem.text)
        yield _Turn(student, self._reply("opening", talk, rng))
        for _ in range(MAX_TURNS - 2):
            yield self._turn(talk, rng)
            if talk.done:
                if rng.random() < self.script["closing_share"]:
                    yield _Turn(rng.choice(self.script["students"]["closing"]), self._reply("closing", talk, rng))
                return

    def _turn(self, talk: _Talk, rng: random.Random) -> _Turn:
        moves = {move: weight for move, weight in self.script["moves"].items() if move != "back" or talk.at > 0}
        move = rng.choices(list(moves), list(moves.values()))[0]
        subproblem = talk.problem.subproblems[talk.at]
        answers = {
            "right": subproblem.answer,
            "partly": subproblem.partial_response,
            "wrong": subproblem.incorrect_response,
        }
        if move not in answers:
            return _Turn(rng.choice(self.script["students"][move]), self._reply(move, talk, rng))
        answer = answers[move]
        student = rng.choice(self.script["students"]["answer"]).format(
            a=lowered(answer), A=answer[:1].upper() + answer[1:]
        )
        if move == "right":
            return _Turn(student, self._reply(move, talk, rng))
        talk.failures[talk.at] = talk.failures.get(talk.at, 0) + 1
        if talk.failures[talk.at] >= self.script["tell_after"]:
            return _Turn(student, self._reply(move, talk, rng, tell=True))
        told = self._reply(move, _Talk(talk.problem, talk.at), rng, tell=True)
        return _Turn(student, self._reply(move, talk, rng), told)

    def _reply(self, move: str, talk: _Talk, rng: random.Random, tell: bool = False) -> dict[str, str]:
        """The values of the tutor's reply to a student's move; advances `talk` if the reply does."""
        entry = self.script["replies"][move]
        entry = entry["tell"] if tell else entry
        states, subproblems = self.script["states"], talk.problem.subproblems
        answered = subproblems[talk.at]
        transition, state = "", states["open"]
        if move == "closing":
            state = states["none"]
        elif move == "back":
            talk.at -= 1
            answered = subproblems[talk.at]
        elif move in ("right", "solution") or tell:
            talk.done = talk.at + 1 == len(subproblems)
            state = states["done" if talk.done else "next"]
            transition = rng.choice(self.script["transitions"]["done" if talk.done else "next"])
            talk.at = min(talk.at + 1, len(subproblems) - 1)
            transition = transition.format(question=subproblems[talk.at].question)
        spoken = rng.choice(entry["wording"]).format(
            question=answered.question,
            hint=answered.hint,
            feedback=answered.feedback,
            answer=answered.answer,
            next=transition,
        )
        return {
            **entry["labels"],
            "state": state,
            "subproblem": subproblems[talk.at].question,
            self.rubric.spoken: spoken,
        }

    def _written(self, reply: dict[str, str], rng: random.Random) -> str:
        """The reply as a language model would have written it: JSON or a Python literal, sometimes malformed."""
        named: dict[str, Any] = {one.name: reply[one.key] for one in self.rubric.fields}
        write = repr if rng.random() < 0.3 else lambda value: json.dumps(value, ensure_ascii=False)
        for one in self.rubric.label_fields:
            if reply[one.key] == one.not_applicable and rng.random() < 0.2:
                named[one.name] = "N/A"
        if rng.random() >= self.malformed_share:
            return write(named)
        flaw = rng.choice(("missing brace", "list", "two labels"))
        if flaw == "missing brace":
            return write(named)[:-1]
        if flaw == "list":
            last = self.rubric.fields[-1].name
            return write({**named, last: [named[last]]})
        doubled = rng.choice(self.rubric.label_fields)
        other = rng.choice([label for label in doubled.labels if label != reply[doubled.key]])
        return write({**named, doubled.name: f"{reply[doubled.key]}, {other}"})


def _rounds(problems: Sequence[Problem], count: int, rng: random.Random) -> list[Problem]:
    """`count` problems: all of them in shuffled order, again and again, so that each comes equally often."""
    order: list[Problem] = []
    while len(order) < count:
        order += rng.sample(list(problems), len(problems))
    return order[:count]


def load_script(path: Path, rubric: Rubric) -> dict[str, Any]:
    """Read a simulation's wording and labels.

    Raises UserError if the file is not YAML, lacks a part, or has labels that the rubric does not have.
    """
    script = read_yaml(path)
    try:
        if script["tell_after"] < 2:
            raise ValueError("'tell_after' is less than 2: no reply would ever scaffold")
        for move in ("right", "wrong", "partly"):
            script["moves"][move]
        for move in [*script["moves"], "opening", "closing"]:
            entry = script["replies"][move]
            for one in (entry, entry.get("tell", entry)):
                for key, label in one["labels"].items():
                    if label not in rubric.field(key).labels:
                        raise ValueError(f"label '{label}' of '{move}' is not in the rubric")
    except (KeyError, TypeError, AttributeError, ValueError, StopIteration) as error:
        raise UserError(f"{path}: {type(error).__name__} {error}", "compare with datasets/simulation.yaml") from None
    return script
