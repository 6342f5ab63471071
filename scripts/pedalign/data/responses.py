"""The table of a tutor's responses to a split: its columns, and the check of its rows."""

from collections.abc import Iterable, Iterator, Sequence
from heapq import merge
from itertools import zip_longest
from pathlib import Path
from typing import Any

from pedalign.core.errors import UserError
from pedalign.core.json_stream import Table

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
# The columns that later stages need.
READ = ("response", "gpt", "conversation_id", "turn", "response_tokens", "finish_reason", "sample")


def answered(
    rows: Iterable[dict[str, Any]],
    responses: Iterable[dict[str, str]],
    samples: int = 1,
    name: str = "",
) -> Iterator[tuple[dict[str, Any], dict[str, str]]]:
    """Each of the split's `rows` with each of its `samples` responses.

    Raises UserError if a response is missing, doubled, foreign or out of order, or its gold reply is not the row's;
    `name` names the responses in the message, unless they are a `Table`.
    """
    name = str(responses.path) if isinstance(responses, Table) else name or "responses.csv"
    remedy = f"delete {name} and run again: the workflow makes it anew"
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
                remedy,
            )
        if response["gpt"] != one[0]["chosen"][0]["content"]:
            raise UserError(f"{name}: row {at} (from 0): 'gpt' is not the split's gold reply", remedy)
        yield one[0], response


class Responses:
    """The responses of a table to a split's `rows`, one to each; each loop reads and checks them again.

    Raises UserError as `answered` does.
    """

    def __init__(self, path: Path, rows: Iterable[dict[str, Any]]) -> None:
        self.path, self.rows = path, rows

    def __iter__(self) -> Iterator[dict[str, str]]:
        return (response for _, response in answered(self.rows, Table(self.path, READ)))


def gathered(
    rows: Sequence[dict[str, Any]], shards: Iterable[Iterable[dict[str, str]]], samples: int, name: str
) -> Iterator[dict[str, str]]:
    """Merge the responses of all shards into the order of the split's `rows`, which each shard has too.

    Raises UserError if responses are missing, doubled or foreign; `name` names the shards in the message.
    """
    places = {(row["conversation_id"], str(row["turn"])): at for at, row in enumerate(rows)}

    def place(response: dict[str, str]) -> tuple[int, int]:
        sample = response["sample"]
        at = places.get((response["conversation_id"], response["turn"]), len(rows))
        return at, int(sample) if sample.isdecimal() else samples

    return (response for _, response in answered(rows, merge(*shards, key=place), samples, name))
