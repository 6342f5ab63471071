"""The table of a tutor's responses to a split: its columns, and which rows it must have."""

from collections.abc import Iterable, Iterator, Sequence
from heapq import merge
from itertools import zip_longest
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


def answered(
    rows: Iterable[dict[str, Any]],
    responses: Iterable[dict[str, str]],
    samples: int = 1,
    name: str = "responses.csv",
) -> Iterator[tuple[dict[str, Any], dict[str, str]]]:
    """Each of the split's `rows` with each of its `samples` responses.

    Raises UserError where a response is missing, doubled or foreign, or has another place than its row.
    """
    wanted = ((row, str(sample)) for row in rows for sample in range(samples))
    found = iter(responses)
    for at, (one, response) in enumerate(zip_longest(wanted, found)):
        asked = (one[0]["conversation_id"], str(one[0]["turn"]), one[1]) if one else None
        answer = (response["conversation_id"], response["turn"], response["sample"]) if response else None
        if asked != answer:
            n_wanted = at + bool(one) + sum(1 for _ in wanted)
            n_found = at + bool(response) + sum(1 for _ in found)
            what = f"row {at} answers {answer}, not {asked}" if one and response else "the rest agrees"
            raise UserError(
                f"{name} has {n_found} rows for {n_wanted} prompts; {what}",
                f"delete {name} and run again: the workflow makes it anew",
            )
        yield one[0], response


def gathered(
    rows: Sequence[dict[str, Any]], shards: Iterable[Iterable[dict[str, str]]], samples: int, name: str
) -> Iterator[dict[str, str]]:
    """The responses of all shards, each in the order of the split's `rows`, in that order.

    Raises UserError where responses are missing, doubled or foreign; `name` is what it calls the shards.
    """
    places = {(row["conversation_id"], str(row["turn"])): at for at, row in enumerate(rows)}

    def place(response: dict[str, str]) -> tuple[int, int]:
        return places.get((response["conversation_id"], response["turn"]), len(rows)), int(response["sample"])

    return (response for _, response in answered(rows, merge(*shards, key=place), samples, name))
