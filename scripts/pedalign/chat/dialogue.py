"""A dialogue with one or several tutors: each answers the same history, and the student goes on with one reply."""

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
# Of a tutor that has not answered a split: greedy, and room for any reply.
_DECODING = {"max_new_tokens": 512, "min_new_tokens": 2, "temperature": 0, "repetition_penalty": 1.0, "seed": 42}


@dataclass(frozen=True)
class Answer:
    """A reply as the model wrote it; `broken_off`: after how many tokens, of one that had not ended."""

    text: str
    broken_off: int | None


class Tutor:
    """A checkpoint that answers as it did in the workflow: same rubric, wording, and way to choose tokens."""

    def __init__(self, checkpoint: Path, name: str = "") -> None:
        """`name`: where it is not the model's and the policy's.

        Raises UserError where there is no such checkpoint, or it is not as it was made.
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
        """The reply to the last of the `messages`, the student's.

        Raises UserError where the conversation with a reply is longer than what the model was made for.
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
    """Their `tutor_name`s; where these are the same, as of two folders of results, with what tells them apart."""
    names = [tutor_name(checkpoint) for checkpoint in checkpoints]
    if len(set(names)) == len(names):
        return names
    folders = [str(checkpoint.resolve().parent) for checkpoint in checkpoints]
    return [os.path.relpath(folder, os.path.commonpath(folders)) for folder in folders]


def asked(checkpoint: Path) -> tuple[Mapping[str, Any], Rubric]:
    """The settings by which the tutor was asked for its replies to the test split, or else was trained; its rubric.

    Raises UserError where the workflow did neither, or the rubric is another by now.
    """
    record = _record(checkpoint)
    path, known = next(one for one in record["made_from"].items() if one[0].endswith(".yaml"))
    if not Path(path).is_file():
        path = str(_PROJECT / path)  # from another folder
    if not Path(path).is_file():
        raise UserError(f"{path}: there is no such rubric, by which {checkpoint} was trained", "restore it")
    if verified(path)[path] != known:
        raise UserError(
            f"{path}: another rubric than {checkpoint} was trained with",
            f"restore it, or let `snakemake --cores all {manifest_path(checkpoint)}` train with the new one",
        )
    return record["settings"], load_rubric(Path(path))


def precision(settings: Mapping[str, Any]) -> str:
    """The dtype in which a tutor that is `asked` by these settings computes."""
    return settings.get("dtype") or settings["training"]["dtype"]


def _record(checkpoint: Path) -> dict[str, Any]:
    expect_checkpoint(checkpoint)
    manifest, responses = manifest_path(checkpoint), Path(TutorPaths(str(checkpoint.parent)).responses())
    if record_path(responses).is_file():
        return read_record(responses)
    if "training" not in read_json(manifest)["settings"]:
        if checkpoint.name != "checkpoint":  # as `base`, which a training begins with
            raise UserError(f"{checkpoint}: it was not trained, so it is no tutor", "name a tutor's checkpoint")
        asks = f"snakemake --cores all {responses} finds it out"
        raise UserError(f"{checkpoint}: nothing says how this tutor is asked, as it was trained elsewhere", asks)
    return read_record(manifest)


class Talk:
    """What was said, and the tutors' replies to the student's last turn."""

    def __init__(self, tutors: Sequence[Tutor]) -> None:
        """Raises UserError where the tutors' labels are not of one rubric: they could not go on with one history."""
        self.tutors = tutors
        self.rubric: Rubric = tutors[0].rubric
        if any(tutor.rubric != self.rubric for tutor in tutors):
            raise UserError("the tutors have different rubrics", "talk to tutors of one rubric")
        self.messages: list[Message] = []
        self.replies: list[Answer] = []  # of each tutor
        self.taken = len(tutors) - 1  # the tutor whose reply is gone on with
        self.spoke: list[str] = []  # the tutors of the replies among the messages

    def ask(self, text: str) -> list[Labelled]:
        """Each tutor's reply to the student's next turn. Where one can't be had, all is as before."""
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
        """The conversation with the reply that is taken; in the form in which tutors read their own replies."""
        if not self.replies:
            return self.messages
        reply = self.replies[self.taken].text
        return [*self.messages, {"role": "assistant", "content": self.rubric.canonical(reply).text or reply}]

    def record(self) -> dict[str, Any]:
        """The conversation as conversation files hold it."""
        made = time.strftime("%Y-%m-%d-%H%M%S", time.gmtime())
        return Conversation(f"chat-{made}", tuple(self.all_messages())).record()
