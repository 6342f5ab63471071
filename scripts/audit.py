"""Count the SFT split's tokens with one model's tokenizer, before any training.

Reads   the SFT split and the model's folder or hub id (its tokenizer)
Writes  audit.json; fails where a conversation would be cut, unless the settings allow it

    python scripts/audit.py results/data/bio-sft.json --model results/tiny/base --rubric datasets/rubrics/class.yaml \
        --output results/tiny/sft/audit.json --settings '{"template": "tutor", "instruction": "compact",
        "max_length": 4096, "allow_truncation": false}'
"""

from pathlib import Path

from pedalign.artifacts import write_json
from pedalign.audit import AuditSettings, audit
from pedalign.conversation import split_conversations
from pedalign.errors import argument_parser, run
from pedalign.models import load_tokenizer
from pedalign.phases import begin
from pedalign.provenance import record, verified
from pedalign.rubric import load_rubric
from pedalign.settings import from_json
from pedalign.template import renderer


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("conversations", type=Path)
    parser.add_argument("--model", required=True, help="folder or hub id")
    parser.add_argument("--rubric", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--settings", required=True, help="JSON: template, instruction, max_length, ...")
    args = parser.parse_args()
    begin("working")

    settings = from_json(AuditSettings, args.settings)
    inputs = verified(args.conversations, args.model, args.rubric)
    rendering = renderer(load_tokenizer(args.model), settings.template, settings.instruction, load_rubric(args.rubric))
    report = audit(split_conversations(args.conversations), rendering, settings)
    write_json(args.output, report)
    record([args.output], inputs, vars(settings))
    tokens = report["tokens"]
    print(
        f"{report['conversations']} conversations of {tokens['mean']:.0f} tokens (longest {tokens['max']}); "
        f"{report['trained_share']:.0%} of the tokens are trained"
    )


if __name__ == "__main__":
    run(main)
