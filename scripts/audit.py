r"""Count the tokens of all splits with one model's tokenizer, and compare them with its limits, before any training.

Reads   the SFT, DPO and test splits, and the model's folder or hub id (its configuration and tokenizer)
Writes  audit.json; fails if a later stage would fail, and says which text is too long and which number to set

    python scripts/audit.py results/data/bio-sft.json results/data/bio-dpo.json results/data/bio-test.json \
        --model results/tiny/base --rubric datasets/rubrics/class.yaml --output results/tiny/sft/audit.json \
        --settings audit.yaml --limits limits.yaml
"""

from dataclasses import dataclass
from pathlib import Path

from pedalign.core.artifacts import write_json
from pedalign.core.errors import argument_parser, run
from pedalign.core.provenance import record, verified
from pedalign.core.settings import add_settings_argument, read_settings
from pedalign.core.time_spent import begin
from pedalign.data.conversations import split_conversations
from pedalign.data.rubric import load_rubric
from pedalign.models.checkpoints import load_config, load_tokenizer
from pedalign.models.length_limits import LengthSettings, expect_lengths_fit, length_warnings
from pedalign.models.limits import model_limits
from pedalign.models.prompt_format import renderer
from pedalign.training.audit import audit


@dataclass(frozen=True)
class AuditSettings:
    template: str
    instruction: str


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("sft", type=Path)
    parser.add_argument("dpo", type=Path)
    parser.add_argument("test", type=Path)
    parser.add_argument("--model", required=True, help="folder or hub id")
    parser.add_argument("--rubric", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    add_settings_argument(parser, AuditSettings)
    add_settings_argument(parser, LengthSettings, "limits")
    args = parser.parse_args()
    begin("working")

    settings, limits = read_settings(AuditSettings, args.settings), read_settings(LengthSettings, args.limits)
    paths = {name: getattr(args, name) for name in ("sft", "dpo", "test")}
    inputs = verified(*paths.values(), args.model, args.rubric)
    rendering = renderer(load_tokenizer(args.model), settings.template, settings.instruction, load_rubric(args.rubric))
    splits = {name: split_conversations(path) for name, path in paths.items()}
    report = audit(splits, rendering, model_limits(load_config(args.model)))
    expect_lengths_fit(report, limits)
    write_json(args.output, report)
    record([args.output], inputs, vars(settings))
    tokens = report["tokens"]
    print(
        f"- {report['conversations']} SFT conversations of {tokens['mean']:.0f} tokens (longest {tokens['max']}); "
        f"{report['trained_share']:.0%} of the tokens are trained; gold replies of up to "
        f"{report['gold_replies']['longest']} tokens"
    )
    if report["model"]["window"] is not None:
        print(f"- layers with a sliding window look {report['model']['window']} tokens back")
    for warning in length_warnings(report, limits):
        print(f"warning: {warning}")


if __name__ == "__main__":
    run(main)
