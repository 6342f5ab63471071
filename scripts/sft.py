r"""Fine-tune a model on the tutor's turns of the SFT split (TRL's SFTTrainer).

Reads   the SFT split, the base model's folder or hub id, the rubric
Writes  a checkpoint folder that plain transformers loads, and its manifest, last

    python scripts/sft.py results/data/bio-sft.json --model results/tiny/base \
        --rubric datasets/rubrics/class.yaml --output results/tiny/sft/checkpoint \
        --manifest results/tiny/sft/checkpoint.json --settings sft.yaml
"""

from pathlib import Path
from typing import Any

from pedalign.core.errors import argument_parser, run
from pedalign.core.processes import is_first_process
from pedalign.data.conversations import split_conversations
from pedalign.generation.engines import engine_for
from pedalign.training.loop import train_and_save
from pedalign.training.settings import StageSettings, add_training_arguments
from pedalign.training.sft import train_sft


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("conversations", type=Path)
    add_training_arguments(parser)
    parser.add_argument("--engine", default="auto", help="engine that will answer; it is tried before training")
    args = parser.parse_args()

    settings = StageSettings.read(args.settings)
    conversations = list(split_conversations(args.conversations))

    def train(model: Any, tokenizer: Any, renderer: Any, *, states: Any, watchers: Any) -> dict[str, Any]:
        engine = engine_for(model, renderer, conversations, args.engine)
        if is_first_process():
            print(f"replies will be given by the {engine}", flush=True)
        facts = train_sft(model, tokenizer, renderer, conversations, settings.training, states, watchers)
        return {"engine": str(engine), **facts}

    train_and_save(Path(__file__), args, settings, [args.conversations], train)


if __name__ == "__main__":
    run(main)
