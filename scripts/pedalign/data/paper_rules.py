"""The rules of the paper's published scripts, followed exactly, so that figures can be compared to the digit.

The paper is "Pedagogical Alignment of Large Language Models" (arXiv 2402.05000). The rules say which replies can be
read, which gold replies are valid, and what is a mistake. docs/how-to/paper-numbers.md says how the workflow's own
rules differ. Field names, labels and their lengths come from the rubric.
"""

import ast
import warnings
from collections.abc import Sequence
from typing import Any

from pedalign.data.literal import join_surrogates
from pedalign.data.rubric import Canonical, Field, Rubric

# The published conversations open with instructions, a mark that ends them, and the student's question.
INSTRUCTIONS = "Instructions to Act as a Tutorbot"
INSTRUCTIONS_END = "Student: "
NOT_APPLICABLE = "N/A"
MAX_CHARACTERS = 131_072  # Python's csv refuses longer cells, so the published scripts fail at a longer reply


def read_literal(text: str) -> Any:
    """The whole `text` as one Python literal; None if it is not one, or longer than MAX_CHARACTERS.

    The published scripts read replies by `ast.literal_eval`, which refuses words or line breaks around a mapping, and
    JSON's `null`, `true` and `false`. Nothing is executed; the length bounds time and memory.
    """
    if len(text) > MAX_CHARACTERS:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about unknown escapes
            return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None


def canonical(text: str, rubric: Rubric) -> Canonical:
    """A tutor turn of a conversation file as the paper's scripts keep it, or why they cut the conversation there.

    They keep every mapping that has the label fields, with any values; "N/A" becomes the label for it. A reply whose
    fields are all text is written in the rubric's canonical form, any other as Python writes it.
    """
    mapping = read_literal(text)
    if not isinstance(mapping, dict):
        return Canonical("", "unparseable", "not one Python mapping")
    missing = [field.name for field in rubric.label_fields if field.name not in mapping]
    if missing:
        return Canonical("", "incomplete", f"'{missing[0]}' is missing")
    for field in rubric.label_fields:
        if mapping[field.name] == NOT_APPLICABLE and field.not_applicable:
            mapping[field.name] = field.not_applicable
    if all(isinstance(mapping.get(field.name), str) for field in rubric.fields):
        values = {field.key: join_surrogates(mapping[field.name]) for field in rubric.fields}
        return Canonical(rubric.serialize(values))
    names = {field.name for field in rubric.fields}
    return Canonical(str({name: value for name, value in mapping.items() if name in names}))


def student_turn(text: str) -> str:
    """A student turn of a conversation file without the published instructions (preprocess_sft_data.py).

    A turn with their title loses all text up to the first "Student: " (without this mark, its first 8 characters), and
    the stray quotes before a "Q." in the rest.
    """
    if INSTRUCTIONS not in text:
        return text
    question = text[text.find(INSTRUCTIONS_END) + len(INSTRUCTIONS_END) :]
    return question.replace('"\nQ.', "Q.")


def response_text(text: str) -> str:
    """A tutor's reply as generate_responses.py records it: stripped if that is a Python literal, else unchanged."""
    stripped = text.strip()
    return text if read_literal(stripped) is None else stripped


def prompt_text(messages: Sequence[dict[str, str]], instructions: str) -> str:
    """A prompt in the published form: "System: " with instructions and opening, "Student: ", "Tutorbot: " turns.

    evaluate_responses.py takes a prompt with one "Student:" for the first of its conversation. So this mark must occur
    once for each student turn: within instructions and turns it gets a space before the colon.
    """
    mark = INSTRUCTIONS_END.rstrip()
    roles = (mark, "Tutorbot:")
    texts = [text.replace(mark, "Student :") for text in (instructions, *(one["content"] for one in messages))]
    opening = f"System: {texts[0]}\n\n{mark} {texts[1]}\n"
    later = "".join(f"{roles[at % 2]} {text}\n" for at, text in enumerate(texts[2:], start=1))
    return f"{opening}{later}\n{roles[1]}"


def valid_gold(mapping: Any, rubric: Rubric) -> bool:
    """Whether the paper uses a gold reply for pairs and scores: all fields are text, and labels have a valid length.

    In CLASS that is one character for evaluation and state, at most two for the action, whatever they are.
    """
    if not isinstance(mapping, dict):
        return False
    values = [mapping.get(field.name) for field in rubric.fields]
    if not all(isinstance(value, str) for value in values):
        return False
    return all(_of_label_length(mapping[field.name], field) for field in rubric.label_fields)


def _of_label_length(value: str, field: Field) -> bool:
    lengths = {len(label) for label in field.labels}
    return len(value) in lengths if len(lengths) == 1 else len(value) <= max(lengths)


def mistake(gold: str, response: str, rubric: Rubric) -> tuple[str, int] | None:
    """Why the paper makes a preference pair of a response, and how many of its labels are wrong.

    The reason is "unparseable" or "incomplete" (a field is missing, or all are empty), where all labels count as wrong,
    or the key of the first label field that differs (preprocess_dpo_data.py). None if the paper makes no pair: the gold
    reply is not valid, or all labels agree.
    """
    wanted, found = read_literal(gold), read_literal(response)
    if not valid_gold(wanted, rubric):
        return None
    if found is None:
        return "unparseable", len(rubric.label_fields)
    names = [field.name for field in rubric.fields]
    if not isinstance(found, dict) or any(name not in found for name in names):
        return "incomplete", len(rubric.label_fields)
    if all(found[name] == "" for name in names):
        return "incomplete", len(rubric.label_fields)
    differing = [field.key for field in rubric.label_fields if not _agree(found[field.name], wanted[field.name])]
    return (differing[0], len(differing)) if differing else None


def _agree(label: Any, gold: str) -> bool:
    return isinstance(label, str) and label.strip() == gold.strip()
