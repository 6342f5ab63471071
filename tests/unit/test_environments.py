"""A rule's environment has what its script imports."""

import ast
import functools
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import yaml
from local_server import Server, serving

from pedalign.core.code_digest import imported_files
from pedalign.core.provenance import PACKAGES

ROOT = Path(__file__).parents[2]
RULES = "\n".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "rules").glob("*.smk")))
ENVIRONMENTS = dict(
    re.findall(r'^rule (\w+):.*?^    conda:\n\s+"\.\./envs/(\w+)\.yaml"', RULES, re.MULTILINE | re.DOTALL)
)
SCRIPTS = {"import_bank": "simulate"}  # of rules that do not call the script of their name
ELSEWHERE = {"vllm"}  # in an environment of its own (make vllm)
# Parts of a library that come with a package that is pinned under another name.
COMES_WITH = dict.fromkeys(("huggingface_hub", "safetensors", "tokenizers"), "transformers")
COMES_WITH["pydantic_core"] = "pydantic"


def pinned(environment: str) -> set[str]:
    content = yaml.safe_load((ROOT / f"envs/{environment}.yaml").read_text(encoding="utf-8"))
    (pip,) = [one["pip"] for one in content["dependencies"] if isinstance(one, dict)]
    return {line.partition("==")[0].lower() for line in pip}


@functools.cache
def _distributions() -> Mapping[str, list[str]]:
    return packages_distributions()


def imported(path: Path) -> set[str]:
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module}
    return {name.partition(".")[0] for name in names} - sys.stdlib_module_names - {"pedalign"} - ELSEWHERE


@pytest.mark.parametrize("rule", sorted(ENVIRONMENTS))
def test_the_environment_of_a_rule_holds_every_package_that_its_script_imports(rule: str) -> None:
    script = ROOT / f"scripts/{SCRIPTS.get(rule, rule)}.py"
    modules = {name for path in imported_files(script, all_of_them=True) for name in imported(path)}
    distributions = {COMES_WITH.get(name, _distributions()[name][0].lower()) for name in modules}
    assert distributions <= pinned(ENVIRONMENTS[rule])


def test_every_package_that_a_record_names_is_in_an_environment() -> None:
    assert {"sft", "align", "base", "score"} <= set(ENVIRONMENTS)
    assert set(PACKAGES) <= pinned("training") | pinned("data")


def installed(folder: Path, constraints: Path, names: set[str]) -> subprocess.CompletedProcess:
    """A new environment with these packages, installed as the Makefile does."""
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    pip = [str(folder / "bin/python"), "-m", "pip", "install", "--quiet", "--require-hashes"]
    subprocess.run([*pip, "--requirement", str(ROOT / "envs/pip.txt")], check=True)
    direct = folder / "direct.txt"
    direct.write_text("\n".join(sorted(names)))
    command = [*pip, "--constraint", str(constraints), "--requirement", str(direct)]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.slow
def test_a_data_stage_runs_with_nothing_but_its_environment_installed_by_hashes(tmp_path) -> None:
    answer = installed(tmp_path / "env", ROOT / "constraints.txt", pinned("data"))
    assert answer.returncode == 0, answer.stderr
    python = str(tmp_path / "env/bin/python")
    assert subprocess.run([python, "-c", "import torch"], capture_output=True).returncode != 0
    command = [python, "scripts/split.py", "datasets/simulated/bio-dataset-1.json", "--dataset", "bio"]
    given = ["--rubric", "datasets/rubrics/class.yaml", "--output", str(tmp_path / "data")]
    settings = ["--settings", '{"sft": 2, "dpo": 2, "test": 2, "seed": 1}']
    subprocess.run([*command, *given, *settings], cwd=ROOT, check=True)
    assert (tmp_path / "data/bio-sft.json").is_file()


@pytest.mark.slow
def test_a_package_with_another_content_is_not_installed(tmp_path) -> None:
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    (pyyaml,) = re.findall(r"^pyyaml==(?:.*\\\n)+.*\n", text, re.MULTILINE)
    spoiled = re.sub("sha256:.{8}", f"sha256:{'0' * 8}", pyyaml)
    (tmp_path / "constraints.txt").write_text(text.replace(pyyaml, spoiled), encoding="utf-8")
    (tmp_path / "direct.txt").write_text("pyyaml")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--require-hashes", "--target", str(tmp_path / "env")]
    command = [*pip, "--constraint", str(tmp_path / "constraints.txt"), "--requirement", str(tmp_path / "direct.txt")]
    answer = subprocess.run(command, capture_output=True, text=True)
    assert answer.returncode != 0 and not (tmp_path / "env").exists()
    assert "DO NOT MATCH THE HASHES" in answer.stderr


@pytest.mark.slow
def test_a_version_that_is_known_to_be_vulnerable_is_named(tmp_path) -> None:
    """`make vulnerabilities` with a database on this machine that speaks as https://api.osv.dev does."""
    known: dict[str, str] = {}  # package → where it is mended
    asked = set()

    class Database(Server):
        do_POST = Server.do_GET

        def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
            question = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            package = question["package"]
            asked.add((package["name"], question["version"]))
            if package["name"] not in known:
                return 200, {}, b"{}"
            events = [{"introduced": "0"}, {"fixed": known[package["name"]]}]
            affected = [{"package": package, "ranges": [{"type": "ECOSYSTEM", "events": events}]}]
            found = {"id": "GHSA-1", "summary": "bad", "details": "bad", "aliases": [], "affected": affected}
            return 200, {}, json.dumps({"vulns": [found]}).encode()

    for name in ("Makefile", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)

    def check(address: str) -> subprocess.CompletedProcess:
        settings = {"PIP_AUDIT_VULNERABILITY_SERVICE": "osv", "PIP_AUDIT_OSV_URL": f"{address}/v1/query"}
        command = ["make", "vulnerabilities", f"PYTHON={sys.executable}"]
        return subprocess.run(command, cwd=tmp_path, env={**os.environ, **settings}, capture_output=True, text=True)

    with serving(Database) as address:
        answer = check(address)
        assert answer.returncode == 0, answer.stderr
        everywhere = re.findall(r"^([\w.-]+)==([\w.]+) \\$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
        assert len(everywhere) > 150
        assert set(everywhere) <= asked
        known["jinja2"] = "99"
        answer = check(address)
        assert answer.returncode != 0
        assert re.search(r"^jinja2 +\S+ +GHSA-1 +99", answer.stdout, re.MULTILINE), answer.stdout + answer.stderr
    assert check(address).returncode != 0  # it answers no more
