"""The files of a checkpoint's folder, and where this machine keeps a model of the hub."""

import functools
import json
import os
from datetime import UTC, datetime
from pathlib import Path

from pedalign.core.artifacts import sha256

# Weights that transformers reads. Some repositories have them a second time, as consolidated.safetensors.
WEIGHTS = "model*.safetensors"
# Files of a checkpoint folder that transformers loads.
CHECKPOINT_FILES = ("*.json", WEIGHTS, "adapter_model*.safetensors", "*.jinja", "*.model", "*.txt")
CARD = "README.md"  # the model card, written once the checkpoint is measured


def checkpoint_files(folder: Path) -> list[Path]:
    """The files of a folder that transformers loads."""
    found = {file for kind in CHECKPOINT_FILES for file in folder.glob(kind) if file.is_file()}
    return sorted(file for file in found if not file.name.startswith("."))


def missing_weights(folder: Path) -> list[str]:
    """The weights that a checkpoint folder lacks: all of them, or files that its index names."""
    weights = {file.name for file in folder.glob(WEIGHTS)}
    if not weights:
        return [f"weights ({WEIGHTS})"]
    index = folder / "model.safetensors.index.json"
    listed = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values() if index.is_file() else ()
    return sorted(set(listed) - weights)


@functools.cache
def checkpoint_state(source: str) -> dict[str, str]:
    """For each file of a checkpoint folder that transformers loads, a text that changes with the file.

    It is the sha256; for weights, size and time of change. Empty for a hub id.
    """
    state = {}
    for file in checkpoint_files(Path(source)):
        if file.suffix == ".safetensors":
            found = file.stat()
            changed = datetime.fromtimestamp(found.st_mtime, UTC).isoformat()
            state[file.name] = f"{found.st_size} bytes of {changed}"
        else:
            state[file.name] = sha256(file)[:16]
    return state


def hub_commit(model: str) -> str:
    """The commit of a hub model that was loaded last, read from the files of huggingface_hub's cache.

    The data stages do not have huggingface_hub itself.
    """
    ref = _hub_folder(model) / "refs" / "main"
    return ref.read_text(encoding="utf-8").strip() if ref.is_file() else "unknown"


def model_folder(model: str) -> Path:
    """The folder of a model: the given one, or that of a hub id in the local cache."""
    return Path(model) if Path(model).is_dir() else _hub_folder(model) / "snapshots" / hub_commit(model)


def _hub_folder(model: str) -> Path:
    home = os.environ.get("HF_HOME", "~/.cache/huggingface")
    cache = Path(os.environ.get("HF_HUB_CACHE", f"{home}/hub")).expanduser()
    return cache / f"models--{model.replace('/', '--')}"
