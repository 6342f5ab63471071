"""Compare an aligned tutor with the fine-tuned one it came from, on the same prompts.

Reads   the two responses.csv and the rubric
Writes  comparison.json

    python scripts/compare.py results/tiny/sft/test/responses.csv results/tiny/dpo-b0.1/test/responses.csv \
        --rubric datasets/rubrics/class.yaml --output results/tiny/dpo-b0.1/test/comparison.json \
        --settings '{"first_turn": false, "resamples": 2000, "seed": 42}'
"""

import argparse
from pathlib import Path

from pedalign.artifacts import write_json
from pedalign.errors import run
from pedalign.metrics import EvaluationSettings, comparison
from pedalign.phases import begin
from pedalign.records import Table
from pedalign.rubric import load_rubric
from pedalign.settings import from_json


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reference", type=Path, help="responses.csv of the fine-tuned tutor")
    parser.add_argument("aligned", type=Path, help="responses.csv of the aligned tutor")
    parser.add_argument("--rubric", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--settings", required=True, help="JSON: first_turn, resamples, seed")
    args = parser.parse_args()
    begin("working")

    settings = from_json(EvaluationSettings, args.settings)
    report = comparison(Table(args.reference), Table(args.aligned), load_rubric(args.rubric), settings)
    write_json(args.output, report)


if __name__ == "__main__":
    run(main)
