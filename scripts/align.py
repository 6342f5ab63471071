r"""Align a fine-tuned tutor by preference optimization (TRL's DPOTrainer and KTOTrainer).

Reads   the preference dataset, the SFT checkpoint, its log-probabilities of the pairs, the rubric
Writes  a checkpoint folder that plain transformers loads, and its manifest, last

    python scripts/align.py results/tiny/preferences.json --reference results/tiny/sft/reference.json \
        --model results/tiny/sft/checkpoint --rubric datasets/rubrics/class.yaml \
        --output results/tiny/dpo-b0.1/checkpoint --manifest results/tiny/dpo-b0.1/checkpoint.json \
        --settings align.yaml
"""

import json
from functools import partial
from pathlib import Path

from pedalign.core.artifacts import read_json
from pedalign.core.errors import argument_parser, run
from pedalign.core.settings import read_settings
from pedalign.training.algorithms import ALGORITHMS, AlignmentSettings
from pedalign.training.alignment import align, read_pairs
from pedalign.training.loop import train_and_save
from pedalign.training.settings import StageSettings, add_training_arguments


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("preferences", type=Path)
    parser.add_argument("--reference", type=Path, required=True, help="reference.json")
    add_training_arguments(parser)
    args = parser.parse_args()

    settings = StageSettings.read(args.settings)
    alignment = read_settings(AlignmentSettings, json.dumps(settings.alignment), "--settings: alignment")
    pairs = read_pairs(read_json(args.preferences), read_json(args.reference))
    train = partial(align, pairs=pairs, alignment=alignment, settings=settings.training)
    at_a_time = ALGORITHMS[alignment.algorithm].rows == "replies"
    train_and_save(Path(__file__), args, settings, [args.preferences, args.reference], train, at_a_time)


if __name__ == "__main__":
    run(main)
