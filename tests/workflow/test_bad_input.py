"""Bad input ends in two lines that say what, where and how to mend it; nothing is half-written."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from pedalign.artifacts import write_csv

ROOT = Path(__file__).parents[2]
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
    "an unknown way of drawing": ({"splits": {"method": "leekfree"}}, ["splits.method: is 'leekfree'", "leak_free"]),
    "a model that is not in the catalogue": (
        {"runs": [{"model": "tyny", "algorithm": "dpo", "beta": 0.1}]},
        ["runs[0]: model 'tyny' is not in the catalogue", "did you mean 'tiny'?"],
    ),
    "beta of nought": ({"runs": [{"model": "tiny", "algorithm": "dpo", "beta": 0}]}, ["runs[0].beta: is 0"]),
    "beta that is no number": (
        {"runs": [{"model": "tiny", "algorithm": "dpo", "beta": "high"}]},
        ["runs[0].beta: is 'high'", "number"],
    ),
    "one wrong beta in a list": (
        {"runs": [{"model": "tiny", "algorithm": "dpo", "beta": [0.1, -1]}]},
        ["runs[0].beta[1]: is -1"],
    ),
    "samples that would all be alike": (
        {"preferences": {"samples": 4}},
        ["preferences.samples: is 4", "tiny gives the likeliest reply", "preferences.temperature"],
    ),
    "leak-free splits by the paper's rules": (
        {"splits": {"method": "leak_free"}, "paper_rules": True},
        ["splits.method", "paper_rules draw at random"],
    ),
    "an unknown algorithm": (
        {"runs": [{"model": "tiny", "algorithm": "dpoo", "beta": 1}]},
        ["runs[0].algorithm: is 'dpoo'", "did you mean 'dpo'?"],
    ),
    "a missing folder": ({"source": "nowhere"}, ["nowhere: no file bio-dataset-<n>.json there"]),
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
    rubric = ("--rubric", "datasets/rubrics/class.yaml", "--output", folder / "data")
    return script(
        "split", file, "--dataset", "own", *rubric, "--settings", '{"sft": 2, "dpo": 2, "test": 2, "seed": 1}'
    )


def script(name: str, *arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / f"scripts/{name}.py"), *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_perplexity_without_a_file_of_pairs_is_refused(checkout):
    (checkout.path / "own").mkdir()
    (checkout.path / "own/bio-dataset-1.json").write_text(json.dumps([RECORD]))
    (checkout.path / "own.yaml").write_text(yaml.safe_dump({"source": "own"}))
    assert "perplexity" not in checkout.planned("--cores", "1", config="own.yaml")
    answer = checkout.snakemake("--cores", "1", "--", "results/tiny/sft/test/perplexity.json", config="own.yaml")
    assert answer.returncode != 0
    assert "own/bio-dataset-ppl.json: no such file" in two_lines(answer.stderr)


def test_perplexity_with_a_rubric_that_has_no_scaffolding_labels_is_refused(tmp_path):
    rubric = yaml.safe_load((ROOT / "datasets/rubrics/class.yaml").read_text())
    del rubric["scaffold_tell"]
    (tmp_path / "rubric.yaml").write_text(yaml.safe_dump(rubric))
    settings = {"rendering": {}, "dtype": "float32", "max_batch_tokens": 1, "resamples": 100, "seed": 1}
    answer = script(
        "perplexity",
        "datasets/simulated/bio-dataset-ppl.json",
        *("--model", "none", "--rubric", tmp_path / "rubric.yaml", "--output", tmp_path / "perplexity.json"),
        *("--settings", json.dumps({**settings, "paper_rules": False})),
    )
    assert answer.returncode == 1
    assert "has no 'scaffold_tell' pairs" in two_lines(answer.stderr)
    assert not (tmp_path / "perplexity.json").exists()


def test_a_tutor_without_mistakes_is_not_aligned(tmp_path):
    gold = {"Evaluation of Student Response": "a", "Action Based on Evaluation": "1", "Subproblem State": "x"}
    gold = json.dumps({**gold, "Subproblem": "Why?", "Tutorbot": "Look again."})
    row = {"conversation_id": "a", "turn": 0, "prompt": [], "chosen": [{"role": "assistant", "content": gold}]}
    (tmp_path / "rows.json").write_text(json.dumps([row]))
    header = ("response", "conversation_id", "turn", "sample")
    write_csv(tmp_path / "responses.csv", header, [(gold, "a", 0, 0)])
    outputs = ("--output", tmp_path / "preferences.json", "--counts", tmp_path / "counts.json")
    rubric = ("--rubric", "datasets/rubrics/class.yaml", "--settings", "{}")
    answer = script("pair", tmp_path / "rows.json", tmp_path / "responses.csv", *rubric, *outputs)
    assert answer.returncode == 1
    assert "all 1 responses agree with the gold labels" in two_lines(answer.stderr)
    assert not (tmp_path / "preferences.json").exists() and not (tmp_path / "counts.json").exists()
