r"""Compute how likely a tutor finds scaffolding and telling replies to the same histories.

Reads   <dataset>-dataset-ppl.json (conversations that end in two replies to one history), the tutor's checkpoint folder
        or hub id, the rubric
Writes  perplexity.json: perplexity per label and group (ours and the paper's), the share of pairs in which the
        scaffolding reply is more likely, and how many pairs were not usable, by reason

    python scripts/perplexity.py datasets/simulated/bio-dataset-ppl.json --model results/tiny/sft/checkpoint \
        --rubric datasets/rubrics/class.yaml --output results/tiny/sft/test/perplexity.json \
        --settings perplexity.yaml
"""

from dataclasses import dataclass
from pathlib import Path

from pedalign.core.artifacts import write_json
from pedalign.core.errors import argument_parser, run
from pedalign.core.progress import Progress
from pedalign.core.provenance import record, verified
from pedalign.core.settings import as_given, read_settings
from pedalign.core.time_spent import begin
from pedalign.data.conversations import turn_reader
from pedalign.data.rubric import load_rubric
from pedalign.data.sources.published import check_published
from pedalign.evaluation.perplexity import Likelihood, perplexities, read_reply_pairs
from pedalign.models.checkpoints import load_config, load_model, load_tokenizer
from pedalign.models.limits import expect_positions, model_limits
from pedalign.models.log_probs import log_probabilities
from pedalign.models.prompt_format import renderer


@dataclass(frozen=True)
class PerplexitySettings:
    rendering: dict[str, str]
    dtype: str
    max_batch_tokens: int | None
    resamples: int  # draws of the bootstrap
    seed: int
    paper_rules: bool  # replies are read as the paper's scripts read them
    attn_implementation: str | None = None  # None: transformers decides


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("pairs", type=Path, help="<dataset>-dataset-ppl.json")
    parser.add_argument("--model", required=True, help="folder or hub id of the tutor")
    parser.add_argument("--rubric", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument(
        "--settings",
        required=True,
        help="a file (YAML, JSON) or JSON: rendering, dtype, max_batch_tokens, resamples, ...",
    )
    parser.add_argument("--published", action="store_true", help="the file must be the paper's, bit for bit")
    args = parser.parse_args()

    begin("loading")
    if args.published:
        check_published([args.pairs])
    settings = read_settings(PerplexitySettings, args.settings)
    inputs = verified(args.pairs, args.model, args.rubric)
    rubric = load_rubric(args.rubric)
    pairs, refused = read_reply_pairs(args.pairs, turn_reader(rubric, settings.paper_rules))
    rendering = renderer(load_tokenizer(args.model), rubric=rubric, **settings.rendering)
    prompts = [rendering.encode(pair.messages)[0] for pair in pairs for _ in pair.replies]
    replies = [rendering.reply_ids(reply) for pair in pairs for reply in pair.replies]
    asked = list(zip(prompts, replies, strict=True))
    names = [f"perplexity pair '{pair.id}'" for pair in pairs for _ in pair.replies]
    lengths = [(len(prompt) + len(reply), name) for (prompt, reply), name in zip(asked, names, strict=True)]
    expect_positions(model_limits(load_config(args.model)), lengths)
    model = load_model(args.model, settings.dtype, attention=settings.attn_implementation)
    begin("working")
    with Progress(f"perplexity {args.output.parent}", len(asked), "replies") as progress:
        totals, batched = log_probabilities(model, asked, settings.max_batch_tokens, progress.update_to)
    found = [Likelihood(total, len(reply)) for total, reply in zip(totals, replies, strict=True)]
    both = list(zip(found[::2], found[1::2], strict=True))
    report = perplexities(pairs, both, rubric, settings.resamples, settings.seed)
    write_json(args.output, {**report, "refused": refused, "computed_from": inputs})
    record([args.output], inputs, {**as_given(settings), "batched": batched})
    likelier = report["scaffold_likelier"]["per_token"]["share"]
    print(f"{args.output}: {len(pairs)} pairs, scaffolding likelier in {likelier:.1%}; refused {refused or 'none'}")


if __name__ == "__main__":
    run(main)
