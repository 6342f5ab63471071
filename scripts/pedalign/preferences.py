"""Preference pairs from a tutor's own mistakes: the gold reply is chosen, what the tutor said is rejected."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pedalign import paper
from pedalign.errors import UserError
from pedalign.rubric import Rubric


@dataclass(frozen=True)
class PreferenceSettings:
    """`paper_rules`: what is a mistake is decided as the paper's scripts do (`pedalign.paper`)."""

    paper_rules: bool = False


def why_rejected(gold: str, response: str, rubric: Rubric) -> str | None:
    """Why a response is worse than the gold reply, or None where all labels agree or the gold reply has a defect.

    "unparseable", "incomplete", or the key of the first label field that differs (arXiv 2402.05000, section 4).
    """
    wanted, reply = rubric.parse(gold), rubric.parse(response)
    if wanted.defect:
        return None
    if reply.defect in ("unparseable", "incomplete"):
        return reply.defect
    differing = (field.key for field in rubric.label_fields if reply.values[field.key] != wanted.values[field.key])
    return next(differing, None)


def preference_pairs(
    rows: Sequence[dict[str, Any]], responses: Sequence[dict[str, str]], rubric: Rubric, settings: PreferenceSettings
) -> dict[str, list[Any]]:
    """TRL's preference format as parallel lists, with `conversation_id`, `turn` and `reason`.

    `rows` are those of a formatted split, `responses` those of its responses.csv, in the same order.
    A rejected reply that can be parsed is written in canonical form, so that chosen and rejected differ in
    content and never in spacing or quoting.
    Raises UserError where the two do not belong together, or no response is wrong.
    """
    check_same_rows(rows, responses)
    why = paper.why_rejected if settings.paper_rules else why_rejected
    columns = ("conversation_id", "turn", "prompt", "chosen", "rejected", "reason")
    pairs: dict[str, list[Any]] = {column: [] for column in columns}
    for row, response in zip(rows, responses, strict=True):
        reason = why(row["chosen"][0]["content"], response["response"], rubric)
        if reason is None:
            continue
        reply = rubric.parse(response["response"])
        broken = reply.defect in ("unparseable", "incomplete")
        rejected = response["response"] if broken else rubric.serialize(reply.values)
        values = (
            row["conversation_id"],
            row["turn"],
            row["prompt"],
            row["chosen"],
            [{"role": "assistant", "content": rejected}],
            reason,
        )
        for column, value in zip(columns, values, strict=True):
            pairs[column].append(value)
    if not pairs["prompt"]:
        raise UserError(
            f"no preference pair: all {len(rows)} responses agree with the gold labels",
            "there is nothing to align; take more DPO conversations, or fine-tune for fewer epochs",
        )
    return pairs


def reasons(pairs: dict[str, list[Any]]) -> dict[str, int]:
    return dict(Counter(pairs["reason"]).most_common())


def check_same_rows(rows: Sequence[dict[str, Any]], responses: Sequence[dict[str, str]]) -> None:
    """Raises UserError where responses are missing, doubled or foreign."""
    wanted = [(row["conversation_id"], str(row["turn"])) for row in rows]
    found = [(response["conversation_id"], response["turn"]) for response in responses]
    if wanted != found:
        at = next((at for at, (one, other) in enumerate(zip(wanted, found, strict=False)) if one != other), None)
        what = f"row {at} answers {found[at]}, not {wanted[at]}" if at is not None else "the rest agrees"
        raise UserError(
            f"responses.csv has {len(found)} rows for {len(wanted)} prompts; {what}",
            "delete responses.csv and run again: the workflow makes it anew",
        )
