r"""Align a fine-tuned tutor by preference optimization (TRL's DPOTrainer, KTOTrainer, CPOTrainer and ORPOTrainer).

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
from pedalign.core.errors import UserError, argument_parser, run
from pedalign.core.settings import read_settings
from pedalign.training.algorithms import ALGORITHMS, AlignmentSettings
from pedalign.training.alignment import align, read_pairs
from pedalign.training.loop import train_and_save
from pedalign.training.settings import StageSettings, add_training_arguments


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("preferences", type=Path)
    parser.add_argument(
        "--reference", type=Path, nargs="?", help="reference.json, for an algorithm with a reference model"
    )
    add_training_arguments(parser)
    args = parser.parse_args()

    settings = StageSettings.read(args.settings)
    alignment = read_settings(AlignmentSettings, json.dumps(settings.alignment), "--settings: alignment")
    algorithm = ALGORITHMS[alignment.algorithm]
    if algorithm.uses_reference and args.reference is None:
        raise UserError(f"{alignment.algorithm} needs --reference", "give reference.json, which reference.py writes")
    data = [args.preferences, args.reference] if algorithm.uses_reference else [args.preferences]
    pairs = read_pairs(read_json(args.preferences), read_json(args.reference) if algorithm.uses_reference else None)
    train = partial(align, pairs=pairs, alignment=alignment, settings=settings.training)
    train_and_save(Path(__file__), args, settings, data, train, algorithm.rows == "replies")


if __name__ == "__main__":
    run(main)
