"""A script's settings, as its rule gives them and as people do."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from pedalign.core.settings import read_settings, settings_values


@dataclass(frozen=True)
class Settings:
    seed: int
    learning_rate: float = 1e-3
    training: dict | None = None


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.yaml", "seed: 7\nlearning_rate: 1.0e-5\ntraining: {epochs: 3}\n"),
        ("a.yml", '{"seed": 7, "learning_rate": 0.00001, "training": {"epochs": 3}}'),
        ("a.json", '{"seed": 7, "learning_rate": 1e-5, "training": {"epochs": 3}}'),
    ],
)
def test_a_file_gives_the_settings_that_a_json_object_gives(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    given = json.dumps({"seed": 7, "learning_rate": 1e-5, "training": {"epochs": 3}})
    assert (
        read_settings(Settings, str(tmp_path / name))
        == read_settings(Settings, given)
        == Settings(7, 1e-5, {"epochs": 3})
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("seed: 7\nlearning-rate: 3\n", ["unknown key 'learning-rate'", "did you mean 'learning_rate'?"]),
        ("learning_rate: 0.1\n", ["--settings: key 'seed' is missing", "seed, learning_rate"]),
        ("seed: '2024'\n", ["--settings: seed: is '2024' (text)", "give an integer"]),
        ("seed: 7\ntraining: [1]\n", ["--settings: training: is [1] (list)", "give keys with values"]),
        ("- 7\n", ["no names and values"]),
        ("seed: 7\nlearning_rate: 1e-5\n", ["learning_rate: '1e-5' is text to YAML", "write 1.0e-05"]),
        ("seed: 7\ntraining: {learning_rate: 2e-5}\n", ["training.learning_rate: '2e-5' is text", "write 2.0e-05"]),
        ("seed: 7\nlearning_rate: 125e-7\n", ["'125e-7' is text to YAML", "write 1.25e-05"]),
        ("seed: {7\n", ["not YAML"]),
    ],
)
def test_what_is_wrong_in_a_file_is_named(tmp_path: Path, refused, text: str, words: list[str]) -> None:
    (tmp_path / "a.yaml").write_text(text)
    with refused(*words):
        read_settings(Settings, str(tmp_path / "a.yaml"))


def test_what_is_neither_a_file_nor_json_is_refused(refused) -> None:
    with refused("nowhere.yaml"):
        settings_values("nowhere.yaml")
    with refused("--settings: Expecting", "or one JSON object"):
        settings_values("{seed: 7}")
    with refused("no names and values"):
        settings_values("[1]")
