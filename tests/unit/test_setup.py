"""What `make` installs: for a run what it needs, the development tools for tests; and what it says of it."""

import ast
import os
import re
import runpy
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
TOOLS = PROJECT["optional-dependencies"]["test"]
INSTALL = runpy.run_path(str(ROOT / "envs/install.py"))


def direct(*extras: str) -> list[str]:
    command = [sys.executable, "envs/direct.py", *extras]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.splitlines()


def test_a_run_gets_its_dependencies_and_no_development_tools() -> None:
    run = direct()
    assert set(PROJECT["dependencies"]) <= set(run) and not set(TOOLS) & set(run)
    assert direct("test") == [*PROJECT["dependencies"], *TOOLS, *run[len(PROJECT["dependencies"]) :]]


def test_no_script_imports_a_development_tool() -> None:
    tools = {line.partition("==")[0] for line in TOOLS}
    theirs = {module for module, names in packages_distributions().items() if {name.lower() for name in names} & tools}
    for path in (ROOT / "scripts").rglob("*.py"):
        nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
        names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
        names |= {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module}
        assert not {name.partition(".")[0] for name in names} & theirs, path


def planned(folder: Path, *arguments: str) -> str:
    answer = subprocess.run(["make", "-n", *arguments], cwd=folder, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """What the Makefile looks at, as it was a day ago, and an environment's folder without any marker."""
    (tmp_path / ".venv").mkdir()
    (tmp_path / "envs").mkdir()
    for name in ("Makefile", "pyproject.toml", "constraints.txt", "envs/pip.txt"):
        shutil.copy(ROOT / name, tmp_path / name)
        os.utime(tmp_path / name, (1e9, 1e9))
    return tmp_path


@pytest.mark.parametrize("target", ["run", "chat", "readme"])
def test_targets_of_users_install_no_development_tools(checkout, target) -> None:
    told = planned(checkout, target)
    assert "envs/install.py\n" in told and "envs/install.py test" not in told


def test_targets_that_use_a_development_tool_install_them(checkout) -> None:
    rules = re.findall(r"^([a-z-][a-z0-9-]*):(.*)\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    tools = re.compile(r"pytest -|ruff check|screenshots\.py|uv pip")
    users = {name: needs for name, needs, recipe in rules if tools.search(recipe)}
    assert {"test", "lint", "test-browser", "lock"} <= set(users)
    assert {name: needs.strip() for name, needs in users.items()} == dict.fromkeys(users, ".venv/developed")


def test_an_environment_of_before_is_kept_and_gets_the_second_marker_when_it_is_tested(checkout) -> None:
    (checkout / ".venv/installed").touch()
    assert "install.py" not in planned(checkout, "run")
    assert "envs/install.py test" in planned(checkout, "test")


@pytest.mark.parametrize(
    ("environment", "program", "chosen"),
    [
        ({}, None, "cpu"),
        ({}, "nvidia-smi", "cuda"),
        ({}, "sbatch", "cuda"),
        ({"CUDA_VISIBLE_DEVICES": "0"}, None, "cuda"),
        ({"CUDA_VISIBLE_DEVICES": ""}, None, "cpu"),
        ({"TORCH": "cpu"}, "nvidia-smi", "cpu"),
        ({"TORCH": "cuda"}, None, "cuda"),
    ],
)
def test_pytorch_has_cuda_where_there_is_a_gpu_or_slurm_or_it_is_asked_for(
    tmp_path, environment, program, chosen
) -> None:
    if program:
        (tmp_path / program).touch(mode=0o755)
    assert INSTALL["choice"]({"PATH": str(tmp_path), **environment})[0] == chosen


def test_another_word_for_pytorch_is_refused() -> None:
    with pytest.raises(SystemExit, match="TORCH=gpu\n  fix: make TORCH=cpu"):
        INSTALL["choice"]({"TORCH": "gpu"})


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("  Downloading torch-2.13.0-cp311-cp311-manylinux_2_28_x86_64.whl (526.6 MB)\n", "    torch: 527 MB"),
        (
            "Downloading nvidia_cublas-13.1.1.3-py3-none-manylinux_2_27_x86_64.whl (0.6 GB)\n",
            "    nvidia_cublas: 600 MB",
        ),
        ("Using cached pyyaml-6.0.3-cp311-cp311-manylinux2014_x86_64.whl (806 kB)\n", None),
        ("Collecting jinja2==3.1.6\n", None),
        ("Installing collected packages: a, b, c\n", "    unpacking 3 packages"),
    ],
)
def test_of_pips_lines_large_downloads_and_the_unpacking_are_told(line, told) -> None:
    assert INSTALL["told"](line) == told


def test_of_a_pip_that_fails_is_told_what_it_said(capfd) -> None:
    with pytest.raises(subprocess.CalledProcessError):
        INSTALL["fetch"]([sys.executable, "-c", "print('ERROR: no space'); raise SystemExit(1)"])
    assert "ERROR: no space" in capfd.readouterr().err
