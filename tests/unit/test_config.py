"""A mistake in config.yaml is named by its key and place, and the names of artifacts say what was configured."""

import copy
import re
from pathlib import Path

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pedalign.core.config import SCHEMA, Policy, algorithms, parse_policy, policy_name, validate

ROOT = Path(__file__).parents[2]
SHIPPED = yaml.safe_load((ROOT / "config.yaml").read_text(encoding="utf-8"))


def changed(path: str, value: object) -> dict:
    config = copy.deepcopy(SHIPPED)
    *parents, last = path.split(".")
    place = config
    for parent in parents:
        place = place[parent]
    place[last] = value
    return config


def property_names(schema: object) -> set[str]:
    if not isinstance(schema, dict):
        return set()
    here = schema.get("properties", {})
    return set(here).union(*(property_names(value) for value in [*schema.values(), *here.values()]))


def test_config_yaml_shows_every_key_that_the_schema_allows() -> None:
    text = (ROOT / "config.yaml").read_text(encoding="utf-8")
    names = property_names(yaml.safe_load(SCHEMA.read_text(encoding="utf-8")))
    assert {"dataset", "beta", "path", "runtime"} <= names
    assert [name for name in sorted(names) if not re.search(rf"\b{name}\b", text)] == []


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("spilts", {}, ["top level", "'spilts'", "did you mean 'splits'"]),
        ("models.tiny.sft.epoch", 3, ["models.tiny.sft", "'epoch'", "did you mean 'epochs'"]),
        ("splits.sft", "many", ["splits.sft", "'many'", "integer"]),
        ("splits", None, ["splits", "None", "object"]),
        ("splits.dpo", -1, ["splits.dpo", "-1", "minimum 1"]),
        ("splits.dpo", 120.0, ["splits.dpo", "120.0"]),
        ("seed", 42.0, ["seed", "42.0"]),
        ("models.tiny.sft.learning_rate", float("nan"), ["models.tiny.sft.learning_rate", "nan"]),
        ("simulation.malformed", 1, ["simulation.malformed", "exclusiveMaximum 1"]),
        ("dataset", "a/b", ["dataset", "a/b"]),
        ("runs", [], ["runs", "minItems 1"]),
        ("runs", [{"model": "tinny", "algorithm": "dpo", "beta": 0.1}], ["runs[0]", "'tinny'", "did you mean 'tiny'"]),
        ("runs", [{"model": "tiny", "algorithm": "dop", "beta": 0.1}], ["runs[0].algorithm", "did you mean 'dpo'"]),
        ("runs", [{"model": "tiny", "algorithm": "dpo"}], ["runs[0]", "'beta' is missing"]),
        ("models.tiny.template", "mistrl", ["models.tiny.template", "did you mean 'mistral'"]),
        ("models.tiny.path", "org/name", ["models.tiny", "'path'", "'init'"]),
    ],
)
def test_a_mistake_is_named_with_its_place_and_what_would_be_right(refused, path, value, words) -> None:
    with refused(*words):
        validate(changed(path, value))


@settings(deadline=None)
@given(
    algorithm=st.sampled_from(algorithms()),
    beta=st.floats(1e-7, 1e7) | st.integers(1, 10**7),
    seed=st.none() | st.integers(0, 2**32 - 1),
)
@example(algorithm="dpo", beta=0.00001, seed=None)
@example(algorithm="dpo", beta=0.1234567, seed=3)
def test_a_policys_name_says_exactly_what_its_run_says(algorithm, beta, seed) -> None:
    run = {"algorithm": algorithm, "beta": beta} | ({} if seed is None else {"seed": seed})
    assert parse_policy(policy_name(run, 42), 42) == Policy(algorithm, beta, 42 if seed is None else seed)


@pytest.mark.parametrize(
    "name", ["dpo", "dpo-b", "dpo-b0", "dpo-b-1", "dpo-b0.1-s", "dpo-b0.1-sx", "DPO-b0.1", "d/po-b1"]
)
def test_a_policy_of_another_form_is_refused(refused, name: str) -> None:
    with refused(f"'{name}'", "dpo-b0.1"):
        parse_policy(name, 42)
