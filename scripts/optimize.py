"""Align a fine-tuned tutor by preference optimization (TRL's DPOTrainer).

Reads   the preference dataset, the SFT checkpoint, the rubric
Writes  a checkpoint folder that plain transformers loads, and its manifest, last

    python scripts/optimize.py results/tiny/preferences.json --model results/tiny/sft/checkpoint \
        --rubric datasets/rubrics/class.yaml --output results/tiny/dpo-b0.1/checkpoint \
        --manifest results/tiny/dpo-b0.1/checkpoint.json \
        --settings '{"rendering": {...}, "training": {...}, "algorithm": "dpo", "beta": 0.1}'
"""

import argparse
from functools import partial
from pathlib import Path

from pedalign.artifacts import read_json
from pedalign.errors import run
from pedalign.training import StageSettings, add_training_arguments, optimize, train_and_save


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("preferences", type=Path)
    add_training_arguments(parser)
    args = parser.parse_args()

    settings = StageSettings.from_json(args.settings)
    columns = read_json(args.preferences)
    pairs = [
        (prompt, chosen[0]["content"], rejected[0]["content"])
        for prompt, chosen, rejected in zip(columns["prompt"], columns["chosen"], columns["rejected"], strict=True)
    ]
    how = partial(optimize, algorithm=settings.algorithm, beta=settings.beta, settings=settings.training)
    train_and_save(args, settings, partial(how, pairs=pairs))


if __name__ == "__main__":
    run(main)
