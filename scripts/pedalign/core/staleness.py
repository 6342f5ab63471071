"""Says in words why an artifact is made again: Snakemake's reason, and the changed code, by the artifact's record."""

import re
from collections.abc import Iterable
from pathlib import Path

from pedalign.core.errors import UserError
from pedalign.core.provenance import other_code, read_record, record_path

_FILES, _MODULES = 2, 4  # most names that are printed
_PARAMS = "Params have changed since last execution"
_WORDS = {
    "Missing output files": "not there yet",
    "Incomplete output files": "{files} not finished",
    "Updated input files": "changed: {files}",
    "Input files updated by another job": "after {files}",
    "Set of input files has changed since last execution": "other input files",
    "Code has changed since last execution": "its command changed",
    "Software environment definition has changed since last execution": "its environment changed",
    "Forced execution": "asked for",
}


def in_words(reason: str, outputs: Iterable[str]) -> str:
    """Snakemake's `reason` in short. For changed parameters, it names the code or settings that changed."""
    told = []
    if reason.startswith("Missing output files"):  # mostly a first run, where the other reasons add nothing
        reason = reason.partition("; ")[0]
    for part in reason.removeprefix("Finished (was: ").split("; "):
        kind, _, rest = part.partition(":")
        if kind == _PARAMS:
            told += _changed_params(rest, outputs)
        elif kind in _WORDS:
            told.append(_WORDS[kind].format(files=_listed(sorted(rest.strip(" )").split(", ")), _FILES)))
        elif part:
            told.append(part)
    return "; ".join(told)


def _changed_params(change: str, outputs: Iterable[str]) -> list[str]:
    """What changed, by Snakemake's text of the parameters before and now; one of them is the digest of the code."""
    before, _, now = change.partition("before:")[2].partition(" now:")
    digests = [set(re.findall(r"'([0-9a-f]{16})'", side)) for side in (before, now)]
    rest = re.sub(r"'[0-9a-f]{16}'|<nothing exclusive>|[,\s]", "", before + now)
    told = []
    if digests[0] != digests[1]:
        files = [file for output in outputs for file in _other_code(Path(output))]
        told.append(f"code changed: {_listed(dict.fromkeys(files), _MODULES)}" if files else "code changed")
    return [*told, "settings changed"] if rest or not told else told


def _other_code(artifact: Path) -> list[str]:
    try:
        return other_code(read_record(artifact)) if record_path(artifact).is_file() else []
    except (UserError, KeyError):  # an older version made it, without such a record
        return []


def _listed(names: Iterable[str], most: int) -> str:
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
