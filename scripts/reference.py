r"""Compute the log-probabilities that the fine-tuned tutor gives to the replies of the preference pairs.

Every alignment of this tutor needs them, whatever its algorithm, beta and seed, so they are computed once.

Reads   the preference dataset, the SFT checkpoint, the rubric
Writes  reference.json: parallel lists of conversation_id, turn, chosen and rejected (natural log-probabilities of the
        whole replies, end token included)

    python scripts/reference.py results/tiny/preferences.json --model results/tiny/sft/checkpoint \
        --rubric datasets/rubrics/class.yaml --output results/tiny/sft/reference.json \
        --settings reference.yaml --max-length 4096
"""

from dataclasses import dataclass
from pathlib import Path

from pedalign.core.artifacts import read_json, write_columns
from pedalign.core.errors import argument_parser, run
from pedalign.core.progress import Progress
from pedalign.core.provenance import record, verified
from pedalign.core.settings import add_settings_argument, as_given, read_settings
from pedalign.core.time_spent import begin
from pedalign.data.rubric import load_rubric
from pedalign.models.checkpoints import load_config, load_model, load_tokenizer
from pedalign.models.limits import PairLength, expect_pairs_fit, model_limits
from pedalign.models.log_probs import log_probabilities
from pedalign.models.prompt_format import renderer


@dataclass(frozen=True)
class ReferenceSettings:
    rendering: dict[str, str]
    dtype: str
    max_batch_tokens: int | None
    attn_implementation: str | None = None  # None: transformers decides


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("preferences", type=Path)
    parser.add_argument("--model", required=True, help="folder or hub id of the fine-tuned tutor")
    parser.add_argument("--rubric", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    add_settings_argument(parser, ReferenceSettings)
    parser.add_argument("--max-length", type=int, help="most tokens of a pair: longer ones are refused")
    args = parser.parse_args()

    begin("loading")
    settings = read_settings(ReferenceSettings, args.settings)
    inputs = verified(args.preferences, args.model, args.rubric)
    pairs = read_json(args.preferences)
    rendering = renderer(load_tokenizer(args.model), rubric=load_rubric(args.rubric), **settings.rendering)
    prompts = [rendering.encode(prompt)[0] for prompt in pairs["prompt"]]
    columns = {name: pairs[name] for name in ("conversation_id", "turn")}
    replies = [
        (prompt, rendering.reply_ids(reply[0]["content"]))
        for side in ("chosen", "rejected")
        for prompt, reply in zip(prompts, pairs[side], strict=True)
    ]
    measured = [
        PairLength(identity, turn, len(prompt) + max(len(chosen), len(rejected)))
        for identity, turn, (prompt, chosen), (_, rejected) in zip(
            columns["conversation_id"], columns["turn"], replies[: len(prompts)], replies[len(prompts) :], strict=True
        )
    ]
    expect_pairs_fit(measured, args.max_length, model_limits(load_config(args.model)).positions)
    model = load_model(args.model, settings.dtype, attention=settings.attn_implementation)
    begin("working")
    with Progress(f"reference {args.output.parent}", len(replies), "replies") as progress:
        totals, batched = log_probabilities(model, replies, settings.max_batch_tokens, progress.update_to)
    columns["chosen"], columns["rejected"] = totals[: len(prompts)], totals[len(prompts) :]
    write_columns(args.output, columns)
    record([args.output], inputs, {**as_given(settings), "batched": batched})
    print(f"{args.output}: {len(prompts)} pairs, both replies of each")


if __name__ == "__main__":
    run(main)
