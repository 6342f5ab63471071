"""Finds the installation of vLLM."""

import importlib.util
import sys
from pathlib import Path

from pedalign.core.errors import UserError


def vllm_python() -> Path:
    """The Python that has vLLM: that of `make vllm`, or this one. Raises UserError if neither has it."""
    own = Path(__file__).parents[3] / ".venv-vllm/bin/python"
    if own.exists():
        return own
    if importlib.util.find_spec("vllm"):
        return Path(sys.executable)
    raise UserError(
        "generation.engine: vllm is not installed",
        "run `make vllm` in the workflow's folder, or set engine: auto",
    )
