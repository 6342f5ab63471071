"""A dialogue with one or several tutors: each answers the same history, and the student continues with one reply."""

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pedalign.core.artifacts import read_json
from pedalign.core.errors import UserError
from pedalign.core.paths import TutorPaths, tutor_of
from pedalign.core.provenance import expect_checkpoint, manifest_path, read_record, record_path, verified
from pedalign.data.conversations import Conversation, Message
from pedalign.data.rubric import Rubric, load_rubric
from pedalign.generation.common import GenerationSettings, History
from pedalign.generation.plain_engine import generate
from pedalign.models.checkpoints import load_model, load_tokenizer
from pedalign.models.prompt_format import renderer
from pedalign.reporting.transcripts import Labelled, labelled

_PROJECT = Path(__file__).parents[3]
# Settings for a tutor that has not answered a split: greedy, with room for any reply.
_DECODING = {"max_new_tokens": 512, "min_new_tokens": 2, "temperature": 0, "repetition_penalty": 1.0, "seed": 42}


@dataclass(frozen=True)
class Answer:
    """A reply as the model wrote it. `broken_off`: its number of tokens if it was cut off before its end, else None."""

    text: str
    broken_off: int | None


class Tutor:
    """A checkpoint that answers as it did in the workflow: same rubric, prompt format and decoding."""

    def __init__(self, checkpoint: Path, name: str = "") -> None:
        """`name`: if it is not to be `<model>/<policy>`.

        Raises UserError if there is no such checkpoint, or if it was changed since it was made.
        """
        verified(checkpoint)
        settings, self.rubric = asked(checkpoint)
        self.name = name or tutor_name(checkpoint)
        decoding = settings.get("generation", _DECODING)
        self.settings = GenerationSettings(**{**decoding, "engine": "plain", "max_batch_tokens": None})
        self.tokenizer = load_tokenizer(checkpoint)
        self.renderer = renderer(self.tokenizer, rubric=self.rubric, **settings["rendering"])
        self.model = load_model(checkpoint, precision(settings))

    def answer(self, messages: Sequence[Message]) -> Answer:
        """The reply to the last of the `messages`, a student turn.

        Raises UserError if the conversation with a reply could be longer than the model allows.
        """
        ids = self.renderer.encode(messages)[0]
        room, most = getattr(self.model.config, "max_position_embeddings", None), self.settings.max_new_tokens
        if room and len(ids) + most > room:
            raise UserError(
                f"{self.name}: the conversation has {len(ids)} tokens, a reply up to {most}; the model takes {room}",
                "begin a new conversation",
            )
        history = History(str(len(messages)), ids, [len(ids)])
        ((completion,),) = generate(self.model, [history], self.renderer.end_id, self.settings, padded=False)
        text = self.tokenizer.decode(completion.ids, skip_special_tokens=True)
        return Answer(text, len(completion.ids) if completion.finish_reason == "length" else None)


def tutor_name(checkpoint: Path) -> str:
    """`results/tiny/dpo-b0.1/checkpoint` → `tiny/dpo-b0.1`"""
    return "/".join(tutor_of(checkpoint.resolve()))


def tutor_names(checkpoints: Sequence[Path]) -> list[str]:
    """Their `tutor_name`s; if some are equal, as in two folders of results, the parts of the paths that differ."""
    names = [tutor_name(checkpoint) for checkpoint in checkpoints]
    if len(set(names)) == len(names):
        return names
    folders = [str(checkpoint.resolve().parent) for checkpoint in checkpoints]
    return [os.path.relpath(folder, os.path.commonpath(folders)) for folder in folders]


def asked(checkpoint: Path) -> tuple[Mapping[str, Any], Rubric]:
    """The settings with which the tutor answered the test split, or else was trained; and its rubric.

    Raises UserError if the workflow did neither, or if the rubric has changed since.
    """
    record = _record(checkpoint)
    path, known = next(one for one in record["made_from"].items() if one[0].endswith((".yaml", ".yml")))
    if not Path(path).is_file():
        path = str(_PROJECT / path)  # called from another folder
    if not Path(path).is_file():
        raise UserError(f"{path}: the rubric with which {checkpoint} was trained is missing", "restore it")
    if verified(path)[path] != known:
        raise UserError(
            f"{path}: the rubric has changed since {checkpoint} was trained",
            f"restore it, or let `snakemake --cores all {manifest_path(checkpoint)}` train with the new one",
        )
    return record["settings"], load_rubric(Path(path))


def precision(settings: Mapping[str, Any]) -> str:
    """The dtype in which a tutor computes, by its settings (as `asked` returns them)."""
    return settings.get("dtype") or settings["training"]["dtype"]


def _record(checkpoint: Path) -> dict[str, Any]:
    expect_checkpoint(checkpoint)
    manifest, responses = manifest_path(checkpoint), Path(TutorPaths(str(checkpoint.parent)).responses())
    if record_path(responses).is_file():
        return read_record(responses)
    if "training" not in read_json(manifest)["settings"]:
        if checkpoint.name != "checkpoint":  # such as `base`, from which a training starts
            raise UserError(f"{checkpoint}: it was not trained, so it is no tutor", "name a tutor's checkpoint")
        asks = f"snakemake --cores all {responses} finds it out"
        raise UserError(f"{checkpoint}: its prompt format is not known, because it was trained elsewhere", asks)
    return read_record(manifest)


class Talk:
    """A conversation: what was said, and the tutors' replies to the student's last turn."""

    def __init__(self, tutors: Sequence[Tutor]) -> None:
        """Raises UserError if the tutors have different rubrics: they could not continue one history."""
        self.tutors = tutors
        self.rubric: Rubric = tutors[0].rubric
        if any(tutor.rubric != self.rubric for tutor in tutors):
            raise UserError("the tutors have different rubrics", "talk to tutors of one rubric")
        self.messages: list[Message] = []
        self.replies: list[Answer] = []  # one per tutor
        self.taken = len(tutors) - 1  # the tutor with whose reply the conversation continues
        self.spoke: list[str] = []  # names of the tutors whose replies are among the messages

    def ask(self, text: str) -> list[Labelled]:
        """Each tutor's reply to the student's next turn. If one fails, the conversation stays as it was."""
        messages: list[Message] = [*self.all_messages(), {"role": "user", "content": text}]
        replies = [tutor.answer(messages) for tutor in self.tutors]
        self.spoke = [*self.spoke, self.tutors[self.taken].name] if self.replies else []
        self.messages, self.replies = messages, replies
        return self.labelled()

    def labelled(self) -> list[Labelled]:
        found = []
        for reply in self.replies:
            one = labelled(reply.text, self.rubric)
            if one["defect"] and reply.broken_off:
                one["defect"] = f"broken off after {reply.broken_off} tokens; {one['defect']}"
            found.append(one)
        return found

    def label_lines(self, reply: Labelled) -> list[str]:
        """`Action Based on Evaluation: 1, point out the mistake and give a hint`, for each label of a reply."""
        found = [(field, reply["labels"][field.key]) for field in self.rubric.label_fields]
        return [f"{field.name}: {label}, {field.labels[label]}" for field, label in found if label]

    def all_messages(self) -> list[Message]:
        """The conversation with the chosen reply, in the form in which tutors read their own replies."""
        if not self.replies:
            return self.messages
        reply = self.replies[self.taken].text
        return [*self.messages, {"role": "assistant", "content": self.rubric.canonical(reply).text or reply}]

    def record(self) -> dict[str, Any]:
        """The conversation as a record of a conversation file."""
        made = time.strftime("%Y-%m-%d-%H%M%S", time.gmtime())
        return Conversation(f"chat-{made}", tuple(self.all_messages())).record()
