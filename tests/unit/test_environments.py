"""A rule's environment has what its script imports."""

import ast
import re
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import yaml

from pedalign.artifacts import PACKAGES
from pedalign.sources import script_sources

ROOT = Path(__file__).parents[2]
RULES = "\n".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "rules").glob("*.smk")))
ENVIRONMENTS = dict(
    re.findall(r'^rule (\w+):.*?^    conda:\n\s+"\.\./envs/(\w+)\.yaml"', RULES, re.MULTILINE | re.DOTALL)
)
ELSEWHERE = {"vllm"}  # in an environment of its own (make vllm)
# Parts of a library that come with a package that is pinned under another name.
COMES_WITH = dict.fromkeys(("huggingface_hub", "safetensors", "tokenizers"), "transformers")


def pinned(environment: str) -> set[str]:
    content = yaml.safe_load((ROOT / f"envs/{environment}.yaml").read_text(encoding="utf-8"))
    (pip,) = [one["pip"] for one in content["dependencies"] if isinstance(one, dict)]
    return {line.partition("==")[0].lower() for line in pip}


def imported(path: str) -> set[str]:
    nodes = list(ast.walk(ast.parse(Path(path).read_text(encoding="utf-8"))))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module}
    return {name.partition(".")[0] for name in names} - sys.stdlib_module_names - {"pedalign"} - ELSEWHERE


@pytest.mark.parametrize("rule", sorted(ENVIRONMENTS))
def test_the_environment_of_a_rule_holds_every_package_that_its_script_imports(rule: str) -> None:
    modules = {name for path in script_sources(ROOT / f"scripts/{rule}.py") for name in imported(path)}
    distributions = {COMES_WITH.get(name, packages_distributions()[name][0].lower()) for name in modules}
    assert distributions <= pinned(ENVIRONMENTS[rule])


def test_every_package_that_a_manifest_names_is_in_the_training_environment() -> None:
    assert {"finetune", "optimize", "base", "score"} <= set(ENVIRONMENTS)
    assert set(PACKAGES) <= pinned("training")
