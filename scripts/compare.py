r"""Compare an aligned tutor with the fine-tuned one it came from, on the same prompts.

Reads   the formatted test split, the two responses.csv on it, the rubric
Writes  comparison.json, which names what it was computed from

    python scripts/compare.py results/data/bio-test_formatted.json results/tiny/sft/test/responses.csv \
        results/tiny/dpo-b0.1/test/responses.csv --rubric datasets/rubrics/class.yaml \
        --output results/tiny/dpo-b0.1/test/comparison.json \
        --settings compare.yaml
"""

from pathlib import Path

from pedalign.core.artifacts import write_json
from pedalign.core.errors import argument_parser, run
from pedalign.core.json_stream import read_records
from pedalign.core.provenance import record, verified
from pedalign.core.settings import add_settings_argument, read_settings
from pedalign.core.time_spent import begin
from pedalign.data.responses import Responses
from pedalign.data.rubric import load_rubric
from pedalign.evaluation.metrics import EvaluationSettings, comparison


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("rows", type=Path, help="the formatted test split")
    parser.add_argument("reference", type=Path, help="responses.csv of the fine-tuned tutor")
    parser.add_argument("aligned", type=Path, help="responses.csv of the aligned tutor")
    parser.add_argument("--rubric", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    add_settings_argument(parser, EvaluationSettings)
    args = parser.parse_args()
    begin("working")

    settings = read_settings(EvaluationSettings, args.settings)
    inputs = verified(args.rows, args.reference, args.aligned, args.rubric)
    rows = read_records(args.rows)
    reference, aligned = Responses(args.reference, rows), Responses(args.aligned, rows)
    report = comparison(reference, aligned, load_rubric(args.rubric), settings)
    write_json(args.output, {**report, "computed_from": inputs})
    record([args.output], inputs, vars(settings))


if __name__ == "__main__":
    run(main)
