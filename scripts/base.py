r"""Make a base model with random weights, and a tokenizer trained on the SFT split alone.

Reads   the SFT split and the rubric (for the instruction)
Writes  a checkpoint folder that plain transformers loads, and its manifest, last

    python scripts/base.py results/data/bio-sft.json --rubric datasets/rubrics/class.yaml --output results/tiny/base \
        --manifest results/tiny/base.json --settings base.yaml
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pedalign.core.artifacts import whole_directory
from pedalign.core.errors import argument_parser, run
from pedalign.core.provenance import verified, write_manifest
from pedalign.core.settings import add_settings_argument, read_settings
from pedalign.core.time_spent import begin
from pedalign.data.conversations import split_conversations
from pedalign.data.rubric import instruction_text, load_rubric
from pedalign.models.checkpoints import save_checkpoint
from pedalign.models.prompt_format import renderer
from pedalign.models.scratch import scratch_model, scratch_tokenizer


@dataclass(frozen=True)
class BaseSettings:
    template: str
    instruction: str
    vocab_size: int
    architecture: dict[str, Any]
    seed: int


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("conversations", type=Path)
    parser.add_argument("--rubric", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--manifest", type=Path, required=True)
    add_settings_argument(parser, BaseSettings)
    args = parser.parse_args()
    begin("working")

    settings = read_settings(BaseSettings, args.settings)
    inputs = verified(args.conversations, args.rubric)
    rubric = load_rubric(args.rubric)
    tokenizer = scratch_tokenizer(
        split_conversations(args.conversations),
        settings.template,
        instruction_text(rubric, settings.instruction),
        settings.vocab_size,
    )
    model = scratch_model(settings.architecture, tokenizer, settings.seed)
    with whole_directory(args.output) as folder:
        save_checkpoint(model, renderer(tokenizer, settings.template, settings.instruction, rubric), tokenizer, folder)
    write_manifest(args.manifest, args.output, inputs, asdict(settings), parameters=model.num_parameters())
    print(f"{args.output}: {model.num_parameters():,} parameters, {len(tokenizer)} tokens in the vocabulary")


if __name__ == "__main__":
    run(main)
