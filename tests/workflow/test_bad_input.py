"""Bad input ends in two lines that say what, where and how to mend it; nothing is half-written."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

RECORD = {"id": "a", "conversations": [{"from": "human", "value": "Q. Why?"}, {"from": "gpt", "value": "{}"}] * 2}


def two_lines(text: str) -> str:
    """The message of a failed call: exactly an `error:` and a `mend:` line, and no traceback."""
    assert "Traceback" not in text
    lines = text.splitlines()
    start = next(at for at, line in enumerate(lines) if line.startswith("error: "))
    assert lines[start + 1].startswith("  mend: "), text
    assert len(lines) == start + 2, text
    return "\n".join(lines[start:])


CONFIGS = {
    "unknown key": ({"splitz": {}}, ["unknown key 'splitz'", "did you mean 'splits'?"]),
    "unknown nested key": (
        {"models": {"tiny": {"sft": {"epoch": 3}}}},
        ["models.tiny.sft: unknown key 'epoch'", "did you mean 'epochs'?"],
    ),
    "negative split size": ({"splits": {"test": -1}}, ["splits.test: is -1", "minimum 1"]),
    "text for a number": ({"seed": "x"}, ["seed: is 'x'", "integer"]),
    "a value that is not among the allowed ones": (
        {"models": {"tiny": {"template": "mistrl"}}},
        ["models.tiny.template: is 'mistrl'", "did you mean 'mistral'?", "vicuna_v1.1"],
    ),
    "a model that is not in the catalogue": (
        {"runs": [{"model": "tyny", "algorithm": "dpo", "beta": 0.1}]},
        ["runs[0]: model 'tyny' is not in the catalogue", "did you mean 'tiny'?"],
    ),
    "beta of nought": ({"runs": [{"model": "tiny", "algorithm": "dpo", "beta": 0}]}, ["runs[0].beta: is 0"]),
    "an unknown algorithm": (
        {"runs": [{"model": "tiny", "algorithm": "dpoo", "beta": 1}]},
        ["runs[0].algorithm: is 'dpoo'", "did you mean 'dpo'?"],
    ),
    "a missing folder": ({"source": "nowhere"}, ["nowhere: no file bio-dataset-<n>.json there"]),
    "published data that is not there": ({"source": "published"}, ["datasets/published: no file bio-dataset"]),
    "a path and an architecture": ({"models": {"tiny": {"path": "x"}}}, ["models.tiny", "give either 'path', or"]),
}


@pytest.mark.parametrize("what", CONFIGS)
def test_a_bad_config_is_refused_before_anything_starts(what, checkout):
    config, expected = CONFIGS[what]
    (checkout.path / "bad.yaml").write_text(yaml.safe_dump(config))
    answer = checkout.snakemake("--cores", "1", config="bad.yaml")
    assert answer.returncode != 0
    message = two_lines(answer.stderr)
    for part in expected:
        assert part in message
    assert not (checkout.path / "results").exists()


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("results/tyny/dpo-b0.1/test/metrics.json", "did you mean 'tiny'?"),
        ("results/tiny/dpo-0.1/test/metrics.json", "policy 'dpo-0.1' is not known"),
        ("results/tiny/dpq-b0.1/test/metrics.json", "did you mean 'dpo'?"),
    ],
)
def test_a_target_that_names_no_model_or_policy_is_refused(target, expected, checkout):
    answer = checkout.snakemake("--cores", "1", target)
    assert answer.returncode != 0
    assert expected in two_lines(answer.stderr)


def entries(*turns: tuple[str, str]) -> list[dict]:
    return [{**RECORD, "conversations": [{"from": who, "value": text} for who, text in turns]}]


FILES = {
    "not JSON": ('[\n  {"id": "a",}\n]', ["not JSON", "line 2, column"]),
    "not a list": ("{}", ["a JSON object, not a list"]),
    "no turns": (entries(), ["record 0 (id 'a')", "no turns"]),
    "the tutor first": (entries(("gpt", "x")), ["record 0 (id 'a')", "turn 0", "the tutor ('gpt') speaks first"]),
    "an unknown speaker": (entries(("human", "x"), ("bot", "x")), ["turn 1", "unknown speaker 'bot'", "human, gpt"]),
    "two turns in a row": (entries(("human", "x"), ("human", "y")), ["turn 1", "speaks twice in a row"]),
    "a turn without text": ([{"id": "a", "conversations": [{"from": "human"}]}], ["turn 0", "field 'value' is null"]),
    "a double id": ([RECORD, RECORD], ["record 1", "id 'a' is also the id of record 0"]),
    "no id": ([{"conversations": []}], ["record 0", "field 'id'"]),
    "splits larger than the data": ([RECORD], ["6 conversations wanted", "1 have more than two turns: 5 are missing"]),
    "no reply that can be read": (
        [{**RECORD, "id": str(number)} for number in range(6)],
        ["the sft split is empty", "CLASS"],
    ),
}


@pytest.mark.parametrize("what", FILES)
def test_a_bad_conversation_file_is_refused_and_nothing_is_written(what, tmp_path):
    content, expected = FILES[what]
    file = tmp_path / "own-dataset-1.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    answer = split(tmp_path, file)
    assert answer.returncode == 1
    message = two_lines(answer.stderr)
    for part in [*expected, str(file)] if "split is empty" not in message else expected:
        assert part in message
    assert not (tmp_path / "data").exists()


def test_a_missing_conversation_file_is_named(tmp_path):
    answer = split(tmp_path, tmp_path / "own-dataset-1.json")
    assert answer.returncode == 1
    assert "own-dataset-1.json: no such file" in two_lines(answer.stderr)


def split(folder: Path, file: Path) -> subprocess.CompletedProcess:
    root = Path(__file__).parents[2]
    command = [sys.executable, str(root / "scripts/split.py"), str(file), "--dataset", "own"]
    command += ["--rubric", str(root / "datasets/rubrics/class.yaml"), "--output", str(folder / "data")]
    command += ["--settings", json.dumps({"sft": 2, "dpo": 2, "test": 2, "seed": 1})]
    return subprocess.run(command, capture_output=True, text=True)
