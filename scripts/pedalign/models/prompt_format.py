"""The only renderer of conversations: to text, token ids and the mask of trained tokens.

A template is the text before, between and after the turns (`templates`). Everything else is made from these pieces, the
Jinja template that is saved with a checkpoint included. Each piece and each turn is tokenized separately, so the ids of
a prompt are exactly a prefix of the training ids.
"""

import functools
import json
from collections.abc import Sequence
from dataclasses import replace

from pedalign.core.errors import UserError
from pedalign.data.conversations import Message
from pedalign.data.rubric import Rubric, instruction_text
from pedalign.models.templates import (
    AUTO,
    OWN,
    Tokenizer,
    load_template,
    own_template,
    rendered,
    unusable,
    with_instruction,
)

_ROLES = ("user", "assistant")
# What the renderer is held against a chat template on: texts of one line and more, other scripts, white space, marks.
_CONVERSATIONS = (
    (
        "Q. Why do plants need light?",
        '{"Action": "1", "Tutorbot": "Look again."}',
        "Hm?",
        '{"Tutorbot": "Right."}',
        "OK",
    ),
    ("1", "2", "3.5 < 4", "[4] 'quoted' \\"),
    ("Zwei\n\nAbsätze: É 汉字 🙂 ½", "- one\n- two\n\n\ttab", "a  b", "x" * 300),
    ("  two spaces before, and after  ", "[]", "\na line before, and after\n", "[]", "\t", "[]"),
)


def _is_one_token(tokenizer: Tokenizer, text: str) -> bool:
    return len(tokenizer(text, add_special_tokens=False)["input_ids"]) == 1


class Renderer:
    """Renders conversations with one template, one instruction and one tokenizer."""

    def __init__(self, tokenizer: Tokenizer, template: str, instruction: str) -> None:
        self.tokenizer = tokenizer
        self.instruction = instruction
        self.template = own_template(tokenizer) if template == AUTO else load_template(template)
        if template == OWN and tokenizer.eos_token and not _is_one_token(tokenizer, self.template.end):
            # To a pretrained model our marks are plain text. Its own end token ends a reply, so no token is added.
            self.template = replace(self.template, end=tokenizer.eos_token)
        # The beginning-of-sequence token is added here, once, if the tokenizer begins every text with it.
        opening = tokenizer("", add_special_tokens=True)["input_ids"]
        bos = tokenizer.bos_token if opening else None
        given = template == AUTO or self.template.before_system.startswith(bos or "")
        self._bos = "" if given or not bos else bos
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
        if template == AUTO:
            self._prove()

    def _prove(self) -> None:
        """Hold this renderer against the tokenizer's own chat template, on conversations of several shapes.

        Raises UserError if a text or its tokens differ.
        """
        template = self.template
        for contents in _CONVERSATIONS:
            talk: list[Message] = [{"role": _ROLES[at % 2], "content": text} for at, text in enumerate(contents)]
            whole = with_instruction(template, self.instruction, talk)
            for end in range(1, len(talk) + 1):
                prompt, given = bool(end % 2), whole[: len(whole) - len(talk) + end]
                theirs = rendered(self.tokenizer, given, prompt) + (template.opened if prompt else "")
                ours = self.text(talk[:end])
                plain_theirs, plain_ours = theirs, ours
                if template.thought:  # which it puts before the last reply alone
                    plain_theirs, plain_ours = (one.replace(template.thought, "") for one in (theirs, ours))
                same = plain_ours == (plain_theirs if prompt else plain_theirs[: len(plain_ours)])
                if not same or (prompt and not theirs.endswith(template.after_student)):
                    at = next((at for at, pair in enumerate(zip(ours, theirs, strict=False)) if pair[0] != pair[1]), 0)
                    what = f"{theirs[at : at + 60]!r} where its pieces give {ours[at : at + 60]!r}"
                    raise unusable(f"depends on what is said: it gives {what}")
                ids = self.encode(talk[:end])[0]
                if all(text == text.strip() for text in contents) and ids != self._plain_ids(ours):
                    raise unusable("joins texts and marks: tokenized turn by turn, they have other tokens than at once")

    def _plain_ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def segments(self, messages: Sequence[Message]) -> list[tuple[str, str]]:
        """(kind, text) in order; kind is "piece" or "end" (the template's), "text" (instruction, student) or "reply".

        `messages` alternate, the student's first. The opening of the tutor's turn follows each student turn, so a
        prompt ends in it.
        """
        template = self.template
        parts = [
            ("piece", self._bos + template.before_system),
            ("text", template.trim("system", self.instruction)),
            ("piece", template.after_system),
        ]
        for at, message in enumerate(messages):
            content = template.trim(message["role"], message["content"])
            if message["role"] == "user":
                if at:
                    parts.append(("piece", template.after_tutor))
                parts += [("text", content), ("piece", template.after_student)]
            else:
                parts += [("reply", content), ("end", template.end)]
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
        trim = {role: " | trim" if role in template.trimmed else "" for role in ("system", *_ROLES)}
        return (
            "{%- if messages[0]['role'] == 'system' -%}"
            "{%- set system = messages[0]['content'] -%}{%- set turns = messages[1:] -%}"
            f"{{%- else -%}}{{%- set system = {quote(self.instruction)} -%}}"
            "{%- set turns = messages -%}{%- endif -%}"
            f"{{{{- {quote(self._bos + template.before_system)} + system{trim['system']} -}}}}"
            f"{{{{- {quote(template.after_system)} -}}}}"
            "{%- for message in turns -%}{%- if message['role'] == 'user' -%}"
            f"{{{{- message['content']{trim['user']} -}}}}"
            "{%- if add_generation_prompt or not loop.last -%}"
            f"{{{{- {quote(template.after_student)} -}}}}{{%- endif -%}}"
            "{%- else -%}{%- generation -%}"
            f"{{{{- message['content']{trim['assistant']} + {quote(template.end)} -}}}}"
            "{%- endgeneration -%}"
            f"{{%- if not loop.last -%}}{{{{- {quote(template.after_tutor)} -}}}}{{%- endif -%}}"
            "{%- endif -%}{%- endfor -%}"
        )


def renderer(tokenizer: Tokenizer, template: str, instruction: str, rubric: Rubric) -> Renderer:
    """The renderer that a model's entry in config.yaml describes."""
    return Renderer(tokenizer, template, instruction_text(rubric, instruction))
