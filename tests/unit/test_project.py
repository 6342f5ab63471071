"""The configuration, the pins, and files that appear whole or not at all."""

import ast
import re
import runpy
import tomllib
from pathlib import Path
from typing import get_args

import pytest
import yaml

from pedalign.core.artifacts import read_csv, read_json, whole_directory, write_columns, write_csv, write_text
from pedalign.core.section import read
from pedalign.workflow.config import Config
from pedalign.workflow.model_settings import Generate, Model
from pedalign.workflow.policies import Policy, parse_policy

ROOT = Path(__file__).parents[2]


@pytest.fixture
def config():
    return yaml.safe_load((ROOT / "config.yaml").read_text())


def test_the_shipped_config_is_valid(config):
    read(Config, config, "config")


def test_a_policys_name_says_algorithm_beta_and_seed():
    for beta, seed, name in (
        (0.1, 42, "dpo-b0.1"),
        (1, 42, "dpo-b1"),
        (0.05, 7, "dpo-b0.05-s7"),
        (0.5, 42, "dpo-b0.5"),
    ):
        assert Policy("dpo", beta, seed).name(42) == name
        assert parse_policy(name, 42) == Policy("dpo", beta, seed)


def test_the_templates_and_engines_that_a_config_may_name_are_those_that_there_are():
    from pedalign.generation.engines import ALONE, ENGINES, VLLM
    from pedalign.models.templates import AUTO, END_TOKENS

    assert set(get_args(Model.model_fields["template"].annotation)) == {AUTO, *END_TOKENS}
    assert set(get_args(Generate.model_fields["engine"].annotation)) == {"auto", VLLM, *ENGINES} - {ALONE}


PACKAGES = (
    *("core", "data", "models", "training", "generation", "evaluation", "reporting", "cluster", "chat", "benchmarks"),
    "workflow",
)
"""What is in one of them may import what is in those before it."""


def imports(path: Path) -> set[str]:
    """The packages of the library that a module imports."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    names = {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module}
    names |= {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return {name.split(".")[1] for name in names if name.startswith("pedalign.")}


def test_a_package_of_the_library_imports_only_those_before_it():
    library = ROOT / "scripts/pedalign"
    assert {path.name for path in library.iterdir() if path.is_dir() and path.name != "__pycache__"} == set(PACKAGES)
    for at, package in enumerate(PACKAGES):
        modules = list((library / package).rglob("*.py"))
        assert len(modules) > 2
        for path in modules:
            assert imports(path) <= set(PACKAGES[: at + 1]), path


def test_no_module_lies_in_the_librarys_own_folder_and_every_package_says_what_is_in_it():
    library = ROOT / "scripts/pedalign"
    assert [path.name for path in library.glob("*.py")] == ["__init__.py"]
    for path in library.rglob("__init__.py"):
        assert ast.get_docstring(ast.parse(path.read_text())), path


def requirements(lines: list[str]) -> dict[str, str]:
    pins = (re.fullmatch(r"([A-Za-z0-9_.-]+)==(\S+)( \\)?", line) for line in lines)
    return {match[1].lower(): match[2] for match in pins if match}


def test_the_pins_of_the_environments_and_constraints_agree_with_pyproject():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    listed = [*project["dependencies"], *project["optional-dependencies"]["test"]]
    pins = requirements(listed)
    assert len(pins) == len(listed), "every dependency is pinned exactly"
    constraints = requirements((ROOT / "constraints.txt").read_text().splitlines())
    assert {name: constraints.get(name) for name in pins} == pins
    environments = sorted((ROOT / "envs").glob("*.yaml"))
    assert environments
    for path in environments:
        pip = next(one["pip"] for one in yaml.safe_load(path.read_text())["dependencies"] if isinstance(one, dict))
        for name, version in requirements(pip).items():
            assert pins[name] == version, f"{path.name}: {name}"


def test_a_failed_write_leaves_what_was_there(tmp_path):
    file = tmp_path / "a.txt"
    write_text(file, "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(file, "new \ud800")
    assert file.read_text() == "old"
    folder = tmp_path / "folder"
    with whole_directory(folder) as temporary:
        (temporary / "x").write_text("old")
    with pytest.raises(RuntimeError), whole_directory(folder) as temporary:
        (temporary / "x").write_text("new")
        raise RuntimeError
    assert (folder / "x").read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.txt", "folder"]


def test_tables_and_columns_come_back_as_they_were_written(tmp_path):
    texts = ['"quoted", and\nnew line', "=SUM(A1)", "é\u2028ü", "", "a\r\nb"]
    write_csv(tmp_path / "a.csv", ("text", "number"), [(text, 1) for text in texts])
    assert [row["text"] for row in read_csv(tmp_path / "a.csv")] == texts
    write_columns(tmp_path / "a.json", {"text": texts, "none": []})
    assert read_json(tmp_path / "a.json") == {"text": texts, "none": []}


@pytest.mark.parametrize("script", sorted((ROOT / "scripts").glob("*.py")), ids=lambda path: path.stem)
def test_every_script_tells_how_it_is_called(script, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", [str(script), "--help"])
    monkeypatch.syspath_prepend(script.parent)
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(script), run_name="__main__")
    assert ended.value.code == 0
    said = capsys.readouterr().out
    for word in ("Reads", "Writes", f"python scripts/{script.name}"):
        assert word in said
