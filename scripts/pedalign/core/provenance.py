"""Records what each artifact was made from, and checks that the inputs of a stage have not changed since.

The record of `<folder>/<name>` is `<folder>/.provenance/<name>.json`; that of a checkpoint folder is its manifest.
"""

import functools
import hashlib
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pedalign.core.artifacts import read_json, sha256, write_json
from pedalign.core.checkpoint_folders import CARD, hub_commit
from pedalign.core.code_digest import changed, code
from pedalign.core.errors import UserError
from pedalign.core.told import made

ROOT = Path(__file__).parents[3]
PACKAGES = (
    *("torch", "transformers", "trl", "accelerate", "deepspeed", "peft", "datasets", "fschat", "snakemake"),
    *("numpy", "scikit-learn"),
)
Hashes = dict[str, str]  # path → sha256
# Former names of rules and scripts, which old records have → present names.
RENAMED = {"finetune": "sft", "respond": "generate", "optimize": "align"}
_LATER = (".snakemake_timestamp", CARD)  # files that a checkpoint folder gets after its manifest


def record_path(artifact: Path) -> Path:
    return artifact.parent / ".provenance" / f"{artifact.name}.json"


def manifest_path(checkpoint: Path) -> Path:
    return checkpoint.with_name(f"{checkpoint.name}.json")


def expect_checkpoint(folder: Path) -> None:
    """Raise UserError if the workflow has made no such checkpoint."""
    if manifest_path(folder).is_file():
        return
    near = folder if folder.is_dir() else folder.parent
    manifests = [
        near / "checkpoint.json",
        *sorted(near.glob("*/checkpoint.json")),
        *sorted(near.glob("*/*/checkpoint.json")),
    ]
    found = [str(manifest.with_suffix("")) for manifest in manifests if manifest.is_file()]
    fix = f"snakemake --cores all {manifest_path(folder)} makes it"
    if folder.name != "checkpoint":
        fix = "name the folder of a tutor that the workflow made, as results/tiny/dpo-b0.1/checkpoint"
        fix = f"did you mean {' or '.join(found[:3])}?" if found else fix
    raise UserError(f"{folder}: no checkpoint", fix)


def verified(*inputs: str | Path) -> Hashes:
    """The sha256 of each input of a stage, checked against its record.

    A file without a record, such as a user's own, is only hashed. The files of a checkpoint folder are hashed together.
    A model of the hub has no hash before it is loaded ("").
    Raises UserError, with the command that makes the file again, if it differs from its record.
    """
    found: Hashes = {}
    for path in map(Path, inputs):
        if path.is_dir():
            hashes = _hashes(path)
            if manifest_path(path).is_file():
                _check_file(manifest_path(path))
                _check_folder(path, hashes)
            found[str(path)] = hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()
        elif path.is_file():
            found[str(path)] = _check_file(path)
        else:
            found[str(path)] = ""
    return found


def check_recorded(*files: str | Path) -> None:
    """Raise UserError if a file differs from its record. Files without a record are skipped."""
    for path in map(Path, files):
        if path.is_file() and record_path(path).is_file():
            _check_file(path)


def _check_file(path: Path) -> str:
    found, record = sha256(path), record_path(path)
    if record.is_file():
        size, wanted = path.stat().st_size, read_record(path)
        if size != wanted["bytes"]:
            raise _changed(path, f"it has {size} of {wanted['bytes']} bytes", path, record)
        if found != wanted["sha256"]:
            raise _changed(path, f"its sha256 is {found[:12]}…, not {wanted['sha256'][:12]}…", path, record)
    return found


def read_record(artifact: Path) -> dict[str, Any]:
    """The record of an artifact. Raises UserError if the record itself has changed since it was written."""
    path = record_path(artifact)
    try:
        found = read_json(path)
        whole = found.pop("sha256_of_this") == _seal(found)
    except (UserError, KeyError, TypeError, AttributeError):
        whole = False
    if not whole:
        raise _changed(path, "it does not hold what was written", artifact, path)
    return found


def _seal(facts: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _check_folder(checkpoint: Path, found: Hashes) -> None:
    manifest = manifest_path(checkpoint)
    try:
        wanted = {name: str(one["sha256"]) for name, one in read_json(manifest)["files"].items()}
    except (UserError, KeyError, TypeError, AttributeError):
        raise _changed(manifest, "it lists no files", manifest, record_path(manifest)) from None
    for name in sorted(wanted.keys() | found.keys()):
        if wanted.get(name) != found.get(name):
            what = "it is another" if name in wanted and name in found else "it is missing"
            raise _changed(checkpoint / name, what if name in wanted else "it was not there", manifest, manifest)


def _changed(path: Path, what: str, artifact: Path, record: Path) -> UserError:
    anew = f"snakemake --cores all --forcerun {shlex.quote(str(artifact))}"
    return UserError(
        f"{path}: is not as it was made: {what}",
        f"{anew} makes it anew; if the change is yours and you know what it does, remove {record}",
    )


def folder_hashes(folder: Path) -> dict[str, dict[str, Any]]:
    """The sha256 and the size in bytes of each file of a checkpoint folder, by name."""
    hashes = _hashes(folder).items()
    return {name: {"sha256": found, "bytes": (folder / name).stat().st_size} for name, found in hashes}


def _hashes(folder: Path) -> Hashes:
    files = sorted(file for file in folder.rglob("*") if file.is_file() and file.name not in _LATER)
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        return dict(zip((str(file.relative_to(folder)) for file in files), pool.map(sha256, files), strict=True))


def write_manifest(path: Path, checkpoint: Path, inputs: Hashes, settings: Mapping[str, Any], **facts: Any) -> None:
    """Write the manifest of a checkpoint, after all its other files.

    It holds the sha256 and size of every file in the folder `checkpoint`, the `settings`, other facts (batch, seconds,
    loss), the versions of the packages that made it, and the git commit of the workflow.
    """
    traces = {"versions": versions(), "git_commit": git_commit()}
    write_json(path, {"files": folder_hashes(checkpoint), "settings": settings, **facts, **traces})
    record([path], inputs, settings)


def record(artifacts: Sequence[Path], inputs: Hashes, settings: Mapping[str, Any]) -> None:
    """Record what the running script made the `artifacts` from; `inputs` is what `verified` returned."""
    script = Path(sys.argv[0]).resolve()
    origin = {
        "made": _now(),
        "made_by": os.path.relpath(script, ROOT),
        "made_from": {path: found or hub_commit(path) for path, found in inputs.items()},
        "settings": settings,
        "code": code(script) if script.is_file() else {},  # `python -c` has no script
        "versions": versions(),
        "git_commit": git_commit(),
    }
    for artifact in artifacts:
        file = {"artifact": str(artifact), "sha256": sha256(artifact), "bytes": artifact.stat().st_size}
        facts = {**file, **origin}
        write_json(record_path(artifact), {**facts, "sha256_of_this": _seal(facts)})
    made(artifacts)


def accept(artifact: Path, reason: str) -> None:
    """Record that a person accepts an artifact as what the present code and settings would make.

    `reason`: why it counted as stale. The rest of the record stays. An artifact without a record is skipped.
    Raises UserError if the artifact or its record has changed since it was made.
    """
    if not artifact.is_file() or not record_path(artifact).is_file():
        return
    _check_file(artifact)
    facts = read_record(artifact)
    now = {"when": _now(), "reason": reason, "code": code(_script(facts)), "git_commit": git_commit()}
    facts["accepted"] = [*facts.get("accepted", []), now]
    write_json(record_path(artifact), {**facts, "sha256_of_this": _seal(facts)})


def other_code(facts: Mapping[str, Any]) -> list[str]:
    """Files whose code has changed since an artifact was made or accepted, by its record."""
    then = facts.get("accepted", [facts])[-1]["code"]
    script = _script(facts)
    return changed(then, code(script)) if script.is_file() else [f"{facts['made_by']} is gone"]


def _script(facts: Mapping[str, Any]) -> Path:
    made_by = Path(facts["made_by"])
    return ROOT / made_by.with_stem(RENAMED.get(made_by.stem, made_by.stem))


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def versions() -> dict[str, str]:
    """The versions of Python and of the installed packages that can influence results."""
    return {"python": ".".join(map(str, sys.version_info[:3])), **dict(_versions())}


def _versions() -> Iterator[tuple[str, str]]:
    for package in PACKAGES:
        try:
            yield package, version(package)
        except PackageNotFoundError:  # not installed, as in the environment of the data stages
            continue


@functools.cache
def git_commit() -> str | None:
    """The commit of the workflow's checkout, with "-dirty" where it has uncommitted changes."""
    try:
        answer = subprocess.run(
            ["git", "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"],
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
    except FileNotFoundError:
        return None
    return answer.stdout.strip() or None
