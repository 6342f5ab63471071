"""Where vLLM is installed."""

import importlib.util
import sys
from pathlib import Path

from pedalign.core.errors import UserError


def vllm_python() -> Path:
    """The Python that has vLLM: of `make vllm`, or this one. Raises UserError where neither has."""
    own = Path(__file__).parents[3] / ".venv-vllm/bin/python"
    if own.exists():
        return own
    if importlib.util.find_spec("vllm"):
        return Path(sys.executable)
    raise UserError(
        "generation.engine: vllm is not installed",
        "run `make vllm` in the workflow's folder, or set engine: auto",
    )
