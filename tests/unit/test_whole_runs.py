"""The shell script that a whole run is held against does the same work, by today's ways."""

import json
import runpy
import subprocess
from dataclasses import asdict
from pathlib import Path

import forked
import pytest
import small
import torch

from pedalign.benchmarks.whole_runs import shell_script
from pedalign.core.artifacts import read_csv, write_columns, write_json, write_records
from pedalign.data.conversations import formatted_rows
from pedalign.models.checkpoints import load_model, save_checkpoint

PLAN = """
rule split:
    input: datasets/bio-dataset-1.json, scripts/split.py
    output: results/data/bio-sft.json, results/data/bio-dpo.json
    log: results/logs/data/splits.log
Shell command: python scripts/split.py datasets/bio-dataset-1.json --output results/data 2>&1 | tee a.log

rule audit:
    output: results/tiny/sft/audit.json
Shell command: python scripts/audit.py results/data/bio-sft.json --output results/tiny/sft/audit.json

rule sft:
    output: results/tiny/sft/checkpoint, results/tiny/sft/checkpoint.json
Shell command: exec python scripts/launch.py --gpu 0 --log 'a b.log' -- scripts/sft.py results/data/bio-sft.json --x '{"a": 1}'

rule perplexity:
    output: results/tiny/sft/test/perplexity.json
Shell command: exec python scripts/launch.py --gpu 0 --log c.log -- scripts/perplexity.py pairs.json

rule all:
    input: results/summary.csv
Shell command: None
"""  # noqa: E501


def test_the_script_has_the_stages_in_a_row_by_other_ways_and_without_what_those_do_not_need():
    script = shell_script(PLAN)
    assert script.splitlines() == [
        "set -euo pipefail",
        "mkdir --parents results/data results/logs/data results/tiny/sft results/tiny/sft/test",
        "python scripts/split.py datasets/bio-dataset-1.json --output results/data 2>&1 | tee a.log",
        """python scripts/baseline.py sft results/data/bio-sft.json --x '{"a": 1}'""",
        "python scripts/perplexity.py pairs.json",
    ]


def test_it_is_made_of_the_workflows_own_plan(root, tmp_path):
    plan = ("--dry-run", "--printshellcmds", "--verbose", "--forceall", "--cores", "1")
    planned = forked.snakemake(root, *plan)
    assert planned.returncode == 0, planned.stderr
    script = shell_script(planned.stdout + planned.stderr)
    stages = [line.split()[1:3] for line in script.splitlines()[2:]]
    names = [first.removeprefix("scripts/") if "baseline" not in first else second for first, second in stages]
    assert names.index("split.py") < names.index("base.py") < names.index("sft") and names[-1] == "summarize.py"
    assert names.index("sft") < names.index("generate") < names.index("pair.py") < names.index("align")
    assert [names.count(name) for name in ("sft", "generate", "align", "perplexity.py")] == [1, 3, 1, 2]
    (tmp_path / "run.sh").write_text(script)
    subprocess.run(["bash", "-n", tmp_path / "run.sh"], check=True)


@pytest.fixture
def stage(tmp_path, root, monkeypatch):
    """Runs scripts with the small model, the rubric and settings."""
    model, tokenizer, rendering = small.small_model()
    save_checkpoint(model, rendering, tokenizer, tmp_path / "model")
    monkeypatch.syspath_prepend(root / "scripts")

    def run(script: str, *arguments: object, **settings: object) -> None:
        path = str(root / f"scripts/{script}.py")
        given = ["--model", tmp_path / "model", "--rubric", root / "datasets/rubrics/class.yaml"]
        settings = {"rendering": {"template": "tutor", "instruction": "compact"}, **settings}
        argv = [path, *arguments, *given, "--settings", json.dumps(settings)]
        monkeypatch.setattr("sys.argv", [str(one) for one in argv])
        runpy.run_path(path, run_name="__main__")

    return run


def test_its_way_of_answering_writes_the_same_file(stage, tmp_path):
    write_records(tmp_path / "rows.json", formatted_rows(small.TALKS[:4]))
    decoding = {"max_new_tokens": 12, "min_new_tokens": 0, "temperature": 0.0, "repetition_penalty": 1.0, "seed": 1}
    settings = {"dtype": "float32", "generation": {**decoding, "max_batch_tokens": None}, "samples": 1}
    stage("generate", tmp_path / "rows.json", "--output", tmp_path / "ours.csv", **settings)
    stage("baseline", "generate", tmp_path / "rows.json", "--output", tmp_path / "theirs.csv", **settings)
    assert len(read_csv(tmp_path / "ours.csv")) == 8
    assert (tmp_path / "theirs.csv").read_bytes() == (tmp_path / "ours.csv").read_bytes()


@pytest.mark.parametrize("method", ["sft", "align"])
def test_its_ways_of_training_train_and_leave_a_checkpoint_with_its_manifest(stage, tmp_path, method):
    sides = {"user": "human", "assistant": "gpt"}
    talks = [
        {
            "id": talk.id,
            "conversations": [{"from": sides[one["role"]], "value": one["content"]} for one in talk.messages],
        }
        for talk in small.TALKS[:8]
    ]
    write_json(tmp_path / "sft.json", talks)
    rows = list(formatted_rows(small.TALKS[:4]))
    pairs = {
        "prompt": [row["prompt"] for row in rows],
        "chosen": [row["chosen"] for row in rows],
        "rejected": [[{"role": "assistant", "content": "No."}] for _ in rows],
    }
    write_columns(tmp_path / "pairs.json", pairs)
    data = tmp_path / ("sft.json" if method == "sft" else "pairs.json")
    outputs = ["--output", tmp_path / "made", "--manifest", tmp_path / "made.json"]
    more = {"alignment": {"algorithm": "dpo", "beta": 0.1, "label_noise": 0.0}} if method == "align" else {}
    training = asdict(small.settings(epochs=1))
    stage("baseline", method, data, *outputs, training=training, **more)
    made, before = (load_model(tmp_path / name, "float32").state_dict() for name in ("made", "model"))
    assert any(not torch.equal(made[name], before[name]) for name in before)
    assert Path(tmp_path / "made.json").is_file()
