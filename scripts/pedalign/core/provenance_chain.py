"""Follows an artifact's records back to the data, settings, code and versions that it was made from."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pedalign.core.errors import UserError
from pedalign.core.provenance import Hashes, manifest_path, other_code, read_record, record_path, verified, versions


@dataclass
class Link:
    """A file of the chain: its record (None if no stage made it), and what does not agree with the record.

    `problems`: the file, or a file that it was made from, differs from the record. `notes`: later changes that do not
    make the record wrong.
    """

    path: str
    record: dict[str, Any] | None
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def lines(self) -> Iterator[str]:
        """The link as text for people."""
        yield self.path
        if self.record is None:
            yield "  no stage made it"
        else:
            made = self.record
            yield f"  sha256 {made['sha256']}, {made['bytes']} bytes"
            yield f"  made {made['made']} by {made['made_by']}, commit {made['git_commit'] or 'unknown'}"
            yield from (
                f"  accepted {one['when']}, commit {one['git_commit'] or 'unknown'}, though stale: {one['reason']}"
                for one in made.get("accepted", [])
            )
            yield f"  settings {json.dumps(made['settings'], ensure_ascii=False)}"
            yield f"  versions {', '.join(f'{package} {number}' for package, number in made['versions'].items())}"
            yield from (f"  from {source} (sha256 {found[:12]}…)" for source, found in made["made_from"].items())
        yield from (f"  since: {note}" for note in self.notes)
        yield from (f"  PROBLEM: {problem}" for problem in self.problems)


def chain(artifacts: Iterable[Path]) -> Iterator[Link]:
    """The artifacts, then what they were made from, and so on; each file once, checked in turn.

    Raises UserError if one of `artifacts` does not exist.
    """
    waiting = [_described(path) for path in artifacts]
    for path in waiting:
        if not Path(path).exists():
            raise UserError(f"{path}: no such artifact", f"snakemake --cores all {path} makes it")
    seen: dict[str, None] = {}
    now: dict[str, str | UserError] = {}
    while waiting:
        path = waiting.pop(0)
        if path in seen:
            continue
        seen[path] = None
        link = _link(Path(path), now)
        yield link
        if link.record:
            waiting += map(_described, link.record["made_from"])


def _described(path: str | Path) -> str:
    """The file whose record describes an artifact: for a checkpoint folder, its manifest."""
    manifest = manifest_path(Path(path))
    return str(manifest if Path(path).is_dir() and manifest.is_file() else path)


def _found(path: str, now: dict[str, str | UserError]) -> str | UserError:
    """The present sha256 of a file or folder, or what is wrong with it; computed once."""
    if path not in now:
        try:
            now[path] = verified(path)[path]
        except UserError as error:
            now[path] = error
    return now[path]


def _link(path: Path, now: dict[str, str | UserError]) -> Link:
    try:
        record = read_record(path) if record_path(path).is_file() else None
    except UserError as error:
        return Link(str(path), None, [f"{error.problem} ({error.remedy})"])
    link = Link(str(path), record)
    if record is None:
        return link
    if path.is_file():
        folder = path.with_suffix("")  # if the path is a manifest
        found = _found(str(folder if path.suffix == ".json" and folder.is_dir() else path), now)
        if isinstance(found, UserError):
            link.problems.append(f"{found.problem} ({found.remedy})")
    else:
        link.notes.append("it is gone, as shards are once they are gathered")
    link.problems += _other_sources(record["made_from"], now)
    if other := other_code(record):
        link.notes.append(f"other code: {', '.join(other)}")
    link.notes += _changes("versions", record["versions"], {**dict.fromkeys(record["versions"]), **versions()})
    return link


def _other_sources(made_from: Hashes, now: dict[str, str | UserError]) -> Iterator[str]:
    """Sources that were made again since. One that differs from its own record is reported by its own link."""
    for source, was in made_from.items():
        found = _found(source, now) if Path(source).exists() else was
        if isinstance(found, str) and found != was:
            yield f"{source} is another than it was made from; run the workflow again"


def _changes(what: str, then: dict[str, Any], now: dict[str, Any]) -> list[str]:
    changed = [name for name in then if then[name] != now.get(name)]
    return [f"other {what}: {', '.join(changed)}"] if changed else []
