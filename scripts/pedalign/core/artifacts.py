"""Reads and writes files. What is written appears whole or not at all."""

import csv
import errno
import hashlib
import json
import os
import re
import shutil
import socket
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from glob import escape
from math import isfinite, nan
from pathlib import Path
from typing import Any, TextIO

import yaml

from pedalign.core.errors import UserError

_FULL = 2**20  # bytes: a disk with fewer free bytes counts as full
_DEEPEST = 50  # most levels of brackets in YAML
# How files begin that are not text, what they are, and what to do with them.
_PACKED = {
    b"\x1f\x8b": ("compressed by gzip", "unpack it: gunzip FILE"),
    b"PK\x03\x04": ("a zip archive", "unpack it"),
    b"PAR1": (
        "a Parquet file",
        "make JSON lines: pandas.read_parquet(FILE).to_json(NEW, orient='records', lines=True)",
    ),
}


@contextmanager
def opened(path: Path, newline: str | None = None) -> Iterator[TextIO]:
    """Open a text file for reading. Raises UserError if there is no such file or it is not UTF-8."""
    try:
        with open(path, encoding="utf-8-sig", newline=newline) as file:
            yield file
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{path}: no such file", "check the path, or what names it in config.yaml") from None
    except IsADirectoryError:
        raise UserError(f"{path}: is a folder, a file is needed", "name the file itself") from None
    except UnicodeDecodeError:  # its position counts within a part of the file
        raise _not_text(path) from None


def _not_text(path: Path) -> UserError:
    content = path.read_bytes()
    for start, (what, remedy) in _PACKED.items():
        if content.startswith(start):
            return UserError(f"{path}: {what}, not text", remedy)
    try:
        content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        return UserError(f"{path}: not UTF-8 text (byte {error.start})", "save it as UTF-8")
    return UserError(f"{path}: not UTF-8 text", "save it as UTF-8")  # a pipe, which can't be read again


def read_text(path: Path) -> str:
    """The file's text. Raises UserError if there is no such file or it is not UTF-8."""
    with opened(path) as file:
        return file.read()


def parse_json(text: str, where: str) -> Any:
    """`text` as JSON. Raises UserError with line and column where it is not JSON."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        what = error.msg if text.strip() else "the file is empty"
        if re.search(r",\s*$", text[: error.pos]) and text[error.pos : error.pos + 1] in ("]", "}"):
            what = "a comma before the end of a list or object"
        raise UserError(
            f"{where}: not JSON: {what} at line {error.lineno}, column {error.colno}",
            "fix the file at that place, or write it anew with a JSON library",
        ) from None
    except ValueError as error:  # an integer of thousands of digits
        raise UserError(f"{where}: not JSON: {error}", "write it anew with a JSON library") from None
    except RecursionError:
        raise UserError(f"{where}: JSON nested too deeply", "write it anew without needless nesting") from None


def read_json(path: Path) -> Any:
    return parse_json(read_text(path), str(path))


class _UniqueKeys(yaml.SafeLoader):
    """A YAML loader that refuses a key that is twice in a mapping. YAML itself silently keeps the last one."""

    def compose_mapping_node(self, anchor: Any) -> Any:
        node, seen = super().compose_mapping_node(anchor), set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.composer.ComposerError(None, None, f"key '{key.value}' stands there twice", key.start_mark)
            seen.add(key.value if isinstance(key, yaml.ScalarNode) else None)
        return node


class _Data(_UniqueKeys):
    """A YAML loader without aliases, a few lines of which can expand beyond any memory, and without deep nesting."""

    def fetch_flow_collection_start(self, kind: Any) -> None:
        if self.flow_level == _DEEPEST:
            raise yaml.scanner.ScannerError(None, None, f"nested deeper than {_DEEPEST}", self.get_mark())
        super().fetch_flow_collection_start(kind)

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.composer.ComposerError(None, None, "aliases (*) are not read", self.peek_event().start_mark)
        return super().compose_node(parent, index)


class _Text(_UniqueKeys):
    """A YAML loader that reads every scalar as text, `yes`, `1`, `010` and `null` included."""

    def resolve(self, kind: Any, value: Any, implicit: Any) -> Any:
        return self.DEFAULT_SCALAR_TAG if kind is yaml.ScalarNode else super().resolve(kind, value, implicit)


def read_yaml(path: Path) -> Any:
    """Read a YAML file of data: plain values without aliases.

    Raises UserError if it is not YAML, or a key is twice in a mapping.
    """
    return parse_yaml(read_text(path), str(path))


def read_settings_file(path: Path, as_text: bool = False) -> Any:
    """Read a YAML file that a person wrote, such as settings or a rubric; aliases are allowed.

    `as_text`: every scalar is text, as written. Raises UserError as `read_yaml` does.
    """
    return parse_yaml(read_text(path), str(path), _Text if as_text else _UniqueKeys)


def parse_yaml(text: str, where: str, loader: type = _Data) -> Any:
    """`text` as YAML; `where` is named in errors."""
    try:
        return yaml.load(text, loader)
    except (yaml.YAMLError, ValueError) as error:  # PyYAML raises ValueError for an impossible date
        raise UserError(f"{where}: not YAML: {error}", "fix the file at that place") from None
    except RecursionError:
        raise UserError(f"{where}: YAML nested too deeply", "write it anew without needless nesting") from None


def yaml_number(text: object) -> str | None:
    """How YAML wants a number that it read as text: `1e-5` needs a point, 1.0e-05. None if `text` is no such number."""
    try:
        number = float(text) if isinstance(text, str) else nan
    except ValueError:
        return None
    return re.sub(r"^(-?\d+)e", r"\1.0e", repr(number)) if isfinite(number) else None


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _temporary(path: Path) -> Path:
    """The path of a temporary sibling of `path`. Removes the siblings that killed processes left."""
    path.parent.mkdir(parents=True, exist_ok=True)
    host = socket.gethostname()  # on a shared disk, processes of other machines are left alone
    for left in path.parent.glob(f".{escape(path.name)}.{escape(host)}.*.tmp"):
        process = left.name.split(".")[-2]
        if process.isdecimal() and not _runs(int(process)):
            shutil.rmtree(left) if left.is_dir() else left.unlink(missing_ok=True)
    return path.with_name(f".{path.name}.{host}.{os.getpid()}.tmp")


@contextmanager
def _whole_file(path: Path) -> Iterator[TextIO]:
    """A file to write to; it becomes `path` when the block ends without an error."""
    temporary = _temporary(path)
    try:
        with full_disk_named(path):
            with open(temporary, "w", encoding="utf-8", newline="") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def full_disk_named(path: Path) -> Iterator[None]:
    """Turn an error in the block that a full disk caused into an OSError that says so and names `path`."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)  # a failed write does not name its file
        raise
    except UserError:
        raise
    except Exception as error:  # libraries that write weights raise errors of their own
        if shutil.disk_usage(path.parent).free < _FULL:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error
        raise


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


def iterate_csv(path: Path, columns: Sequence[str] = ()) -> Iterator[dict[str, str]]:
    """The rows of a CSV file, one after another.

    Raises UserError if there is no such file, or it is not UTF-8 or not CSV; with `columns`, also if one of them is
    missing, or a row has more or fewer cells than the header.
    """
    csv.field_size_limit(2**31 - 1)
    remedy = "write it anew with a CSV library, or have the workflow make it"
    with opened(path, newline="") as file:
        reader = csv.DictReader(file)
        try:
            missing = [name for name in columns if name not in (reader.fieldnames or ())]
            if missing:
                raise UserError(f"{path}: its header has no column '{missing[0]}'", remedy)
            for number, row in enumerate(reader):
                if columns and (None in row or None in row.values()):
                    raise UserError(f"{path}: row {number} (from 0) has other columns than the header", remedy)
                yield row
        except csv.Error as error:
            raise UserError(f"{path}: line {reader.line_num}: not CSV: {error}", remedy) from None


def read_csv(path: Path) -> list[dict[str, str]]:
    return list(iterate_csv(path))


def sync(folder: Path) -> None:
    """Wait until all files of a folder are on the disk."""
    for file in folder.rglob("*"):
        if file.is_file():
            with open(file, "rb") as opened:
                os.fsync(opened.fileno())


@contextmanager
def whole_directory(path: Path) -> Iterator[Path]:
    """A temporary sibling to fill; it becomes `path` when the block ends without an error."""
    temporary = _temporary(path)
    temporary.mkdir()
    try:
        with full_disk_named(path):
            yield temporary
            sync(temporary)
        shutil.rmtree(path, ignore_errors=True)
        os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
