"""Run FastChat's OpenAI-compatible server, fixed so that it streams replies with the installed version of pydantic.

Reads   what FastChat's workers answer
Writes  FastChat's log, in the folder that LOGDIR names

    python scripts/fastchat_server.py [options of fastchat.serve.openai_api_server]
"""

import runpy
import sys
from typing import Any

from fastchat.protocol.openai_api_protocol import ChatCompletionStreamResponse, CompletionStreamResponse
from pydantic import BaseModel

from pedalign.core.errors import argument_parser, run


def main() -> None:
    _, options = argument_parser(__doc__).parse_known_args()
    for chunk in (ChatCompletionStreamResponse, CompletionStreamResponse):
        chunk.json = _json
    sys.argv = [sys.argv[0], *options]
    runpy.run_module("fastchat.serve.openai_api_server", run_name="__main__")


def _json(chunk: BaseModel, ensure_ascii: bool = False, **options: Any) -> str:
    """Replaces pydantic's method, which has no `ensure_ascii` since version 2. FastChat 0.2.36 passes it, always as
    False, and version 2 writes no ASCII escapes anyway."""
    return chunk.model_dump_json(**options)


if __name__ == "__main__":
    run(main)
