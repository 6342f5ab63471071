"""A hundred bad inputs: each ends in two lines that say what, where and how to fix it; nothing is half-written."""

import contextlib
import gzip
import io
import json
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import forked
import pytest
import small
import yaml
from checkouts import Checkout, fresh_checkout

from pedalign.core.artifacts import write_csv
from pedalign.data.responses import READ
from pedalign.models.checkpoints import save_checkpoint
from pedalign.workflow.calls import read_config
from pedalign.workflow.plan import Plan

ROOT = Path(__file__).parents[2]
CLASS = "datasets/rubrics/class.yaml"
OLD = "what was there before"


def two_lines(text: str) -> str:
    """The message of a failed call: exactly an `error:` and a `fix:` line, and no traceback."""
    assert "Traceback" not in text, text
    lines = text.splitlines()
    start = next((at for at, line in enumerate(lines) if line.startswith("error: ")), None)
    assert start is not None, text
    assert lines[start + 1].startswith("  fix: "), text
    assert len(lines) == start + 2, text
    return "\n".join(lines[start:])


def refused_with(answer: subprocess.CompletedProcess, words: list[str]) -> None:
    assert answer.returncode != 0
    message = two_lines(answer.stderr)
    for word in words:
        assert word in message
    assert "secret" not in message


@pytest.fixture(scope="module")
def shared(tmp_path_factory) -> Checkout:
    """No case writes into it."""
    return fresh_checkout(tmp_path_factory.mktemp("bad") / "checkout")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--configfile", "nothing"], ["nothing: ", "follows --configfile", "there is no such file"]),
        (["--configfile", "README.md"], ["README.md: ", "follows --configfile", "neither JSON nor YAML (line "]),
        (["--config", "seed=7", "all"], ["all: ", "follows --config as a setting", "no name=value"]),
    ],
)
def test_a_target_that_snakemake_takes_for_settings_is_refused(shared, arguments, words):
    refused_with(shared.forked("--cores", "1", *arguments), [*words, "put targets first"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["splits"], ["splits: is called split now", "snakemake --cores all split"]),
        (["preferences"], ["preferences: is called pair now", "snakemake --cores all --until pair"]),
        (["--until", "finetune"], ["finetune: is called sft now", "write sft"]),
        (["--forcerun", "respond", "optimize"], ["respond: is called generate now"]),
        (["sft"], ["sft: as a target, it does not say of which model", "--until sft"]),
    ],
)
def test_a_rule_or_target_by_an_old_name_and_a_stage_as_a_target_are_told_what_to_write(shared, arguments, words):
    refused_with(shared.forked("--cores", "1", "--dry-run", *arguments), words)


def test_targets_after_two_dashes_are_targets(shared):
    answer = shared.forked("--cores", "1", "--dry-run", "--config", "seed=7", "--", "split")
    assert answer.returncode == 0 and "\nsplit results/data/bio-sft.json (" in answer.stdout + answer.stderr


def model(**changes: Any) -> dict[str, Any]:
    return {"models": {"tiny": changes}}


def run(**changes: Any) -> dict[str, Any]:
    return {"runs": [{"model": "tiny", "algorithm": "dpo", "beta": 0.1, **changes}]}


CONFIGS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "unknown key": ({"splitz": {}}, ["unknown key 'splitz'", "did you mean 'split'?"]),
    "a key of an older version": ({"splits": {"test": 4}}, ["'splits' has another name now", "write 'split'"]),
    "a stage of an older version": (model(alignment={"epochs": 1}), ["models.tiny: 'alignment'", "write 'align'"]),
    "unknown nested key": (model(sft={"epoch": 3}), ["models.tiny.sft: unknown key 'epoch'", "did you mean 'epochs'?"]),
    "a missing key": ({"models": {"own": {"path": "x"}}}, ["models.own: key 'instruction' is missing", "add 'instr"]),
    "negative split size": ({"split": {"test": -1}}, ["split.test: is -1", "at least 1"]),
    "a list for a mapping": ({"split": [1, 2]}, ["split: is [1, 2] (list)", "keys with values"]),
    "text for a number": ({"seed": "x"}, ["seed: is 'x'", "integer"]),
    "a fraction for a count": ({"seed": 1.5}, ["seed: is 1.5 (number)", "integer"]),
    "a seed that is too large": ({"seed": 2**32}, ["seed: is 4294967296", "at most 4294967295"]),
    "no number": ({"score": {"resamples": float("nan")}}, ["score.resamples: is nan", "integer"]),
    "too few resamples": ({"score": {"resamples": 5}}, ["score.resamples: is 5", "at least 100"]),
    "an unknown size of the benchmark": ({"benchmark": "huge"}, ["benchmark: is 'huge'", "full, quick"]),
    "an unknown template": (
        model(template="mistrl"),
        ["models.tiny.template: is 'mistrl'", "did you mean 'mistral'?", "vicuna_v1.1"],
    ),
    "an unknown wording": (model(instruction="compactt"), ["has no instruction 'compactt'", "mean 'compact'?"]),
    "an unknown way of drawing": ({"split": {"method": "leekfree"}}, ["split.method: is 'leekfree'", "leak_free"]),
    "no runs": ({"runs": []}, ["runs: is []", "list at least 1"]),
    "a model outside the catalogue": (run(model="tyny"), ["model 'tyny' is not in the catalogue", "'tiny'?"]),
    "beta of nought": (run(beta=0), ["runs[0].beta: is 0", "more than 0"]),
    "beta that is no number": (run(beta="high"), ["runs[0].beta: is 'high'", "number"]),
    "one wrong beta in a list": (run(beta=[0.1, -1]), ["runs[0].beta[1]: is -1"]),
    "an unknown algorithm": (run(algorithm="dpoo"), ["runs[0].algorithm: is 'dpoo'", "did you mean 'dpo'?"]),
    "a policy's name of another form": (model(aligned={"dpo_0.1": "x"}), ["policy 'dpo_0.1' is not known", "dpo-b0.1"]),
    "samples that would all be alike": (
        {"pair": {"samples": 4}},
        ["pair.samples: is 4", "tiny gives the likeliest reply", "pair.temperature"],
    ),
    "leak-free splits by the paper's rules": (
        {"split": {"method": "leak_free"}, "paper_rules": True},
        ["split.method", "paper_rules draw at random"],
    ),
    "one reply by the paper's rules": (
        {"split": {"min_turns": 1}, "paper_rules": True, "score": {"first_turn": True}},
        ["split.min_turns: paper_rules draw", "set it to 2"],
    ),
    "two sources": (
        {"source": "my-data", "import": {"format": "messages", "files": "a"}},
        ["source: is 'my-data', and `import` names files too", "leave out one"],
    ),
    "an unknown format": (
        {"import": {"format": "mesages", "files": "a"}},
        ["import.format: is 'mesages'", "'messages'?"],
    ),
    "no raw files": ({"import": {"format": "messages"}}, ["config: import: key 'files' is missing"]),
    "a raw file twice": ({"import": {"format": "messages", "files": ["a", "a"]}}, ["import.files", "each file once"]),
    "a bank beside conversations": (
        {"import": {"format": "class", "files": ["a.csv", "b"]}},
        ["import.files", "banks alone"],
    ),
    "a raw file that is missing": (
        {"import": {"format": "messages", "files": "raw.jsonl"}},
        ["import.files: raw.jsonl: no such file", "from the folder of the call"],
    ),
    "one reply that is not scored": ({"split": {"min_turns": 1}}, ["score.first_turn: is false", "set it to true"]),
    "GPUs in words": (model(resources={"sft": {"gpu": "many"}}), ["resources.sft.gpu", "give a number, or 'up to 4'"]),
    "a missing folder": ({"source": "nowhere"}, ["nowhere: no file bio-dataset-<n>.json there", "'source'"]),
    "a missing rubric": ({"rubric": "nowhere.yaml"}, ["nowhere.yaml: no such file"]),
    "a path and an architecture": (model(path="x"), ["models.tiny", "give either 'path', or"]),
    "a model's name with a space": (
        {"models": {"ti ny": {}}},
        ["config: models: the key 'ti ny' is not allowed", "use letters, digits"],
    ),
    "a model's name that a shell would run": (
        {"models": {"a;$(touch x)": {}}},
        ["models: the key 'a;$(touch x)' is not allowed", "use letters"],
    ),
    "a model's name with a line break": ({"models": {"tiny\n": {}}}, ["config: models", "use letters"]),
    "a dataset's name with a quote": ({"dataset": "a'b"}, ['dataset: is "a\'b"', "use letters, digits"]),
    "braces in a path": ({"results": "out{x}"}, ["results: is 'out{x}'", "without braces"]),
    "a password in an address": (
        {"published_url": "https://me:secret@host/x"},
        ["published_url: is 'https://…@host/x'", "without user and"],
    ),
    "a share above one": ({"checks": {"valid_format": 2}}, ["checks.valid_format: is 2", "at most 1"]),
    "an unknown way with trainings": ({"checks": {"unlearned": "halt"}}, ["checks.unlearned: is 'halt'", "mark, stop"]),
}


@pytest.mark.parametrize("what", CONFIGS)
def test_a_bad_config_is_refused(what, shared, monkeypatch, refused):
    config, words = CONFIGS[what]
    monkeypatch.chdir(shared.path)
    with refused(*words):
        plan = Plan(read_config(config, shared.path / "config.yaml"), shared.path, True, lambda: None)
        plan.conversation_files()


@pytest.mark.parametrize(
    "what", ["unknown key", "a model outside the catalogue", "a missing folder", "a missing rubric"]
)
def test_a_bad_config_ends_a_call_before_anything_starts(what, shared):
    config, words = CONFIGS[what]
    file = shared.path / f"{list(CONFIGS).index(what)}.yaml"
    file.write_text(yaml.safe_dump(config))
    refused_with(shared.forked("--cores", "1", config=file.name), words)
    assert not (shared.path / "results").exists()


RECORD = {"id": "a", "conversations": [{"from": "human", "value": "Q. Why?"}, {"from": "gpt", "value": "{}"}] * 2}


def entries(*turns: tuple[Any, Any]) -> list[dict]:
    return [{**RECORD, "conversations": [{"from": who, "value": text} for who, text in turns]}]


def record(**changes: Any) -> list[dict]:
    return [{**RECORD, **changes}]


HUMAN, TUTOR = ("human", "x"), ("gpt", "y")
FILES: dict[str, tuple[Any, list[str]]] = {
    "an empty file": ("", ["not JSON", "the file is empty"]),
    "not JSON": ('[\n  {"id": "a",}\n]', ["not JSON", "line 2, column"]),
    "JSON that breaks off": (json.dumps([RECORD])[:-9], ["not JSON", "line 1"]),
    "two documents": ("[][]", ["not JSON", "line 1, column 3"]),
    "JSON lines that break off": (f"{json.dumps(RECORD)}\n\n{json.dumps(RECORD)[:-9]}", ["line 3: not JSON", "column"]),
    "not UTF-8": (b'[{"id": "\xff"}]', ["not UTF-8 text (byte 9)", "save it as UTF-8"]),
    "gzip": (gzip.compress(b"[]"), ["compressed by gzip, not text", "unpack it: gunzip FILE"]),
    "Parquet": (b"PAR1\x15\xff", ["a Parquet file, not text", "to_json(NEW, orient='records', lines=True)"]),
    "UTF-16": (json.dumps([RECORD]).encode("utf-16"), ["not UTF-8 text (byte 0)"]),
    "a NUL": ('[{"id": "a\0"}]', ["not JSON: Invalid control character", "column 11"]),
    "brackets by the ten thousand": ("[" * 50_000 + "]" * 50_000, ["nested too deeply"]),
    "a number of five thousand digits": ('[{"id": ' + "9" * 5000 + "}]", ["not JSON", "digits"]),
    "an object for a problem's id": (record(problem={}), ["(id 'a'): field 'problem' is {}", "the problem's id"]),
    "not a list": ("{}", ["a JSON object, not a list", '{"id": "...", "conversations"']),
    "a text for a record": (["x"], ["record 0: a JSON string, not an object"]),
    "no id": ([{"conversations": []}], ["record 0", "field 'id' is None"]),
    "an empty id": (record(id=""), ["record 0: field 'id' is ''"]),
    "an id that clears the screen": (
        [{"id": "\x1b[2J\u202e", "conversations": []}],
        ["record 0 (id '\\x1b[2J\\u202e')", "no turns"],
    ),
    "a boolean for an id": (record(id=True), ["record 0: field 'id' is True", "a string"]),
    "a double id": ([RECORD, RECORD], ["record 1", "id 'a' is also the id of record 0"]),
    "an object for the turns": (record(conversations={}), ["(id 'a'): field 'conversations' is object, not a list"]),
    "no turns": (entries(), ["record 0 (id 'a')", "no turns", "remove the record"]),
    "a text for a turn": (record(conversations=["x"]), ["turn 0: unknown speaker None in field 'from'"]),
    "the tutor first": (entries(TUTOR), ["record 0 (id 'a')", "turn 0", "the tutor ('gpt') speaks first"]),
    "an unknown speaker": (entries(HUMAN, ("bot", "x")), ["turn 1", "unknown speaker 'bot'", "human, gpt"]),
    "a list for a speaker": (entries(HUMAN, (["gpt"], "x")), ["turn 1", "unknown speaker ['gpt']"]),
    "two turns in a row": (entries(HUMAN, HUMAN), ["turn 1", "'human' speaks twice in a row"]),
    "a turn without text": (record(conversations=[{"from": "human"}]), ["turn 0", "field 'value' is null"]),
    "a number for a text": (entries(HUMAN, ("gpt", 5)), ["turn 1: field 'value' is number, not text"]),
    "splits larger than the data": ([RECORD], ["6 conversations wanted", "1 have more than two turns: 5 are missing"]),
    "short conversations alone": (
        [{**one, "id": str(number)} for number in range(9) for one in entries(HUMAN, TUTOR)],
        ["6 conversations wanted", "0 have more than two turns"],
    ),
    "no reply that can be read": (
        [{**RECORD, "id": str(number)} for number in range(6)],
        ["the sft split is empty", "commonest reason (6 of 6)", "own-dataset-1.json", "splits-failed.json"],
    ),
}
WITHOUT_FILE = ("no reply that can be read",)


@pytest.mark.parametrize("what", FILES)
def test_a_bad_conversation_file_is_refused_and_nothing_is_written(what, tmp_path):
    content, words = FILES[what]
    file = tmp_path / "own-dataset-1.json"
    file.write_bytes(content if isinstance(content, bytes) else as_text(content).encode())
    refused_with(split(tmp_path, file), words if what in WITHOUT_FILE else [*words, str(file)])
    account = {"splits-failed.json"} if what == "no reply that can be read" else set()
    assert {path.name for path in (tmp_path / "data").iterdir()} == {"splits.json", *account}
    assert (tmp_path / "data/splits.json").read_text() == OLD


def as_text(content: Any) -> str:
    return content if isinstance(content, str) else json.dumps(content)


@pytest.mark.parametrize("place", ["nowhere.json", "."])
def test_a_conversation_file_that_is_none_is_named(place, tmp_path):
    what = "is a folder" if place == "." else "nowhere.json: no such file"
    refused_with(split(tmp_path, tmp_path / place), [what])


def split(folder: Path, file: Path) -> subprocess.CompletedProcess:
    (folder / "data").mkdir()
    (folder / "data/splits.json").write_text(OLD)
    settings = {"sft": 2, "dpo": 2, "test": 2, "seed": 1}
    return forked.script(
        *("split", file, "--dataset", "own", "--rubric", CLASS, "--output", folder / "data"),
        *("--settings", json.dumps(settings)),
    )


def script_here(name: str, *arguments: object) -> subprocess.CompletedProcess:
    """As `forked.script`, in this process, which has loaded already what takes some seconds each time."""
    command = [f"scripts/{name}.py", *map(str, arguments)]
    said = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stderr(said):
        patch.setattr(sys, "argv", command)
        try:
            runpy.run_path(str(ROOT / command[0]), run_name="__main__")
            status: Any = 0
        except SystemExit as ended:
            status = ended.code
    if isinstance(status, str):  # as Python does with what a script is ended with
        said.write(f"{status}\n")
        status = 1
    return subprocess.CompletedProcess(command, status, "", said.getvalue())


BANKS: dict[str, tuple[str, str, list[str]]] = {
    "not YAML": ("bank.yaml", "- [", ["not YAML", "line 1"]),
    "no list": ("bank.yaml", "problem: x", ["not a list of problems"]),
    "no problems": ("bank.yaml", "[]", ["no usable problem (it is empty)"]),
    "problems without parts": ("bank.yaml", "- {problem: Why}", ["no usable problem (fewer than two subproblems: 1)"]),
    "a day that is none": ("bank.yaml", "- 2001-99-99", ["not YAML", "month"]),
    "brackets by the ten thousand": ("bank.yaml", "[" * 50_000, ["bank.yaml", "nested deeper than 50"]),
    "a CSV without the column": ("bank.csv", "a,b\n1,2\n", ["no column 'problems'", "JSON in it"]),
    "a CSV without JSON": ("bank.csv", "problems\nx\n", ["no usable problem (not JSON: 1)"]),
}


@pytest.mark.parametrize("what", BANKS)
def test_a_bad_problem_bank_is_refused(what, tmp_path):
    name, content, words = BANKS[what]
    (tmp_path / name).write_text(content)
    (tmp_path / "own-dataset-1.json").write_text(OLD)
    refused_with(
        forked.script("simulate", tmp_path / name, "--dataset", "own", "--output", tmp_path), [str(tmp_path), *words]
    )
    assert (tmp_path / "own-dataset-1.json").read_text() == OLD


@pytest.mark.parametrize(
    ("lines", "rubric", "words"),
    [
        ('x\n{"qid": 1}\n', "mathdial", ["no usable row", "1 no 'question'", "1 not JSON"]),
        ("", CLASS.removesuffix(".yaml").rpartition("/")[2], ["the rubric CLASS has other fields", "mathdial.yaml"]),
    ],
)
def test_a_bad_file_for_the_importer_is_refused(lines, rubric, words, tmp_path):
    (tmp_path / "lines.jsonl").write_text(lines)
    (tmp_path / "out.json").write_text(OLD)
    rubric = f"datasets/rubrics/{rubric}.yaml"
    told = ("--format", "mathdial", "--rubric", rubric, "--output", tmp_path / "out.json")
    answer = forked.script("import_conversations", tmp_path / "lines.jsonl", *told)
    refused_with(answer, words)
    assert (tmp_path / "out.json").read_text() == OLD


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    made, tokenizer, rendering = small.small_model()
    folder = tmp_path_factory.mktemp("model") / "checkpoint"
    folder.mkdir()
    save_checkpoint(made, rendering, tokenizer, folder)
    return folder


def changed(name: str, **values: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        file = folder / name
        file.write_text(json.dumps({**json.loads(file.read_text()), **values}))

    return change


def removed(*names: str) -> Callable[[Path], None]:
    return lambda folder: [(folder / name).unlink() for name in names]  # type: ignore[return-value]


def written(name: str, text: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_text(text)  # type: ignore[return-value]


def pickled(folder: Path) -> None:
    import torch

    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")


def shortened(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])


def of_no_shape(folder: Path) -> None:
    changed("config.json", hidden_size=48)(folder)


CHECKPOINTS: dict[str, tuple[Callable[[Path], None], list[str]]] = {
    "no folder": (shutil.rmtree, ["neither a folder nor a checkpoint that can be fetched"]),
    "no configuration": (removed("config.json"), ["config.json"]),
    "a configuration that is not JSON": (written("config.json", "{"), ["config.json"]),
    "a configuration that is a list": (written("config.json", "[]"), ["config.json"]),
    "an unknown kind of model": (changed("config.json", model_type="lama"), ["lama"]),
    "code of its own": (
        changed("config.json", model_type="own", auto_map={"AutoConfig": "own.Config"}),
        ["code of its own", "trust_remote_code is off"],
    ),
    "no tokenizer": (removed("tokenizer.json", "tokenizer_config.json"), ["tokenizer"]),
    "a tokenizer that is not JSON": (written("tokenizer.json", "{"), ["tokenizer"]),
    "a tokenizer of no kind": (written("tokenizer.json", "{}"), ["tokenizer"]),
    "no weights": (removed("model.safetensors"), ["without weights (model*.safetensors)", "save_pretrained"]),
    "pickled weights": (
        pickled,
        ["without weights (model*.safetensors)", "model.save_pretrained(folder)", "can run code"],
    ),
    "weights that break off": (shortened, ["model.safetensors"]),
    "weights that are none": (written("model.safetensors", "x"), ["model.safetensors"]),
    "weights of another shape": (of_no_shape, ["shape"]),
    "an adapter alone": (
        lambda folder: [removed("config.json")(folder), written("adapter_config.json", "{}")(folder)],  # type: ignore
        ["adapter"],
    ),
}


@pytest.mark.parametrize("what", CHECKPOINTS)
def test_a_bad_checkpoint_is_refused(what, checkpoint, tmp_path):
    change, words = CHECKPOINTS[what]
    folder = tmp_path / "given"
    shutil.copytree(checkpoint, folder)
    change(folder)
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint/kept").write_text(OLD)
    outputs = ("--output", tmp_path / "checkpoint", "--manifest", tmp_path / "checkpoint.json")
    refused_with(script_here("adopt", folder, *outputs), [str(folder), *words])
    assert (tmp_path / "checkpoint/kept").read_text() == OLD
    assert not (tmp_path / "checkpoint.json").exists()


GOLD = {"Evaluation of Student Response": "a", "Action Based on Evaluation": "1", "Subproblem State": "x"}
GOLD_REPLY = json.dumps({**GOLD, "Subproblem": "Why?", "Tutorbot": "Look again."})
ROW = {"conversation_id": "a", "turn": 0, "prompt": [], "chosen": [{"role": "assistant", "content": GOLD_REPLY}]}
SCORING = json.dumps({"first_turn": True, "resamples": 100, "seed": 1})
SCORE = ("score", "HERE/rows.json", "HERE/responses.csv", "--rubric", CLASS, "--output", "HERE/out", "--settings")
COMMANDS: dict[str, tuple[tuple[str, ...], list[str]]] = {
    "an option that is missing": (("score", "a", "b"), ["score.py", "--rubric", "--help"]),
    "an option that there is not": ((*SCORE, SCORING, "--fast"), ["score.py", "--fast", "--help"]),
    "settings that are not JSON": (
        (*SCORE, "{first_turn: true}"),
        ["--settings", "column 2", "first_turn, resamples, seed"],
    ),
    "settings that are a list": ((*SCORE, "[]"), ["--settings"]),
    "a setting that there is not": ((*SCORE, SCORING[:-1] + ', "seeds": 1}'), ["--settings", "'seeds'"]),
    "a setting that is missing": ((*SCORE, '{"first_turn": true}'), ["--settings", "'resamples'"]),
    "a table that is missing": (
        ("score", "HERE/rows.json", "HERE/no.csv", "--rubric", CLASS, "--output", "HERE/out", "--settings", SCORING),
        ["no.csv: no such file"],
    ),
    "a rubric that is missing": (
        (*SCORE[:3], "--rubric", "no.yaml", "--output", "HERE/out", "--settings", SCORING),
        ["no.yaml: no such file"],
    ),
    "a rubric that is none": (
        (*SCORE[:3], "--rubric", "HERE/rows.json", "--output", "HERE/out", "--settings", SCORING),
        ["rows.json: top level: is [{", "a rubric has the keys name, fields, spoken and instructions"],
    ),
    "a tutor without mistakes": (
        ("pair", *SCORE[1:3], "--rubric", CLASS, "--output", "HERE/out", "--counts", "HERE/counts", "--settings", "{}"),
        ["all 1 responses agree with the gold labels"],
    ),
    "a count of nought": (
        ("simulate", "datasets/bio-problems.yaml", "--dataset", "x", "--output", "HERE", "--files", "0"),
        ["a count is not positive", "--help"],
    ),
    "no number": (
        ("simulate", "datasets/bio-problems.yaml", "--dataset", "x", "--output", "HERE", "--files", "many"),
        ["--files", "'many'"],
    ),
    "a file that was not published": (("download", "HERE/bio-dataset-9.json"), ["bio-dataset-9.json"]),
    "GPUs that can't be spread": (
        ("launch", "--gpu", "3", "--nodes", "2", "--", "x.py"),
        ["3 GPUs can't be spread evenly over 2 nodes", "change 'gpu' or 'nodes'"],
    ),
    "provenance of nothing": (("provenance", "HERE/nothing.json"), ["nothing.json: no such artifact", "snakemake"]),
}


@pytest.mark.parametrize("what", COMMANDS)
def test_a_bad_command_line_is_refused_and_nothing_is_written(what, tmp_path):
    arguments, words = COMMANDS[what]
    (tmp_path / "rows.json").write_text(json.dumps([ROW]))
    write_csv(tmp_path / "responses.csv", READ, [(GOLD_REPLY, GOLD_REPLY, "a", 0, 9, "stop", 0)])
    (tmp_path / "out").write_text(OLD)
    before = {path.name for path in tmp_path.iterdir()}
    name, *rest = (one.replace("HERE", str(tmp_path)) for one in arguments)
    answer = forked.script(name, *rest)
    if name == "launch":  # it says all on stdout, as the log has it
        answer.stderr = answer.stdout
    refused_with(answer, words)
    assert (tmp_path / "out").read_text() == OLD
    assert {path.name for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("results/tyny/dpo-b0.1/test/metrics.json", ["did you mean 'tiny'?"]),
        ("results/tiny/dpo-0.1/test/metrics.json", ["policy 'dpo-0.1' is not known", "<algorithm>-b<beta>"]),
        ("results/tiny/dpq-b0.1/test/metrics.json", ["did you mean 'dpo'?"]),
    ],
)
def test_a_target_that_names_no_model_or_policy_is_refused(target, words, shared):
    refused_with(shared.forked("--cores", "1", target), words)


ANSWERED = (GOLD_REPLY, GOLD_REPLY, "a", 0, 9, "stop", 0)


@pytest.mark.parametrize(
    ("responses", "words"),
    [
        ([], ["has 0 rows for 1 prompts"]),
        ([ANSWERED, ANSWERED], ["has 2 rows for 1 prompts"]),
        ([(GOLD_REPLY, GOLD_REPLY, "b", 0, 9, "stop", 0)], ["row 0 answers ('b', '0', '0'), not ('a', '0', '0')"]),
        ([(GOLD_REPLY, "another", "a", 0, 9, "stop", 0)], ["row 0 (from 0): 'gpt' is not the split's gold reply"]),
    ],
    ids=["missing", "doubled", "foreign", "of another gold reply"],
)
@pytest.mark.parametrize("stage", ["score", "compare", "pair"])
def test_responses_that_do_not_belong_to_the_split_are_not_used(stage, responses, words, tmp_path):
    (tmp_path / "rows.json").write_text(json.dumps([ROW]))
    write_csv(tmp_path / "responses.csv", READ, responses)
    (tmp_path / "out").write_text(OLD)
    files = [tmp_path / "rows.json", *[tmp_path / "responses.csv"] * (2 if stage == "compare" else 1)]
    counts = ["--counts", tmp_path / "counts"] if stage == "pair" else []
    settings = "{}" if stage == "pair" else SCORING
    outputs = ("--rubric", CLASS, "--output", tmp_path / "out", *counts, "--settings", settings)
    refused_with(script_here(stage, *files, *outputs), [str(tmp_path / "responses.csv"), *words, "run again"])
    assert (tmp_path / "out").read_text() == OLD


def test_there_are_a_hundred_cases():
    assert len(CONFIGS) >= 30 and len(FILES) + 2 >= 30 and len(BANKS) + 2 == 10
    assert len(CHECKPOINTS) == len(COMMANDS) == 15


def test_perplexity_without_a_file_of_pairs_is_refused(checkout):
    (checkout.path / "own").mkdir()
    (checkout.path / "own/bio-dataset-1.json").write_text(json.dumps([RECORD]))
    (checkout.path / "own.yaml").write_text(yaml.safe_dump({"source": "own"}))
    assert "perplexity" not in checkout.planned("--cores", "1", config="own.yaml")
    answer = checkout.forked("--cores", "1", "--", "results/tiny/sft/test/perplexity.json", config="own.yaml")
    refused_with(answer, ["own/bio-dataset-ppl.json: no such file"])


def test_perplexity_with_a_rubric_that_has_no_scaffolding_labels_is_refused(tmp_path):
    rubric = yaml.safe_load((ROOT / CLASS).read_text())
    del rubric["scaffold_tell"]
    (tmp_path / "rubric.yaml").write_text(yaml.safe_dump(rubric))
    settings = {"rendering": {}, "dtype": "float32", "max_batch_tokens": 1, "resamples": 100, "seed": 1}
    answer = forked.script(
        "perplexity",
        "datasets/simulated/bio-dataset-ppl.json",
        *("--model", "none", "--rubric", tmp_path / "rubric.yaml", "--output", tmp_path / "perplexity.json"),
        *("--settings", json.dumps({**settings, "paper_rules": False})),
    )
    refused_with(answer, ["has no 'scaffold_tell' pairs"])
    assert not (tmp_path / "perplexity.json").exists()
