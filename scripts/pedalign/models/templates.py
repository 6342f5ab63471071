"""Templates: the text around the turns of a conversation, FastChat's, or that of a tokenizer's own chat template."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from fastchat.conversation import Conversation as FastChat
from fastchat.conversation import SeparatorStyle, conv_templates, register_conv_template

from pedalign.core.errors import UserError, nearest
from pedalign.data.conversations import Message

OWN = "tutor"  # our template
AUTO = "auto"  # the chat template that the tokenizer brings

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


class Tokenizer(Protocol):
    """What templates and the renderer need of a transformers tokenizer."""

    bos_token: str | None
    eos_token: str | None
    chat_template: Any

    def __call__(self, text: str, *, add_special_tokens: bool, split_special_tokens: bool = ...) -> dict: ...

    def apply_chat_template(self, conversation: list[Message], **options: Any) -> Any: ...

    def get_chat_template(self) -> str: ...

    def convert_tokens_to_ids(self, tokens: str) -> int: ...

    def get_added_vocab(self) -> dict[str, int]: ...


@dataclass(frozen=True)
class Template:
    """The text around the turns of a conversation:

    before_system SYSTEM after_system STUDENT after_student TUTOR end [after_tutor STUDENT after_student TUTOR end] ...

    `trimmed`: the roles (system, user, assistant) whose texts lose white space at both ends.

    The last three fields say how the pieces are those of a chat template. `system`: it has a system role; else the
    instruction opens the first student turn. `thought`: an empty thinking block at the end of `after_student`, which
    it puts before the last reply alone. `opened`: the end of `after_student` that it puts into a conversation, but not
    into a prompt.
    """

    before_system: str
    after_system: str
    after_student: str
    end: str
    after_tutor: str
    trimmed: frozenset[str] = frozenset()
    system: bool = field(default=True, compare=False)
    thought: str = field(default="", compare=False)
    opened: str = field(default="", compare=False)

    def markers(self) -> list[str]:
        """The marks that a tokenizer made for this template must know as single tokens."""
        pieces = self.before_system + self.after_system + self.after_student + self.end + self.after_tutor
        marks = [f"<|{part.partition('|>')[0]}|>" for part in pieces.split("<|")[1:]]
        return list(dict.fromkeys([*marks, self.end]))

    def trim(self, role: str, text: str) -> str:
        return text.strip() if role in self.trimmed else text

    def notes(self) -> list[str]:
        """What a reader has to know of pieces that were taken from a chat template."""
        dated = any(date in self.before_system for date in _DATES)
        return [
            *([] if self.system else ["it has no system role, so the instruction opens the first student turn"]),
            *(["today's date is always 26 Jul 2024"] if dated else []),
            *([f"white space around texts is dropped ({', '.join(sorted(self.trimmed))})"] if self.trimmed else []),
            *(["earlier replies keep the empty thinking block, which it would drop"] if self.thought else []),
            *([f"a prompt ends in {self.opened!r} too"] if self.opened else []),
        ]

    def fastchat(self, name: str) -> FastChat:
        """The template as FastChat's `Conversation`."""
        before, after = (
            piece.replace("{", "{{").replace("}", "}}") for piece in (self.before_system, self.after_system)
        )
        return FastChat(
            name=name,
            system_template=f"{before}{{system_message}}{after}",
            roles=("", ""),
            sep_style=SeparatorStyle.NO_COLON_TWO,
            sep=self.after_student,
            sep2=self.end + self.after_tutor,
        )


def load_template(name: str) -> Template:
    """Read the pieces of FastChat's template. Raises UserError for a name that is not supported."""
    if name not in END_TOKENS:
        raise UserError(f"template '{name}' is not known", nearest(name, [AUTO, *END_TOKENS]))
    conversation = conv_templates[name].copy()
    probes = [f"\0{number}\0" for number in range(5)]
    conversation.system_message = probes[0]
    for at, probe in enumerate(probes[1:]):
        conversation.append_message(conversation.roles[at % 2], probe)
    pieces = _cut(conversation.get_prompt(), probes)
    end = END_TOKENS[name]
    if not pieces or not pieces[3].startswith(end):
        raise AssertionError(f"template {name}: {pieces} does not have the end token {end!r}")
    return Template(pieces[0], pieces[1], pieces[2], end, pieces[3].removeprefix(end))


# The chat template of a tokenizer.

# A template that writes today's date would make other prompts each day: all write this one, Llama's default.
_DATES = ("26 Jul 2024", "2024-07-26")
_CLOCK = f"{{%- macro strftime_now(form) -%}}{{{{ {_DATES}['%b' not in form] }}}}{{%- endmacro -%}}"
_OPTIONS = {"enable_thinking": False, "date_string": _DATES[0], "tokenize": False}
_PROBES = [f"Xq{number}Zq" for number in range(5)]
_THOUGHT = re.compile(r"<think>\s*</think>\s*")
_INSTEAD = "set another template in the model's entry of config.yaml: tutor serves every tokenizer"


def unusable(why: str) -> UserError:
    """Says why a chat template can't be used, and what to use instead."""
    return UserError(f"template auto: the tokenizer's chat template {why}", _INSTEAD)


def rendered(tokenizer: Tokenizer, messages: Sequence[Message], prompt: bool = False) -> str:
    """What the tokenizer's own chat template makes of messages; `prompt`: with the opening of the next reply.

    Raises UserError if it refuses them.
    """
    try:
        template = _CLOCK + tokenizer.get_chat_template()
        return tokenizer.apply_chat_template(
            [*messages], chat_template=template, add_generation_prompt=prompt, **_OPTIONS
        )
    except Exception as error:  # a template raises what it likes
        what = (str(error).splitlines() or [""])[0]
        raise unusable(f"can't render a conversation ({type(error).__name__}: {what})") from None


def with_instruction(template: Template, instruction: str, messages: Sequence[Message]) -> list[Message]:
    """The messages as the chat template takes them: a system message first, or the first student turn opened by it."""
    if template.system:
        return [{"role": "system", "content": instruction}, *messages]
    first = template.trim("user", messages[0]["content"])
    opening = template.trim("system", instruction) + template.after_system + first
    return [{"role": "user", "content": opening}, *messages[1:]]


def own_template(tokenizer: Tokenizer) -> Template:
    """Take the tokenizer's chat template apart, by rendering probes.

    Raises UserError if there is none, or it can't be taken apart.
    """
    if not tokenizer.chat_template:
        raise UserError("template auto: the tokenizer has no chat template", _INSTEAD)
    asked = [{"role": ("user", "assistant")[at % 2], "content": text} for at, text in enumerate(_PROBES[1:])]
    whole, errors = None, []
    for template in (Template("", "", "", "", ""), Template("", "\n\n", "", "", "", system=False)):
        try:
            messages = with_instruction(template, _PROBES[0], asked)
            pieces = _cut(rendered(tokenizer, messages), _PROBES)
        except UserError as error:
            errors.append(error)
            continue
        if pieces:
            whole = template, messages, pieces
            break
    if not whole:
        raise errors[-1] if errors else unusable("does not keep the turns of a conversation in order")
    template, messages, pieces = whole
    opening = rendered(tokenizer, messages[:-1], prompt=True).rpartition(_PROBES[3])[2]
    end = _end_token(tokenizer, pieces[3], pieces[5])
    after_student, thought, opened = _after_student(pieces[2], pieces[4], opening)
    made = replace(template, before_system=pieces[0], after_system=pieces[1], after_student=after_student, end=end)
    made = replace(made, after_tutor=pieces[3].removeprefix(end), thought=thought, opened=opened)
    return replace(made, trimmed=frozenset(_trimmed(tokenizer, made)))


def _cut(text: str, probes: Sequence[str]) -> list[str] | None:
    """The pieces before, between and after the probes; None unless each is there once, in order."""
    pieces, rest = [], text
    for probe in probes:
        if text.count(probe) != 1 or probe not in rest:
            return None
        piece, _, rest = rest.partition(probe)
        pieces.append(piece)
    return [*pieces, rest]


def _after_student(before_first: str, before_last: str, opening: str) -> tuple[str, str, str]:
    """What comes before each reply, and of it the empty thinking block and what a prompt lacks."""
    if before_first == before_last and before_first.startswith(opening):
        return before_first, "", before_first.removeprefix(opening)
    thought = opening.removeprefix(before_first)
    if opening.startswith(before_first) and before_last in (before_first, opening) and _THOUGHT.fullmatch(thought):
        return opening, thought, ""
    raise unusable(f"opens a reply in a prompt with {opening!r}, in a conversation with {before_first!r}")


def _end_token(tokenizer: Tokenizer, after_reply: str, after_last: str) -> str:
    """The token that ends each reply."""
    marks = [mark for mark in tokenizer.get_added_vocab() if after_reply.startswith(mark)]
    end = max(marks, key=len, default="")
    if not end or not after_last.startswith(end):
        raise unusable(f"ends no reply with a token of its own: {after_reply!r}, the last one {after_last!r}")
    return end


def _trimmed(tokenizer: Tokenizer, template: Template) -> Iterator[str]:
    """The roles whose texts lose white space at both ends."""
    wide = [f" \n{probe} \n" for probe in _PROBES]
    turns = [{"role": ("user", "assistant")[at % 2], "content": text} for at, text in enumerate(wide[1:])]
    text = rendered(tokenizer, with_instruction(template, wide[0], turns))
    for role, inner in (("system", _PROBES[0]), ("user", _PROBES[3]), ("assistant", _PROBES[2])):
        if f" \n{inner} \n" not in text:
            yield role
