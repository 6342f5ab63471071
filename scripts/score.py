r"""Score a tutor's responses against the gold replies.

Reads   the formatted test split, responses.csv on it, the rubric
Writes  metrics.json, which names what it was computed from

    python scripts/score.py results/data/bio-test_formatted.json results/tiny/sft/test/responses.csv \
        --rubric datasets/rubrics/class.yaml --output results/tiny/sft/test/metrics.json \
        --settings score.yaml
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
from pedalign.evaluation.metrics import EvaluationSettings, metrics


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("rows", type=Path, help="the formatted test split")
    parser.add_argument("responses", type=Path, help="responses.csv")
    parser.add_argument("--rubric", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    add_settings_argument(parser, EvaluationSettings)
    args = parser.parse_args()
    begin("working")

    settings = read_settings(EvaluationSettings, args.settings)
    inputs = verified(args.rows, args.responses, args.rubric)
    responses = Responses(args.responses, read_records(args.rows))
    report = metrics(responses, load_rubric(args.rubric), settings)
    write_json(args.output, {**report, "computed_from": inputs})
    record([args.output], inputs, vars(settings))


if __name__ == "__main__":
    run(main)
