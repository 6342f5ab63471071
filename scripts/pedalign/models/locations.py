"""Finds a checkpoint: in a folder, in this machine's cache of the hub, or on the hub. No weights are fetched."""

import functools
from collections.abc import Collection
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from huggingface_hub import (
    HfApi,
    constants,
    get_hf_file_metadata,
    get_session,
    hf_hub_download,
    hf_hub_url,
    snapshot_download,
)
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, HFValidationError, HTTPError, RepositoryNotFoundError

from pedalign.core.checkpoint_folders import WEIGHTS, missing_weights
from pedalign.core.errors import UserError

_TIMEOUT = 5.0  # seconds for a request to the hub
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json", "sentencepiece.bpe.model")
_ENTRY = "in the model's entry of config.yaml"


@dataclass(frozen=True)
class Found:
    """A checkpoint that was found.

    `folder`: where its files on this machine are. `download`: bytes of weights to be downloaded first. `lacks`: parts
    that neither the folder nor the hub has.
    """

    folder: Path
    where: str
    download: int
    lacks: list[str]

    def has_config(self) -> bool:
        return (self.folder / "config.json").is_file()

    def has_tokenizer(self) -> bool:
        return not _names(self.folder).isdisjoint(_TOKENIZERS)

    def is_whole(self) -> bool:
        """Whether the checkpoint can be loaded without a download."""
        return not self.download and not self.lacks


def find(source: str) -> Found:
    """Find a checkpoint by its folder or hub id. Raises UserError if there is none, or it can't be reached."""
    folder = Path(source)
    if folder.is_dir():
        return Found(folder, "a folder", 0, _lacking_here(folder))
    if source.startswith(("/", ".", "~")) or source.count("/") > 1:
        raise UserError(f"{source}: no such folder", f"check the path {_ENTRY}")
    return _cached(source) or _on_hub(source)


def _names(folder: Path) -> set[str]:
    return {file.name for file in folder.iterdir() if file.is_file()}


def _lacking(names: Collection[str]) -> list[str]:
    """Parts of a checkpoint other than weights that are not among the file names."""
    parts = {"a configuration (config.json)": ("config.json",), "a tokenizer": _TOKENIZERS}
    return [part for part, files in parts.items() if not any(name in names for name in files)]


def _lacking_here(folder: Path) -> list[str]:
    return _lacking(_names(folder)) + missing_weights(folder)


def _cached(source: str) -> Found | None:
    try:
        folder = Path(snapshot_download(source, local_files_only=True))
    except (OSError, HFValidationError):
        return None
    return None if _lacking_here(folder) else Found(folder, "in this machine's cache", 0, [])


def _on_hub(source: str) -> Found:
    refused = _silence(constants.ENDPOINT)
    if refused:
        raise UserError(
            f"{source}: no folder, not in this machine's cache, and {constants.ENDPOINT} does not answer: {refused}",
            f"run `hf download {source}` on a machine that reaches it; or name a folder {_ENTRY}",
        )
    try:
        # Without access to a gated model, this fails; the list of its files is public.
        get_hf_file_metadata(hf_hub_url(source, "config.json"), timeout=_TIMEOUT)
        files = HfApi().model_info(source, timeout=_TIMEOUT, files_metadata=True).siblings or []
        folder = Path(hf_hub_download(source, "config.json", etag_timeout=_TIMEOUT)).parent
    except GatedRepoError:
        raise UserError(
            f"{source}: gated, and this user has no access",
            f"accept its terms at {constants.ENDPOINT}/{source}, then `hf auth login`",
        ) from None
    except RepositoryNotFoundError:
        raise UserError(
            f"{source}: neither a folder nor a model of the hub", f"check the name {_ENTRY}; private: `hf auth login`"
        ) from None
    except (HfHubHTTPError, HTTPError, HFValidationError, OSError) as error:
        raise UserError(f"{source}: {str(error).splitlines()[0]}", f"check the name {_ENTRY}, and try again") from None
    weights = [file.size or 0 for file in files if fnmatch(file.rfilename, WEIGHTS)]
    lacks = _lacking([file.rfilename for file in files]) + ([] if weights else [f"weights ({WEIGHTS})"])
    return Found(folder, "on the hub", sum(weights), lacks)


@functools.cache
def _silence(endpoint: str) -> str:
    """Why the hub does not answer; empty if it does. Asked once, as a firewall may delay each request."""
    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    try:
        get_session().head(endpoint, timeout=_TIMEOUT)
    except (HTTPError, OSError) as error:
        return str(error) or type(error).__name__
    return ""
