"""Entries of the catalogue are filled in from defaults, presets and other entries."""

from pathlib import Path
from typing import Any

import pytest

from pedalign.workflow.calls import read_config
from pedalign.workflow.model_settings import Model

SHIPPED = Path(__file__).parents[2] / "config.yaml"


def model(name: str, models: dict[str, Any], **more: Any) -> Model:
    return read_config({"models": models, **more}, SHIPPED).models[name]


def test_a_model_is_a_path_and_a_preset() -> None:
    made = model("mine", {"mine": {"path": "my/folder", "preset": "laptop"}})
    assert (made.path, made.template, made.dtype, made.instruction) == ("my/folder", "auto", "float32", "compact")
    assert made.adapter and made.adapter.rank == 16 and made.resources.sft.gpu == "up to 1"


def test_what_an_entry_gives_comes_before_the_entry_it_is_like_its_preset_and_the_defaults() -> None:
    own = {"like": "other", "preset": "small", "path": "a", "sft": {"epochs": 7}}
    other = {"path": "b", "preset": "lora", "sft": {"epochs": 5, "warmup": 0.2}}
    defaults = {"sft": {"epochs": 4, "warmup": 0.4}, "allow_truncation": True, "dtype": "float32"}
    made = model("own", {"own": own, "other": other}, defaults=defaults)
    assert (made.sft.epochs, made.sft.warmup, made.path) == (7, 0.2, "a")
    assert made.adapter and made.adapter.rank == 16  # by the entry that it is like
    assert not made.allow_truncation and made.dtype == "bfloat16"  # by the presets, which say so
    plain = {"path": "c", **{key: value for key, value in made.as_dict.items() if key in ("generate", "resources")}}
    assert model("plain", {"plain": {**plain, "preset": "small"}}, defaults={"aligned": {"dpo-b0.1": "x"}}).aligned


def test_defaults_of_the_entry_that_it_is_like_do_not_come_before_its_own_preset() -> None:
    entries = {"own": {"like": "other", "preset": "mine"}, "other": {"path": "a", "preset": "lora"}}
    more = {"defaults": {"attn_implementation": "eager"}, "presets": {"mine": {"attn_implementation": "sdpa"}}}
    assert model("own", entries, **more).attn_implementation == "sdpa"
    assert model("other", entries, **more).attn_implementation == "eager"


def test_null_takes_away_what_a_preset_gives() -> None:
    assert model("mine", {"mine": {"path": "a", "preset": "lora", "adapter": None}}).adapter is None


def test_an_entry_of_the_catalogue_gets_another_preset_from_another_file() -> None:
    made = model("mistral-7b", {"mistral-7b": {"preset": "lora"}})
    assert made.adapter and made.resources.sft.gpu == 1 and made.path == "mistralai/Mistral-7B-Instruct-v0.2"


def test_an_entry_like_one_from_scratch_starts_from_its_own_path() -> None:
    made = model("mine", {"mine": {"like": "tiny", "path": "a"}})
    assert (made.path, made.init, made.architecture, made.sft.epochs) == ("a", None, None, 3.25)
    assert model("mine", {"mine": {"like": "tiny", "sft": {"epochs": 1}}}).init == "scratch"


def test_an_entry_with_its_own_path_has_no_tutors_of_the_entry_that_it_is_like() -> None:
    other = {"path": "a", "preset": "lora", "sft": "a/tutor", "aligned": {"dpo-b0.1": "a/aligned"}}
    made = model("own", {"own": {"like": "other", "preset": "lora", "path": "b"}, "other": other})
    assert not isinstance(made.sft, str) and made.aligned is None
    assert model("same", {"same": {"like": "other"}, "other": other}).sft == "a/tutor"


def test_a_preset_of_ones_own_changes_one_value_of_another() -> None:
    given = {"presets": {"laptop": {"sft": {"epochs": 2}}}, "models": {"mine": {"path": "a", "preset": "laptop"}}}
    made = read_config(given, SHIPPED).models["mine"]
    assert made.sft.epochs == 2 and made.sft.learning_rate == 5e-4


@pytest.mark.parametrize("name", ["full", "lora", "small", "laptop"])
def test_each_preset_is_whole(name: str) -> None:
    made = model("mine", {"mine": {"path": "a", "preset": name}})
    assert made.align and made.sft.scheduler == "cosine"


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"path": "a", "preset": "labtop"}, ["models.mine.preset: is 'labtop'", "did you mean 'laptop'?"]),
        ({"path": "a", "preset": 3}, ["models.mine.preset: is 3", "valid: full"]),
        ({"path": "a", "preset": ["laptop"]}, ["models.mine.preset: is ['laptop']"]),
        ({"like": "tyny"}, ["models.mine.like: is 'tyny'", "did you mean 'tiny'?"]),
        ({"like": "mine"}, ["models.mine.like: is like itself: mine → mine", "name another entry"]),
        ({"like": 7}, ["models.mine.like: is 7"]),
        ({"like": "second"}, ["models.second.like: is like itself: mine → second → mine"]),
        ({"path": "a"}, ["models.mine: key 'instruction' is missing"]),
        ({"preset": "laptop"}, ["models.mine: has no model to start from", "'path'"]),
        ({"path": "a", "preset": "laptop", "sfd": {}}, ["models.mine: unknown key 'sfd'", "did you mean 'sft'?"]),
        ([], ["models.mine: is [] (list)"]),
    ],
)
def test_what_cannot_be_filled_in_is_named(refused, entry: object, words: list[str]) -> None:
    with refused("config: ", *words):
        model("mine", {"mine": entry, "second": {"like": "mine"}})


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"presets": {"laptop": 3}}, ["presets.laptop: is 3", "an entry of 'models'"]),
        ({"defaults": [1]}, ["defaults: is [1] (list)", "keys with values"]),
        ({"defaults": {"preset": "lora"}}, ["defaults: has the key 'preset'", "only entries of 'models'"]),
        ({"presets": {"mine": {"like": "tiny"}}}, ["presets.mine: has the key 'like'"]),
        ({"models": {"m" * 101: {}}}, ["is not allowed", "at most 100"]),
        ({"models": [1]}, ["models: is [1] (list)"]),
    ],
)
def test_what_is_no_mapping_is_named(refused, more: dict[str, Any], words: list[str]) -> None:
    with refused("config: ", *words):
        read_config(more, SHIPPED)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"presets": {"laptop": {"sft": {"epochs": -1}}}}, ["presets.laptop.sft.epochs: is -1"]),
        ({"presets": {"laptop": {"sft": {"epoch": 1}}}}, ["presets.laptop.sft: unknown key 'epoch'"]),
        ({"presets": {"laptop": {"sfd": {}}}}, ["presets.laptop: unknown key 'sfd'"]),
        ({"presets": {"laptop": {3: 1}}}, ["presets.laptop: unknown key '3'"]),
        ({"presets": {"laptop": {"": 1}}}, ["presets.laptop: unknown key ''"]),
        ({"presets": {"laptop": {"adapter": {"targets": ["a", 3]}}}}, ["presets.laptop.adapter.targets[1]: is 3"]),
        ({"defaults": {"aligned": 3}}, ["defaults.aligned: is 3"]),
        ({"models": {"other": {"sft": {"epochs": -1}}}}, ["models.other.sft.epochs: is -1"]),
        ({"models": {"mine": {"sft": {"epochs": -1}}}}, ["models.mine.sft.epochs: is -1"]),
    ],
)
def test_a_mistake_is_told_where_it_was_made(refused, more: dict[str, Any], words: list[str]) -> None:
    other = {"path": "a", "preset": "laptop", **more.get("models", {}).get("other", {})}
    mine = {"like": "other", **more.get("models", {}).get("mine", {})}
    with refused("config: ", *words):
        read_config({**more, "models": {"mine": mine, "other": other}}, SHIPPED)
