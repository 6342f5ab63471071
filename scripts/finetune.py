"""Fine-tune a model on the tutor's turns of the SFT split (TRL's SFTTrainer).

Reads   the SFT split, the base model's folder or hub id, the rubric, the audit (its being there is the proof)
Writes  a checkpoint folder that plain transformers loads, and its manifest, last

    python scripts/finetune.py results/data/bio-sft.json --model results/tiny/base \
        --rubric datasets/rubrics/class.yaml --output results/tiny/sft/checkpoint \
        --manifest results/tiny/sft/checkpoint.json --settings '{"rendering": {...}, "training": {...}}'
"""

from functools import partial
from pathlib import Path

from pedalign.conversation import split_conversations
from pedalign.errors import argument_parser, run
from pedalign.training import StageSettings, add_training_arguments, finetune, train_and_save


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("conversations", type=Path)
    add_training_arguments(parser)
    args = parser.parse_args()

    settings = StageSettings.from_json(args.settings)
    conversations = list(split_conversations(args.conversations))
    train = partial(finetune, conversations=conversations, settings=settings.training)
    train_and_save(Path(__file__), args, settings, [args.conversations], train)


if __name__ == "__main__":
    run(main)
