"""The table of a tutor's responses to a split: its columns, and which rows it must have."""

from collections.abc import Iterable, Sequence
from typing import Any

from pedalign.errors import UserError

COLUMNS = (
    "prompt",
    "response",
    "gpt",
    "conversation_id",
    "turn",
    "prompt_tokens",
    "response_tokens",
    "finish_reason",
    "sample",
)


def gathered(
    rows: Sequence[dict[str, Any]], shards: Iterable[Sequence[dict[str, str]]], samples: int, name: str
) -> list[dict[str, str]]:
    """The responses of all shards in the order of the split's `rows`, the samples of a prompt one after another.

    Raises UserError where responses are missing, doubled or foreign; `name` is what it calls the shards.
    """
    places = {(row["conversation_id"], str(row["turn"])): at for at, row in enumerate(rows)}

    def place(response: dict[str, str]) -> tuple[int, int]:
        return places.get((response["conversation_id"], response["turn"]), len(rows)), int(response["sample"])

    responses = sorted((response for shard in shards for response in shard), key=place)
    check_same_rows(rows, responses, samples, name)
    return responses


def check_same_rows(
    rows: Sequence[dict[str, Any]],
    responses: Sequence[dict[str, str]],
    samples: int = 1,
    name: str = "responses.csv",
) -> None:
    """Raises UserError where responses are missing, doubled or foreign, or in another order than the split's `rows`."""
    wanted = [(row["conversation_id"], str(row["turn"]), str(n)) for row in rows for n in range(samples)]
    found = [(response["conversation_id"], response["turn"], response["sample"]) for response in responses]
    if wanted != found:
        at = next((at for at, (one, other) in enumerate(zip(wanted, found, strict=False)) if one != other), None)
        what = f"row {at} answers {found[at]}, not {wanted[at]}" if at is not None else "the rest agrees"
        raise UserError(
            f"{name} has {len(found)} rows for {len(wanted)} prompts; {what}",
            f"delete {name} and run again: the workflow makes it anew",
        )
