"""Which code an artifact depends on: what computes, and nothing that only reads well."""

import ast
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from pedalign.core import code_digest
from pedalign.core.code_digest import NO_INFLUENCE, changed, code, digest, imported_files, module

FORMULA = '''"""What it is."""

from pedalign.a import other
from collections.abc import Sequence


def loss(margin: float, beta: float = 0.1) -> float:
    """The loss."""
    total: float = beta * margin  # of one pair
    if total > 0:
        raise UserError(f"{margin} is too large", "make it smaller")
    print(f"{total} so far", flush=True)
    return other(total, None)
'''


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """s.py imports loss.py, which imports a.py; d.py is imported by none."""
    for name, text in {
        "s.py": "from pedalign.loss import loss\n\nloss(1.0)\n",
        "pedalign/__init__.py": '"""A library."""\n',
        "pedalign/loss.py": FORMULA,
        "pedalign/a.py": "def other(*values):\n    return 0\n",
        "pedalign/d.py": "x = 1\n",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path / "s.py"


def rewritten(script: Path, old: str, new: str, file: str = "pedalign/loss.py") -> str:
    path = script.parent / file
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    module.cache_clear()
    return digest(script)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("  # of one pair", ""),
        ('"""The loss."""', '"""The loss of arXiv 2305.18290, equation 7."""'),
        ('    """The loss."""\n', ""),
        ('"""What it is."""', '"""What it was."""'),
        ("margin: float, beta: float = 0.1) -> float", "margin, beta: int = 0.1)"),
        ("total: float =", "total ="),
        ("from collections.abc import Sequence\n", "from typing import Any\n"),
        ("is too large", "exceeds the limit of {beta}"),
        ("make it smaller", "choose another"),
        (" so far", " until now"),
        ("beta * margin", "(beta  *  margin)"),
        ("import other\nfrom", "import other\n\nfrom"),
    ],
)
def test_what_people_read_does_not_count(tree, old, new) -> None:
    assert digest(tree) == rewritten(tree, old, new)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("beta * margin", "beta + margin"),
        ("= 0.1", "= 0.2"),
        ("total > 0", "total > 1"),
        ("total > 0", "total > 0.0"),
        ("other(total, None)", "other(total, False)"),
        ("other(total, None)", "other(total, 0)"),
        ("other(total, None)", 'other(total, "")'),
        ("return other", "other"),
        ("import other", "import other as max"),
        ("total", "product"),  # a renamed variable: it may be read by name elsewhere, so it counts
    ],
)
def test_what_computes_counts(tree, old, new) -> None:
    assert digest(tree) != rewritten(tree, old, new)


def test_a_text_that_is_printed_into_a_file_counts(tree) -> None:
    before = rewritten(tree, "flush=True", "file=open('a.csv', 'w')")
    assert before != rewritten(tree, " so far", " until now")


def test_types_of_a_classs_fields_count_as_they_may_decide_what_is_read(tree) -> None:
    rewritten(tree, "return 0", "return 0\n\n\nclass Settings:\n    epochs: int = 3", "pedalign/a.py")
    assert digest(tree) != rewritten(tree, "epochs: int", "epochs: float", "pedalign/a.py")


def test_only_modules_that_are_imported_count(tree) -> None:
    assert digest(tree) == rewritten(tree, "x = 1", "x = 2", "pedalign/d.py")
    assert digest(tree) != rewritten(tree, "return 0", "return 1", "pedalign/a.py")


def test_a_moved_and_renamed_module_changes_nothing(tree) -> None:
    before = digest(tree), code(tree)
    package = tree.parent / "pedalign/training/deep"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text('"""A room."""\n')
    (package.parent / "__init__.py").write_text("")
    (tree.parent / "pedalign/a.py").rename(package / "parts.py")
    assert before[0] == rewritten(tree, "pedalign.a import", "pedalign.training.deep.parts import")
    assert changed(before[1], code(tree)) == []
    assert "pedalign/training/deep/parts.py" in code(tree)


def test_the_same_name_from_another_module_counts(tree) -> None:
    rewritten(tree, "return 0", "return 0\n\n\nimport pedalign.d", "pedalign/a.py")
    before = rewritten(tree, "x = 1", "def other(*values):\n    return 2", "pedalign/d.py")
    assert before != rewritten(tree, "from pedalign.a", "from pedalign.d")


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("from pedalign.a import x", ["a"]),
        ("import pedalign.a", ["a"]),
        ("import pedalign.a as b, os", ["a"]),
        ("from pedalign import a", ["a"]),
        ("from pedalign import d, a", ["a", "d"]),
        ("from pedalign.room.inner import f", ["inner", "room"]),
        ("from pedalign.room import inner", ["inner", "room"]),
        ("from pedalign.room import value", ["room"]),
    ],
)
@pytest.mark.parametrize("indent", ["", "    "])
def test_a_module_is_found_however_and_wherever_it_is_imported(tree, line: str, found: list[str], indent: str) -> None:
    room = tree.parent / "pedalign/room"
    room.mkdir()
    (room / "__init__.py").write_text("value = 1\n")
    (room / "inner.py").write_text("def f():\n    pass\n")
    tree.write_text(f"def main():\n    pass\nif True:\n{indent or '  '}{line}\n")
    modules = [path.parent.name if path.stem == "__init__" else path.stem for path in imported_files(tree)]
    assert sorted(modules) == sorted([*found, "s"])


def test_relative_imports_are_followed(tree) -> None:
    room = tree.parent / "pedalign/room"
    room.mkdir()
    (room / "__init__.py").write_text("")
    (room / "inner.py").write_text("from ..a import other\nfrom . import beside\nfrom .beside import y\n")
    (room / "beside.py").write_text("y = 1\n")
    tree.write_text("from pedalign.room.inner import other\n")
    assert [path.name for path in imported_files(tree)] == ["a.py", "beside.py", "inner.py", "s.py"]


def test_files_that_a_script_reads_count_by_their_bytes(tree) -> None:
    page = tree.with_name("page.html")
    page.write_text("<p>")
    before = digest(tree, page)
    page.write_text("<br>")
    assert len({before, digest(tree, page), digest(tree)}) == 3


def test_what_is_kept_of_a_call_is_taken_by_the_next_one_for_the_same_bytes_alone(tree, monkeypatch) -> None:
    monkeypatch.chdir(tree.parent)
    kept = Path(".snakemake/code_digests.json")
    kept.parent.mkdir()

    def asked() -> str:
        module.cache_clear()
        code_digest._known.cache_clear()
        return digest(tree)

    first = asked()
    found = json.loads(kept.read_text())
    assert len(found["modules"]) == 4 and asked() == first
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(code_digest.ast, "parse", None)  # nothing is parsed again
        assert asked() == first
    (tree.parent / "pedalign/a.py").write_text("def other(*values):\n    return 1\n")
    changed = asked()
    assert changed != first
    spoilt = {name: ["0" * 16, names] for name, (_, names) in found["modules"].items()}
    kept.write_text(json.dumps({"by": "another Python", "modules": spoilt}))
    assert asked() == changed
    kept.write_text("no JSON")
    assert asked() == changed


def test_modules_that_cannot_change_a_result_are_there_and_do_not_count(root) -> None:
    script = root / "scripts/sft.py"
    for name in NO_INFLUENCE:
        assert (root / f"scripts/pedalign/{name.replace('.', '/')}.py").is_file()
    counted = {file.removesuffix(".py").removeprefix("pedalign/").replace("/", ".") for file in code(script)}
    assert not counted & set(NO_INFLUENCE)
    assert {"training.loop", "models.prompt_format", "sft"} <= counted and "evaluation.metrics" not in counted
    everything = {path.stem for path in imported_files(script, all_of_them=True)}
    assert {"progress", "errors", "trackers"} <= everything


# What the code of stages imports from the modules above. Nothing of it goes into an artifact, save what tells of the
# artifact itself: its record, a checkpoint's manifest, the versions and the commit at the report's foot.
WITHOUT_INFLUENCE = {
    "core.errors": {"UserError", "argument_parser", "nearest", "run"},
    "core.progress": {"Progress", "download_bar"},
    "core.time_spent": {"begin"},
    "core.provenance": {
        *("folder_hashes", "git_commit", "read_record", "record", "verified", "versions", "write_manifest"),
    },
    "core.code_digest": {"digest"},  # training states of other code are not gone on with
    "data.pair_warnings": {"one_sided"},
    "training.trackers": {"trackers"},
    "training.trainer_arguments": {"check_trainer"},
    "generation.vllm_environment": {"vllm_python"},
}
STAGES = ("base", "audit", "adopt", "sft", "generate", "gather", "pair", "reference", "align", "score")
STAGES += ("perplexity", "compare", "split", "simulate", "summarize", "card", "report")


def test_from_a_module_that_does_not_count_comes_nothing_that_could_change_an_artifact(root) -> None:
    for stage in STAGES:
        for path in imported_files(root / f"scripts/{stage}.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.ImportFrom) and (node.module or "").removeprefix("pedalign.") in NO_INFLUENCE:
                    allowed = WITHOUT_INFLUENCE[node.module.removeprefix("pedalign.")]
                    assert {alias.name for alias in node.names} <= allowed, f"{path.name} imports from {node.module}"


def commented(text: str) -> str:
    lines = (f"{line}  # one more" if line.strip() == "pass" or line == ")" else line for line in text.splitlines())
    return "\n".join(["# a new first line", *lines, "", "# the end"]) + "\n"


def undocumented(text: str) -> str:
    """Without comments, docstrings and formatting of its own, as Python writes it."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node):
            node.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(tree)


@pytest.mark.parametrize("change", [commented, undocumented])
def test_no_stages_digest_changes_with_comments_and_docstrings(root, tmp_path, change: Callable[[str], str]) -> None:
    """Of every script and module as they are."""
    copy = tmp_path / "scripts"
    shutil.copytree(root / "scripts", copy, ignore=shutil.ignore_patterns("__pycache__"))
    before = {path.stem: digest(path) for path in copy.glob("*.py")}
    for path in copy.rglob("*.py"):
        text = path.read_text()
        path.write_text(change(text))
    module.cache_clear()
    after = {path.stem: digest(path) for path in copy.glob("*.py")}
    assert len(before) > 20 and [name for name in before if before[name] != after[name]] == []
