"""The only renderer of conversations: to text, token ids and the mask of trained tokens.

The wording comes from FastChat's `Conversation`. A template is the text before, between and after its turns. Everything
else is made from these pieces, the Jinja template that is saved with a checkpoint included. Each piece and each turn is
tokenized separately, so the ids of a prompt are exactly a prefix of the training ids.
"""

import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from fastchat.conversation import Conversation as FastChat
from fastchat.conversation import SeparatorStyle, conv_templates, register_conv_template

from pedalign.core.errors import UserError, nearest
from pedalign.data.conversations import Message
from pedalign.data.rubric import Rubric, instruction_text

OWN = "tutor"  # our template; the others are those of model families

# FastChat 0.2.36 has no llama-3; this is Meta's published format.
_LLAMA_3 = "<|start_header_id|>{}<|end_header_id|>\n\n"
for _own in (
    FastChat(
        name=OWN,
        system_template="<|system|>{system_message}<|end|>",
        roles=("<|student|>", "<|tutor|>"),
        sep_style=SeparatorStyle.NO_COLON_SINGLE,
        sep="<|end|>",
    ),
    FastChat(
        name="llama-3",
        system_template="<|begin_of_text|>" + _LLAMA_3.format("system") + "{system_message}<|eot_id|>",
        roles=(_LLAMA_3.format("user"), _LLAMA_3.format("assistant")),
        sep_style=SeparatorStyle.NO_COLON_SINGLE,
        sep="<|eot_id|>",
    ),
):
    if _own.name not in conv_templates:
        register_conv_template(_own)

# name → the token that ends a tutor's turn
END_TOKENS = {
    OWN: "<|end|>",
    "mistral": "</s>",
    "zephyr": "</s>",
    "vicuna_v1.1": "</s>",
    "llama-3": "<|eot_id|>",
}


@dataclass(frozen=True)
class Template:
    """The text around the turns of a conversation:

    before_system SYSTEM after_system STUDENT after_student TUTOR end [after_tutor STUDENT after_student TUTOR end] ...
    """

    before_system: str
    after_system: str
    after_student: str
    end: str
    after_tutor: str

    def markers(self) -> list[str]:
        """The marks that a tokenizer made for this template must know as single tokens."""
        pieces = self.before_system + self.after_system + self.after_student + self.end + self.after_tutor
        marks = [f"<|{part.partition('|>')[0]}|>" for part in pieces.split("<|")[1:]]
        return list(dict.fromkeys([*marks, self.end]))


def load_template(name: str) -> Template:
    """Read the pieces of FastChat's template. Raises UserError for a name that is not supported."""
    if name not in END_TOKENS:
        raise UserError(f"template '{name}' is not known", nearest(name, END_TOKENS))
    conversation = conv_templates[name].copy()
    probes = [f"\0{number}\0" for number in range(5)]
    conversation.system_message = probes[0]
    for at, probe in enumerate(probes[1:]):
        conversation.append_message(conversation.roles[at % 2], probe)
    rest, pieces = conversation.get_prompt(), []
    for probe in probes:
        piece, _, rest = rest.partition(probe)
        pieces.append(piece)
    end = END_TOKENS[name]
    if not pieces[3].startswith(end):
        raise AssertionError(f"template {name}: {pieces[3]!r} does not start with the end token {end!r}")
    return Template(pieces[0], pieces[1], pieces[2], end, pieces[3].removeprefix(end))


class Tokenizer(Protocol):
    """What the renderer needs of a transformers tokenizer."""

    bos_token: str | None
    eos_token: str | None

    def __call__(self, text: str, *, add_special_tokens: bool, split_special_tokens: bool = ...) -> dict: ...

    def convert_tokens_to_ids(self, tokens: str) -> int: ...


def _is_one_token(tokenizer: Tokenizer, text: str) -> bool:
    return len(tokenizer(text, add_special_tokens=False)["input_ids"]) == 1


class Renderer:
    """Renders conversations with one template, one instruction and one tokenizer."""

    def __init__(self, tokenizer: Tokenizer, template: str, instruction: str) -> None:
        self.tokenizer = tokenizer
        self.instruction = instruction
        self.template = load_template(template)
        if template == OWN and tokenizer.eos_token and not _is_one_token(tokenizer, self.template.end):
            # To a pretrained model our marks are plain text. Its own end token ends a reply, so no token is added.
            self.template = replace(self.template, end=tokenizer.eos_token)
        # The beginning-of-sequence token is added here, once, if the tokenizer begins every text with it.
        opening = tokenizer("", add_special_tokens=True)["input_ids"]
        bos = tokenizer.bos_token if opening else None
        self._bos = bos if bos and not self.template.before_system.startswith(bos) else ""
        # The rows of a conversation repeat its turns.
        self._ids = functools.lru_cache(maxsize=4096)(self._tokenized)
        alone = tokenizer("\n", add_special_tokens=False)["input_ids"]
        twice = tokenizer("\n\n", add_special_tokens=False)["input_ids"]
        self._lead = alone if len(alone) == 2 and twice == [*alone, alone[-1]] else []  # a space, a new line
        self.end_id = tokenizer.convert_tokens_to_ids(self.template.end)
        if self._ids(self.template.end, False) != (self.end_id,):
            raise UserError(
                f"the end token '{self.template.end}' of template '{template}' is not one token of the tokenizer",
                "choose the template that the model was made for ('template' in its entry of config.yaml)",
            )

    def segments(self, messages: Sequence[Message]) -> list[tuple[str, str]]:
        """(kind, text) in order; kind is "piece" or "end" (the template's), "text" (instruction, student) or "reply".

        `messages` alternate, the student's first. The opening of the tutor's turn follows each student turn, so a
        prompt ends in it.
        """
        template = self.template
        parts = [
            ("piece", self._bos + template.before_system),
            ("text", self.instruction),
            ("piece", template.after_system),
        ]
        for at, message in enumerate(messages):
            if message["role"] == "user":
                if at:
                    parts.append(("piece", template.after_tutor))
                parts += [("text", message["content"]), ("piece", template.after_student)]
            else:
                parts += [("reply", message["content"]), ("end", template.end)]
        return parts

    def text(self, messages: Sequence[Message]) -> str:
        return "".join(text for _, text in self.segments(messages))

    def encode(self, messages: Sequence[Message]) -> tuple[list[int], list[bool]]:
        """Token ids, and for each whether it is trained: the tutor's replies and their end tokens are."""
        ids: list[int] = []
        trained: list[bool] = []
        for kind, text in self.segments(messages):
            new = self._ids(text, kind not in ("piece", "end"))
            ids += new
            trained += [kind in ("reply", "end")] * len(new)
        return ids, trained

    def reply_ids(self, reply: str) -> list[int]:
        """The ids that a model should answer with: the reply and its end token."""
        return [*self._ids(reply, True), self.end_id]

    def _tokenized(self, text: str, words: bool) -> tuple[int, ...]:
        """The ids of one segment. The `words` of people and models never become control tokens, whatever they spell.

        SentencePiece tokenizers put a space before every text. So a new line, which merges with nothing, is put before
        the segment, and the ids of the space and the new line are removed.
        """
        if not text:
            return ()
        how = {"split_special_tokens": True} if words else {}
        lead = "\n" if self._lead else ""
        return tuple(self.tokenizer(lead + text, add_special_tokens=False, **how)["input_ids"][len(self._lead) :])

    def jinja(self) -> str:
        """The chat template that renders the same text from messages, for `tokenizer.chat_template`.

        A system message replaces the instruction; `{% generation %}` marks the trained tokens.
        """

        def quote(text: str) -> str:
            # Jinja does not join the two escapes that JSON writes for characters such as emoji.
            return json.dumps(text, ensure_ascii=False)

        template = self.template
        return (
            "{%- if messages[0]['role'] == 'system' -%}"
            "{%- set system = messages[0]['content'] -%}{%- set turns = messages[1:] -%}"
            f"{{%- else -%}}{{%- set system = {quote(self.instruction)} -%}}"
            "{%- set turns = messages -%}{%- endif -%}"
            f"{{{{- {quote(self._bos + template.before_system)} + system + {quote(template.after_system)} -}}}}"
            "{%- for message in turns -%}{%- if message['role'] == 'user' -%}"
            "{{- message['content'] -}}"
            "{%- if add_generation_prompt or not loop.last -%}"
            f"{{{{- {quote(template.after_student)} -}}}}{{%- endif -%}}"
            "{%- else -%}{%- generation -%}"
            f"{{{{- message['content'] + {quote(template.end)} -}}}}"
            "{%- endgeneration -%}"
            f"{{%- if not loop.last -%}}{{{{- {quote(template.after_tutor)} -}}}}{{%- endif -%}}"
            "{%- endif -%}{%- endfor -%}"
        )


def renderer(tokenizer: Tokenizer, template: str, instruction: str, rubric: Rubric) -> Renderer:
    """The renderer that a model's entry in config.yaml describes."""
    return Renderer(tokenizer, template, instruction_text(rubric, instruction))
