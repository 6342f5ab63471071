"""Files that appear whole or not at all, and the manifests of checkpoints."""

import csv
import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, TextIO

from pedalign.errors import UserError


@contextmanager
def opened(path: Path, newline: str | None = None) -> Iterator[TextIO]:
    """The file, to read its text. Raises UserError where there is none or it is not UTF-8."""
    try:
        with open(path, encoding="utf-8-sig", newline=newline) as file:
            yield file
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{path}: no such file", "check the path, or 'source' and 'dataset' in config.yaml") from None
    except IsADirectoryError:
        raise UserError(f"{path}: is a folder, a file is needed", "name the file itself") from None
    except UnicodeDecodeError:  # of a part
        raise UserError(f"{path}: not UTF-8 text (byte {_bad_byte(path)})", "save it as UTF-8") from None


def _bad_byte(path: Path) -> int:
    try:
        path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        return error.start
    raise AssertionError(f"{path} is UTF-8")


def read_text(path: Path) -> str:
    """The file's text. Raises UserError where there is none or it is not UTF-8."""
    with opened(path) as file:
        return file.read()


def parse_json(text: str, where: str) -> Any:
    """`text` as JSON. Raises UserError with line and column where it is not JSON."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(
            f"{where}: not JSON: {error.msg} at line {error.lineno}, column {error.colno}",
            "mend the file at that place, or write it anew with a JSON library",
        ) from None
    except ValueError as error:  # an integer of thousands of digits
        raise UserError(f"{where}: not JSON: {error}", "write it anew with a JSON library") from None
    except RecursionError:
        raise UserError(f"{where}: JSON nested too deeply", "write it anew without needless nesting") from None


def read_json(path: Path) -> Any:
    return parse_json(read_text(path), str(path))


@contextmanager
def _whole_file(path: Path) -> Iterator[TextIO]:
    """A file to write to; it becomes `path` when the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "w", encoding="utf-8", newline="") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write `text` so that `path` holds all of it or what it held before."""
    with _whole_file(path) as file:
        file.write(text)


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, ensure_ascii=False, indent=2) + "\n")


def write_records(path: Path, records: Iterable[Any]) -> None:
    """A JSON list with one record per line, so that a diff shows what changed."""
    with _whole_file(path) as file:
        _write_list(file, records)
        file.write("\n")


def write_columns(path: Path, columns: Mapping[str, Iterable[Any]]) -> None:
    """A JSON object of parallel lists, one entry per line."""
    with _whole_file(path) as file:
        file.write("{\n")
        for number, (name, values) in enumerate(columns.items()):
            file.write((",\n" if number else "") + json.dumps(name) + ": ")
            _write_list(file, values)
        file.write("\n}\n")


def _write_list(file: TextIO, values: Iterable[Any]) -> None:
    """One entry per line."""
    file.write("[\n")
    for number, value in enumerate(values):
        file.write((",\n" if number else "") + json.dumps(value, ensure_ascii=False))
    file.write("\n]")


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    with _whole_file(path) as file:
        writer = csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_ALL)  # else a lone \r is not quoted
        writer.writerow(header)
        writer.writerows(rows)


def iterate_csv(path: Path) -> Iterator[dict[str, str]]:
    """The rows of a table, one after another. Raises UserError where there is no such file or it is not UTF-8."""
    csv.field_size_limit(2**31 - 1)
    with opened(path, newline="") as file:
        yield from csv.DictReader(file)


def read_csv(path: Path) -> list[dict[str, str]]:
    return list(iterate_csv(path))


@contextmanager
def whole_directory(path: Path) -> Iterator[Path]:
    """A temporary sibling to fill; it becomes `path` when the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        for file in temporary.rglob("*"):
            if file.is_file():
                with open(file, "rb") as opened:
                    os.fsync(opened.fileno())
        shutil.rmtree(path, ignore_errors=True)
        os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


PACKAGES = ("torch", "transformers", "trl", "accelerate", "deepspeed", "peft", "datasets", "fschat", "snakemake")


def write_manifest(path: Path, checkpoint: Path, **facts: Any) -> None:
    """The JSON that is written last and says what a checkpoint is.

    Holds the sha256 and size of every file of the directory `checkpoint`, the versions of the
    packages that made it, the git commit of the workflow, and `facts` (settings, batch, seconds, loss).
    """
    files = sorted(file for file in checkpoint.rglob("*") if file.is_file())
    manifest = {
        "files": {
            str(file.relative_to(checkpoint)): {"sha256": sha256(file), "bytes": file.stat().st_size} for file in files
        },
        **facts,
        "versions": {package: version(package) for package in PACKAGES},
        "git_commit": _git_commit(),
    }
    write_json(path, manifest)


def _git_commit() -> str | None:
    """The commit of the workflow's checkout, with "-dirty" where it has uncommitted changes."""
    try:
        answer = subprocess.run(
            ["git", "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
        )
    except FileNotFoundError:
        return None
    return answer.stdout.strip() or None
