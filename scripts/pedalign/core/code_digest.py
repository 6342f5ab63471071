"""Computes a digest of the code that an artifact depends on.

The code of a stage is its script and every module of the library that the script imports, directly or not. Imports are
read from the syntax tree; nothing is executed. Comments, docstrings, formatting, type hints, the wording of messages
and the place of a module in the library do not count.
"""

import ast
import functools
import hashlib
import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LIBRARY = "pedalign"
_KEPT = Path(".snakemake/code_digests.json")
_MOST_KEPT = 5_000  # modules of many versions

# Modules that cannot change what an artifact holds, and why. Their code does not count, nor do modules that only they
# import.
# tests/unit/test_code_digest.py lists what the code of stages may import from them.
NO_INFLUENCE = {
    "core.errors": "says what is wrong with the input, and ends the stage",
    "core.progress": "shows how far a stage is",
    "core.time_spent": "says where a job spent its time",
    "core.provenance": "writes the records of artifacts, and refuses inputs that have changed",
    "core.code_digest": "decides what reruns",
    "core.staleness": "says why something reruns",
    "data.pair_warnings": "says what preference pairs have in common",
    "data.sources.importers": "lists the formats; the code of the one in use counts by Plan.import_code",
    "training.trackers": "writes curves to look at",
    "training.trainer_arguments": "refuses arguments of trainers; those that pass are settings",
    "generation.vllm_environment": "says where vLLM is installed",
}

# Functions whose text arguments are for people, so their wording does not count.
_MESSAGES = {"print", "warn", "argument_parser"}
_TYPING = {"typing", "collections.abc", "types", "__future__"}  # imported only for type hints


@dataclass(frozen=True)
class Module:
    """A file's digest, and the modules of the library that it imports: (imported name or "", file)."""

    digest: str
    imports: tuple[tuple[str, Path], ...]


def code(script: Path) -> dict[str, str]:
    """The digest of each file that the results of a script depend on, by its path from the scripts' folder.

    Raises SyntaxError if a file is not Python.
    """
    root = script.resolve().parent
    return {path.relative_to(root).as_posix(): module(path).digest for path in imported_files(script)}


def digest(script: Path, *files: Path) -> str:
    """One digest of all code that the results of a script depend on, and of `files` that it reads.

    A file of Python counts as code, with what it imports; another one by its bytes.
    """
    codes = [file for file in files if file.suffix == ".py"]
    lines = {hashlib.sha256(file.read_bytes()).hexdigest() for file in files if file not in codes}
    for path in {path for one in (script, *codes) for path in imported_files(one)}:
        found = module(path)
        lines.add(found.digest)
        lines |= {f"{found.digest} {name} {module(file).digest}" for name, file in found.imports if _counts(file)}
    return _hash("\n".join(sorted(lines)))


def changed(then: dict[str, str], now: dict[str, str]) -> list[str]:
    """Files of `now` whose code is in no file of `then`, and the reverse; `then` and `now` are what `code` returned."""
    return sorted(
        {file for file, found in now.items() if found not in then.values()}
        | {file for file, found in then.items() if found not in now.values()}
    )


def _counts(path: Path) -> bool:
    name = path.as_posix().removesuffix(".py").rpartition(f"/{LIBRARY}/")[2].replace("/", ".")
    return name not in NO_INFLUENCE and module(path).digest != _NOTHING


def imported_files(script: Path, all_of_them: bool = False) -> list[Path]:
    """A script and the modules of the library that it imports, directly or not.

    `all_of_them`: also those that cannot change a result.
    """
    found: dict[Path, None] = {}
    waiting, kept = [script.resolve()], len(_known())
    while waiting:
        path = waiting.pop()
        if path not in found and (all_of_them or _counts(path)):
            found[path] = None
            waiting += [file for _, file in module(path).imports]
    if len(_known()) > kept:
        _remember()
    return sorted(found)


@functools.cache
def module(path: Path) -> Module:
    """The digest and the imports of one file."""
    content = path.read_bytes()
    key = hashlib.sha256(content).hexdigest()
    if key not in _known():
        tree = ast.parse(content, str(path))
        names = list(_imported(tree))  # before _Normal changes the tree
        _known()[key] = [_hash(_written(_Normal().visit(tree))), names]
    digest, names = _known()[key]
    # The root is the scripts' folder, which has the library's folder in it.
    root = next((folder for folder in path.parents if (folder / LIBRARY).is_dir()), path.parent)
    return Module(digest, tuple(dict.fromkeys(_imports(names, path, root))))


@functools.cache
def _known() -> dict[str, Any]:
    """The cache of `module`: sha256 of a file → its digest and imports.

    It is kept in Snakemake's folder, since parsing all modules takes 1.5 s. It is valid for one version of this file
    and of Python.
    """
    try:
        kept = json.loads(_KEPT.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        kept = {}
    return kept["modules"] if kept.get("by") == _by() and len(kept["modules"]) < _MOST_KEPT else {}


def _remember() -> None:
    if not _KEPT.parent.is_dir():
        return
    temporary = _KEPT.with_name(f"{_KEPT.name}.{os.getpid()}")
    with suppress(OSError):  # the folder may be read-only
        temporary.write_text(json.dumps({"by": _by(), "modules": _known()}), encoding="utf-8")
        temporary.replace(_KEPT)


def _by() -> str:
    return f"{sys.version} {hashlib.sha256(Path(__file__).read_bytes()).hexdigest()}"


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


_NOTHING = _hash("")  # the digest of a file without code, such as most __init__.py


def _imported(tree: ast.Module) -> Iterator[list[Any]]:
    """Each import from the library: [module, imported name (None: the module itself), level of a relative import]."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ([one.name, None, 0] for one in node.names if one.name.startswith(LIBRARY))
        elif isinstance(node, ast.ImportFrom) and (node.level or (node.module or "").startswith(LIBRARY)):
            yield from ([node.module or "", one.name, node.level] for one in node.names)


def _imports(names: Iterable[Sequence[Any]], path: Path, root: Path) -> Iterator[tuple[str, Path]]:
    package = path.relative_to(root).parent.parts
    for source, name, level in names:
        if name is None:
            yield from (("", file) for file in _files(root, source))
            continue
        parts = [*package[: len(package) - level + 1], *filter(None, [source])] if level else [source]
        files = _files(root, ".".join([*parts, name]))  # the last one defines the name, or is the module of this name
        yield from ((name if file == files[-1] else "", file) for file in files)


def _files(root: Path, name: str) -> list[Path]:
    """The files that an import of a dotted name runs: each package's `__init__.py`, and the module itself."""
    if name.split(".")[0] != LIBRARY:
        return []
    found: list[Path] = []
    folder = root
    for part in name.split("."):
        if (folder / f"{part}.py").is_file():
            return [*found, folder / f"{part}.py"]
        folder = folder / part
        if (folder / "__init__.py").is_file():
            found.append(folder / "__init__.py")
    return found


class _Normal(ast.NodeTransformer):
    """Removes from a syntax tree what cannot change a result."""

    def __init__(self) -> None:
        self._fields: set[ast.stmt] = set()  # annotated fields of classes: dataclasses and pydantic use the types

    def visit(self, node: ast.AST) -> Any:
        body = getattr(node, "body", None)
        if isinstance(body, list):  # remove docstrings, other lone texts and `pass`
            node.body = [one for one in body if not (_is_text(one) or isinstance(one, ast.Pass))]  # type: ignore[attr-defined]
        return super().visit(node)

    def visit_If(self, node: ast.If) -> ast.AST | None:
        hints = isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        return None if hints else self.generic_visit(node)

    def visit_Import(self, node: ast.Import) -> list[ast.stmt]:
        return [ast.Import([alias]) for alias in node.names]

    def visit_ImportFrom(self, node: ast.ImportFrom) -> list[ast.stmt]:
        ours = node.level or (node.module or "").split(".")[0] == LIBRARY
        source = LIBRARY if ours else node.module  # the same wherever a module of the library lies
        return [ast.ImportFrom(source, [alias], 0) for alias in node.names if source not in _TYPING]

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        self._fields |= {one for one in node.body if isinstance(one, ast.AnnAssign)}
        return self.generic_visit(node)

    def visit_FunctionDef(self, node: Any) -> ast.AST:
        node.returns = None
        return self.generic_visit(node)

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_arg(self, node: ast.arg) -> ast.AST:
        node.annotation = None
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST | None:
        self.generic_visit(node)
        if node in self._fields:
            return node
        return ast.Assign([node.target], node.value) if node.value else None

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if name == "add_argument":
            node.keywords = [one for one in node.keywords if one.arg not in ("help", "metavar")]
        elif name == "UserError" and not any(isinstance(one, ast.NamedExpr) for one in ast.walk(node)):
            node.args = []  # it ends the stage, so no artifact depends on it
        elif name in _MESSAGES and not any(one.arg == "file" for one in node.keywords):
            node.args = [_wordless(one) for one in node.args]
        return node


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _wordless(node: ast.expr) -> ast.expr:
    """The expression without its literal texts; what it computes stays."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return ast.Constant("")
    if isinstance(node, ast.JoinedStr):
        return ast.JoinedStr([one for one in node.values if not isinstance(one, ast.Constant)])
    return node


def _written(node: object) -> str:
    """A tree as text, the same in all versions of Python and for any order of the imports at its top."""
    if isinstance(node, ast.Module):
        imports = [_written(one) for one in node.body if isinstance(one, ast.Import | ast.ImportFrom)]
        rest = [_written(one) for one in node.body if not isinstance(one, ast.Import | ast.ImportFrom)]
        return "\n".join([*sorted(imports), *rest])
    if isinstance(node, ast.Constant):
        return repr(node.value)
    if isinstance(node, ast.AST):
        fields = [(name, value) for name, value in ast.iter_fields(node) if name not in _ABSENT]
        told = (f"{name}={_written(value)}" for name, value in fields if value is not None and value != [])
        return f"{type(node).__name__}({', '.join(told)})"
    return f"[{', '.join(map(_written, node))}]" if isinstance(node, list) else repr(node)


_ABSENT = ("ctx", "kind", "type_comment", "type_params")
