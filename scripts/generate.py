r"""Let a tutor answer every student turn of a split.

Reads   a formatted split, the tutor's checkpoint folder or hub id, the rubric
Writes  responses.csv, rows in the split's order: prompt, response, gpt (the gold reply), conversation_id,
        turn (from 0), prompt_tokens, response_tokens, finish_reason, sample (from 0);
        prompt and response as the paper's generate_responses.py writes them, so that its scripts read this file;
        with --shard, only the rows of this shard

    python scripts/generate.py results/data/bio-test_formatted.json --model results/tiny/sft/checkpoint \
        --rubric datasets/rubrics/class.yaml --output results/tiny/sft/test/responses.csv \
        --settings generate.yaml
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from pedalign.core.artifacts import read_json, write_csv
from pedalign.core.errors import UserError, argument_parser, run
from pedalign.core.progress import Progress
from pedalign.core.provenance import record, verified
from pedalign.core.settings import add_settings_argument, as_given, read_settings
from pedalign.core.time_spent import begin
from pedalign.data import paper_rules
from pedalign.data.responses import COLUMNS
from pedalign.data.rubric import load_rubric
from pedalign.generation import vllm_engine
from pedalign.generation.common import Completion, GenerationSettings, History, batches, history
from pedalign.generation.engines import VLLM, Engine, choose_engine
from pedalign.models.checkpoints import load_config, load_model, load_tokenizer
from pedalign.models.limits import expect_positions, model_limits
from pedalign.models.prompt_format import renderer


@dataclass(frozen=True)
class RespondSettings:
    rendering: dict[str, str]
    dtype: str
    generation: dict[str, Any]  # GenerationSettings
    samples: int  # responses per prompt
    attn_implementation: str | None = None  # None: transformers decides


def main(choose: Callable[..., Engine] = choose_engine) -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("rows", type=Path, help="the formatted split")
    parser.add_argument("--model", required=True, help="folder or hub id of the tutor")
    parser.add_argument("--rubric", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    add_settings_argument(parser, RespondSettings)
    parser.add_argument("--shard", type=_shard, default="1/1", help="K/N: answer the K-th of N parts of the split")
    args = parser.parse_args()

    begin("loading")
    settings = read_settings(RespondSettings, args.settings)
    inputs = verified(args.rows, args.model, args.rubric)
    rows = read_json(args.rows)
    tokenizer = load_tokenizer(args.model)
    rendering = renderer(tokenizer, rubric=load_rubric(args.rubric), **settings.rendering)
    generation = GenerationSettings(**settings.generation)
    conversations = [list(group) for _, group in groupby(rows, key=lambda row: row["conversation_id"])]
    histories = [
        history(group[0]["conversation_id"], [row["prompt"] for row in group], rendering, settings.samples)
        for group in conversations
    ]
    texts = [
        (asked.prompt_lengths[-1] + generation.max_new_tokens, f"conversation '{asked.id}' with the longest reply")
        for asked in histories
    ]
    expect_positions(model_limits(load_config(args.model)), texts)
    selection = None  # all batches; their size depends on the model
    if generation.max_batch_tokens is not None:
        selection = batches(histories, generation, *args.shard)
    elif args.shard != (1, 1):
        raise UserError(
            "--shard: max_batch_tokens is null, so the parts of a split are not known", "give it a number in --settings"
        )
    completions: list[list[Completion]] = [[] for _ in histories]
    started = time.monotonic()
    engine = Engine(generation.engine)
    if selection == []:  # there are more shards than batches
        pass
    elif generation.engine == VLLM:
        begin("generating")
        completions = vllm_engine.generate(
            args.model, settings.dtype, histories, rendering.end_id, generation, selection
        )
    else:
        model = load_model(args.model, settings.dtype, attention=settings.attn_implementation)
        engine = choose(model, histories, generation)
        print(engine, flush=True)
        started = time.monotonic()
        begin("generating")
        with Progress(f"generate {args.output.parent}", _prompts(histories, selection), "replies") as progress:
            completions = engine.generate(model, histories, rendering.end_id, generation, progress.update_to, selection)

    begin("saving")
    records = []
    for group, asked, answers in zip(conversations, histories, completions, strict=True):
        for at, answer in enumerate(answers):  # none if they are another shard's
            row = group[at // settings.samples]
            records.append(
                (
                    paper_rules.prompt_text(row["prompt"], rendering.instruction),
                    paper_rules.response_text(tokenizer.decode(answer.ids, skip_special_tokens=True)),
                    row["chosen"][0]["content"],
                    row["conversation_id"],
                    row["turn"],
                    asked.prompt_lengths[at],
                    len(answer.ids),
                    answer.finish_reason,
                    at % settings.samples,
                )
            )
    write_csv(args.output, COLUMNS, records)
    record(
        [args.output], inputs, {**as_given(settings), "shard": "/".join(map(str, args.shard)), "engine": engine.name}
    )
    print(f"{args.output}: {len(records)} responses in {time.monotonic() - started:.0f} s")


def _shard(text: str) -> tuple[int, int]:
    shard, _, shards = text.partition("/")
    if not (shard.isdecimal() and shards.isdecimal() and 1 <= int(shard) <= int(shards)):
        raise UserError(f"--shard: is '{text}'", "give K/N, the K-th of N shards, for example 2/3")
    return int(shard), int(shards)


def _prompts(histories: list[History], selection: list[list[int]] | None) -> int:
    chosen = histories if selection is None else [histories[at] for batch in selection for at in batch]
    return sum(len(one.prompt_lengths) for one in chosen)


if __name__ == "__main__":
    run(main)
