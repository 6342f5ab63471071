"""Score a tutor's responses against the gold replies.

Reads   responses.csv and the rubric
Writes  metrics.json

    python scripts/score.py results/tiny/sft/test/responses.csv --rubric datasets/rubrics/class.yaml \
        --output results/tiny/sft/test/metrics.json --settings '{"first_turn": false, "resamples": 2000, "seed": 42}'
"""

import argparse
from pathlib import Path

from pedalign.artifacts import write_json
from pedalign.errors import run
from pedalign.metrics import EvaluationSettings, metrics
from pedalign.phases import begin
from pedalign.records import Table
from pedalign.rubric import load_rubric
from pedalign.settings import from_json


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("responses", type=Path)
    parser.add_argument("--rubric", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--settings", required=True, help="JSON: first_turn, resamples, seed")
    args = parser.parse_args()
    begin("working")

    settings = from_json(EvaluationSettings, args.settings)
    write_json(args.output, metrics(Table(args.responses), load_rubric(args.rubric), settings))


if __name__ == "__main__":
    run(main)
