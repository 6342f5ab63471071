"""Let a tutor answer every student turn of a split.

Reads   a formatted split, the tutor's checkpoint folder or hub id, the rubric
Writes  responses.csv, rows in the split's order: prompt, response, gpt (the gold reply), conversation_id,
        turn (from 0), prompt_tokens, response_tokens, finish_reason, sample (from 0)

    python scripts/respond.py results/data/bio-test_formatted.json --model results/tiny/sft/checkpoint \
        --rubric datasets/rubrics/class.yaml --output results/tiny/sft/test/responses.csv \
        --settings '{"rendering": {...}, "dtype": "float32", "generation": {...}, "samples": 1}'
"""

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from pedalign.artifacts import read_json, write_csv
from pedalign.errors import run
from pedalign.generation import GenerationSettings, History, generate
from pedalign.models import load_model, load_tokenizer
from pedalign.rubric import load_rubric
from pedalign.settings import from_json
from pedalign.template import Renderer, renderer

HEADER = (
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


@dataclass(frozen=True)
class RespondSettings:
    rendering: dict[str, str]
    dtype: str
    generation: dict[str, Any]  # GenerationSettings
    samples: int  # responses per prompt


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", type=Path, help="the formatted split")
    parser.add_argument("--model", required=True, help="folder or hub id of the tutor")
    parser.add_argument("--rubric", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--settings", required=True, help="JSON: rendering, dtype, generation, samples")
    args = parser.parse_args()

    settings = from_json(RespondSettings, args.settings)
    rows = read_json(args.rows)
    tokenizer = load_tokenizer(args.model)
    rendering = renderer(tokenizer, rubric=load_rubric(args.rubric), **settings.rendering)
    model = load_model(args.model, settings.dtype)

    conversations = [list(group) for _, group in groupby(rows, key=lambda row: row["conversation_id"])]
    histories = [_history(group, rendering, settings.samples) for group in conversations]
    started = time.monotonic()
    completions = generate(
        model, histories, rendering.end_id, GenerationSettings(**settings.generation), _progress(started)
    )

    records = []
    for group, history, answers in zip(conversations, histories, completions, strict=True):
        for at, (prompt_tokens, answer) in enumerate(zip(history.prompt_lengths, answers, strict=True)):
            row = group[at // settings.samples]
            records.append(
                (
                    rendering.text(row["prompt"]),
                    tokenizer.decode(answer.ids, skip_special_tokens=True),
                    row["chosen"][0]["content"],
                    row["conversation_id"],
                    row["turn"],
                    prompt_tokens,
                    len(answer.ids),
                    answer.finish_reason,
                    at % settings.samples,
                )
            )
    write_csv(args.output, HEADER, records)
    print(f"{args.output}: {len(records)} responses in {time.monotonic() - started:.0f} s")


def _history(group: list[dict[str, Any]], rendering: Renderer, samples: int) -> History:
    """A conversation's rows as one history, each asked for `samples` times: its ids are a prefix of the last one's."""
    lengths = [len(rendering.encode(row["prompt"])[0]) for row in group for _ in range(samples)]
    return History(group[0]["conversation_id"], rendering.encode(group[-1]["prompt"])[0], lengths)


def _progress(started: float) -> Callable[[int, int], None]:
    def report(done: int, total: int) -> None:
        seconds = time.monotonic() - started
        left = seconds / done * (total - done)
        print(f"respond: {done}/{total} replies, {left:.0f} s left", file=sys.stderr, flush=True)

    return report


if __name__ == "__main__":
    run(main)
