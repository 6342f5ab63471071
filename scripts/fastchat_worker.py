"""Run FastChat's model worker for a tutor, with the template and the instruction that it was trained with.

Reads   a checkpoint that the workflow made, and its records, which say how to prompt it
Writes  FastChat's log, in the folder that LOGDIR names

    python scripts/fastchat_worker.py results/tiny/dpo-b0.1/checkpoint [options of fastchat.serve.model_worker]
"""

import sys
from pathlib import Path
from typing import Any

import torch
import uvicorn
from fastchat.conversation import get_conv_template, register_conv_template

from pedalign.chat.dialogue import asked, precision, tutor_name
from pedalign.core.artifacts import read_json
from pedalign.core.errors import UserError, argument_parser, run
from pedalign.core.provenance import verified
from pedalign.models.checkpoints import load_tokenizer
from pedalign.models.prompt_format import Renderer, renderer

NAME = "pedalign"  # of the template
OTHERWISE = "serve it by `transformers serve` (docs/how-to/talking.md)"


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("checkpoint", type=Path)
    args, options = parser.parse_known_args()

    verified(args.checkpoint)
    settings, rubric = asked(args.checkpoint)
    if "auto_map" in read_json(args.checkpoint / "config.json"):  # FastChat would run it
        raise UserError(f"{args.checkpoint}: its config.json names code of its own (auto_map)", OTHERWISE)
    tokenizer = load_tokenizer(args.checkpoint)
    rendering = renderer(tokenizer, rubric=rubric, **settings["rendering"])
    template = rendering.template.fastchat(NAME)
    template.stop_token_ids = [rendering.end_id]
    template.set_system_message(rendering.instruction)
    register_conv_template(template)
    _check_prompt(args.checkpoint, rendering, tokenizer)

    from fastchat.serve import model_worker  # late, as it redirects stdout and stderr

    # FastChat 0.2.36 expects a factor in rope_scaling, which in transformers 5 may have none.
    model_worker.get_context_length = lambda config: config.max_position_embeddings
    name = tutor_name(args.checkpoint)
    given = ["--model-path", str(args.checkpoint), "--model-names", name, "--conv-template", NAME]
    given += ["--dtype", precision(settings)]  # FastChat's default is float16
    given += [] if torch.cuda.is_available() else ["--device", "cpu"]
    sys.argv = [sys.argv[0], *given, *options]
    served, _ = model_worker.create_model_worker()
    uvicorn.run(model_worker.app, host=served.host, port=served.port, log_level="info")


def _check_prompt(checkpoint: Path, rendering: Renderer, tokenizer: Any) -> None:
    """Raises UserError if FastChat's prompt has other tokens than the one that the tutor was trained on."""
    messages = [
        {"role": "user", "content": "Q. Why?"},
        {"role": "assistant", "content": '{"Tutorbot": "Why?"}'},
        {"role": "user", "content": "Hm."},
    ]
    template = get_conv_template(NAME)
    for message, role in zip(messages, (*template.roles, template.roles[0]), strict=True):
        template.append_message(role, message["content"])
    template.append_message(template.roles[1], None)
    if tokenizer(template.get_prompt())["input_ids"] != rendering.encode(messages)[0]:
        raise UserError(f"{checkpoint}: FastChat renders this template otherwise than it was trained", OTHERWISE)


if __name__ == "__main__":
    run(main)
