"""A mistake in config.yaml is named by its key and place, and the names of artifacts say what was configured."""

import copy
import re
import typing
from collections.abc import Iterator
from pathlib import Path
from types import UnionType

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pedalign.core.section import Section, read
from pedalign.training.algorithms import ALGORITHMS
from pedalign.workflow.catalogue import filled_in
from pedalign.workflow.config import Config
from pedalign.workflow.policies import Policy, parse_policy, runs

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


def sections(kind: object = Config) -> Iterator[type[Section]]:
    """All that a config declares."""
    if isinstance(kind, type) and issubclass(kind, Section):
        yield kind
        for field in kind.model_fields.values():
            yield from sections(field.annotation)
    elif typing.get_origin(kind) is not None or isinstance(kind, UnionType):
        for part in typing.get_args(kind):
            yield from sections(part)


def test_config_yaml_shows_every_name_that_is_declared_and_each_has_a_meaning() -> None:
    text = (ROOT / "config.yaml").read_text(encoding="utf-8")
    names = {name for section in sections() for name in section.by_key()}
    assert {"dataset", "beta", "path", "runtime", "four_bit", "model_type"} <= names
    assert [name for name in sorted(names) if not re.search(rf"\b{name}\b", text)] == []
    for section in sections():
        for name, field in section.model_fields.items():
            own = isinstance(field.annotation, type) and issubclass(field.annotation, Section)
            assert field.description or own, f"{section.__name__}.{name}"


def test_a_value_that_is_left_out_is_the_one_that_config_yaml_shows() -> None:
    """So a config that names its runs and models alone is the shipped one."""
    short = {name: SHIPPED[name] for name in ("runs", "presets", "models")}
    assert read(Config, short, "config") == read(Config, SHIPPED, "config")


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("spilt", {}, ["top level", "'spilt'", "did you mean 'split'"]),
        ("splits", {}, ["top level", "'splits' has another name now", "write 'split'"]),
        ("models.tiny.generation", {}, ["models.tiny: 'generation' has another name now", "write 'generate'"]),
        ("models.tiny.sft.epoch", 3, ["models.tiny.sft", "'epoch'", "did you mean 'epochs'"]),
        ("split.sft", "many", ["split.sft", "'many'", "integer"]),
        ("split", None, ["split", "null", "keys with values"]),
        ("split.dpo", -1, ["split.dpo", "-1", "at least 1"]),
        ("split.dpo", 120.0, ["split.dpo", "120.0"]),
        ("seed", 42.0, ["seed", "42.0"]),
        ("seed", True, ["seed: is true", "integer"]),
        ("models.tiny.sft.learning_rate", float("nan"), ["models.tiny.sft.learning_rate", "nan"]),
        ("models.tiny.sft.learning_rate", "1e-5", ["models.tiny.sft.learning_rate: is '1e-5'", "1.0e-05"]),
        ("simulation.malformed", 1, ["simulation.malformed: is 1", "less than 1"]),
        ("dataset", "a/b", ["dataset", "a/b"]),
        ("dataset", "-a", ["dataset", "-a"]),
        ("models", {"a b": {}}, ["models: the key 'a b' is not allowed", "use letters"]),
        ("models", {}, ["models: is {}", "at least 1"]),
        ("trackers", ["wandb", "wandb"], ["trackers: is ['wandb', 'wandb']", "once"]),
        ("trackers", ["mlflow"], ["trackers[0]: is 'mlflow'", "tensorboard, wandb"]),
        ("checks.trained_share", [0.5], ["checks.trained_share: is [0.5]", "at least 2"]),
        ("runs", [], ["runs: is []", "list at least 1"]),
        ("runs", [{"model": "tiny", "algorithm": "dop", "beta": 0.1}], ["runs[0].algorithm", "did you mean 'dpo'"]),
        ("runs", [{"model": "tiny", "algorithm": "dpo"}], ["runs[0]", "'beta' is missing", "the reference model"]),
        ("runs", [{"model": "tiny", "algorithm": "dpo", "beta": [1, "x"]}], ["runs[0].beta[1]: is 'x'", "a number"]),
        ("models.tiny.template", "mistrl", ["models.tiny.template", "did you mean 'mistral'"]),
        ("models.tiny.path", "org/name", ["models.tiny", "'path'", "'init'"]),
        ("models.mistral-7b.path", None, ["models.mistral-7b: has no model to start from", "'path'", "'init'"]),
        ("models.tiny.sft", "", ["models.tiny.sft: is ''", "write a text"]),
        ("models.tiny.sft", [1], ["models.tiny.sft: is [1] (list)", "keys with values"]),
        ("models.tiny.align", None, ["models.tiny: key 'align' is missing"]),
        ("models.tiny.resources.align", None, ["models.tiny.resources: key 'align' is missing"]),
        ("models.tiny.resources.generate.gpu", 2, ["models.tiny.resources.generate.gpu: is 2", "'shards'"]),
        ("models.tiny.resources.sft.gpu", "up to 0", ["models.tiny.resources.sft.gpu: is 'up to 0'", "'up to 4'"]),
        ("models.tiny.generate.shards", 3, ["models.tiny.generate.shards: is 3", "max_batch_tokens a number"]),
        (
            "models.tiny.generate.min_new_tokens",
            900,
            ["models.tiny.generate.min_new_tokens: is 900", "at most max_new"],
        ),
        ("checks.trained_share", [0.9, 0.1], ["checks.trained_share: is [0.9, 0.1]", "least share first"]),
        ("runs", [{"model": "tiny", "algorithm": "dpo", "beta": 1e30}], ["runs[0].beta: is 1e+30", "at most"]),
        ("models.tiny.max_length", 8, ["models.tiny.max_length: is 8", "at least 16"]),
    ],
)
def test_a_mistake_is_named_with_its_place_and_what_would_be_right(refused, path, value, words) -> None:
    with refused(*words):
        read(Config, changed(path, value), "config")


def test_a_run_of_a_model_outside_the_catalogue_is_refused_with_the_nearest_name(refused) -> None:
    config = read(Config, changed("runs", [{"model": "tinny", "algorithm": "dpo", "beta": 0.1}]), "config")
    with refused("runs[0]", "'tinny'", "did you mean 'tiny'"):
        runs(config)


def test_numbers_stay_as_they_are_written() -> None:
    """So that equal settings are equal texts, whoever reads them."""
    config = read(Config, SHIPPED, "config")
    for name, entry in filled_in(SHIPPED)["models"].items():
        held = config.models[name].as_dict
        for stage in ("sft", "align"):
            assert [(value, type(value)) for value in held[stage].values()] == [
                (value, type(value)) for value in entry[stage].values()
            ]


@settings(deadline=None)
@given(
    algorithm=st.sampled_from(sorted(ALGORITHMS)),
    beta=st.floats(1e-7, 1e7) | st.integers(1, 10**7),
    seed=st.none() | st.integers(0, 2**32 - 1),
)
@example(algorithm="dpo", beta=0.00001, seed=None)
@example(algorithm="dpo", beta=0.1234567, seed=3)
def test_a_policys_name_says_exactly_what_its_run_says(algorithm, beta, seed) -> None:
    seed = 42 if seed is None else seed
    policy = Policy(algorithm, beta, seed)
    assert parse_policy(policy.name(42), 42) == policy


@pytest.mark.parametrize("name", ["dpo", "dpo-b", "dpo-b-1", "dpo-b0.1-s", "dpo-b0.1-sx", "DPO-b0.1", "d/po-b1"])
def test_a_policy_of_another_form_is_refused(refused, name: str) -> None:
    with refused(f"'{name}'", "dpo-b0.1"):
        parse_policy(name, 42)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("dpo-b0.10", "write dpo-b0.1"),
        ("dpo-b1.0-s42", "write dpo-b1"),
        ("dpo-b0.1-s07", "write dpo-b0.1-s7"),
        ("dpo-b0", "more than 0"),
        ("dpo-b100000000", "at most 10000000"),
        ("dpo-b0.1-s4294967296", "at most 4294967295"),
        ("dppo-b0.1", "did you mean 'dpo'?"),
    ],
)
def test_a_policys_name_that_no_run_has_is_refused(refused, name: str, words: str) -> None:
    with refused(f"'{name}'", words):
        parse_policy(name, 42)
