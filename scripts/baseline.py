"""Run a stage by common practice: a baseline for whole runs in `snakemake benchmark`.

sft pads every dialogue to the maximum length, generate answers one prompt at a time, align (DPO) has a second model as
reference and pads every pair to the longest.

Reads   what the stage's own script reads, with the same arguments
Writes  the same artifact as that script

    python scripts/baseline.py generate results/data/bio-test_formatted.json --model results/tiny/sft/checkpoint ...
"""

import dataclasses
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import generate as generate_stage
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from pedalign.benchmarks import baselines
from pedalign.core.artifacts import read_json, whole_directory
from pedalign.core.errors import argument_parser, run
from pedalign.core.provenance import verified, write_manifest
from pedalign.data.conversations import split_conversations
from pedalign.data.rubric import load_rubric
from pedalign.generation.common import Completion, GenerationSettings, History
from pedalign.generation.engines import Engine
from pedalign.models.checkpoints import load_model, load_tokenizer, save_checkpoint
from pedalign.models.prompt_format import Renderer, renderer
from pedalign.training.settings import StageSettings, add_training_arguments
from pedalign.training.sft import sft_rows


def generate(
    model: PreTrainedModel, histories: Sequence[History], end_id: int, settings: GenerationSettings, *_: object
) -> list[list[Completion]]:
    answers = []
    for history in histories:
        prompts = [history.ids[:length] for length in history.prompt_lengths]
        replies = baselines.one_at_a_time(model, prompts, end_id, settings)
        answers.append(
            [Completion(ids, "length" if len(ids) == settings.max_new_tokens else "stop") for ids in replies]
        )
    return answers


def train_sft(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    rendering: Renderer,
    data: Path,
    settings: StageSettings,
) -> float:
    rows = sft_rows(rendering, split_conversations(data), settings.training.max_length)
    return baselines.sft_padded(model, tokenizer, rows, settings.training)


def align(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    rendering: Renderer,
    data: Path,
    settings: StageSettings,
) -> float:
    pairs = baselines.preference_pairs(read_json(data))
    longest = max(len(prompt) + len(reply) for prompt, reply in baselines.pair_tokens(rendering, pairs))
    assert settings.alignment is not None
    return baselines.align_padded(
        model, tokenizer, pairs, settings.alignment["beta"], settings.training, length=longest
    )


def train(method: Callable[..., float]) -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("data", type=Path, help="the SFT split or the preference dataset")
    parser.add_argument("--reference", type=Path, help="not read: the reference is a second model")
    add_training_arguments(parser)
    args = parser.parse_args()

    settings = StageSettings.read(args.settings)
    inputs = verified(args.data, args.model, args.rubric)
    tokenizer = load_tokenizer(args.model)
    rendering = renderer(tokenizer, rubric=load_rubric(args.rubric), **settings.rendering)
    model = load_model(args.model, "float32")
    loss = method(model, tokenizer, rendering, args.data, settings)
    with whole_directory(args.output) as folder:
        save_checkpoint(model, rendering, tokenizer, folder)
    write_manifest(args.manifest, args.output, inputs, dataclasses.asdict(settings), mean_loss=loss)


STAGES: dict[str, Callable[[], None]] = {
    "sft": partial(train, train_sft),
    "generate": partial(generate_stage.main, lambda *_: Engine("generate, a prompt at a time", generate)),
    "align": partial(train, align),
}


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("stage", choices=STAGES)
    args, sys.argv[1:] = parser.parse_known_args()
    STAGES[args.stage]()


if __name__ == "__main__":
    run(main)
