"""The table, the report page and the cards of two tutors whose replies are made up, by the workflow's own scripts."""

import json
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from checkouts import ROOT

from pedalign.core.artifacts import write_csv, write_json
from pedalign.core.provenance import record
from pedalign.data.responses import READ
from pedalign.data.rubric import load_rubric

RUBRIC = load_rubric(ROOT / "datasets/rubrics/class.yaml")
SCORING = json.dumps({"first_turn": False, "resamples": 200, "seed": 1})
HOSTILE = "<script>window.hostile = true</script><img src=x onerror='window.hostile = true'>"
HISTORY = [{"loss": 2.0 - at / 10, "grad_norm": 1.0, "learning_rate": 1e-4} for at in range(10)]
TRAINING = {"rendering": {"template": "tutor"}, "training": {"epochs": 1}}
MANIFEST = {
    "files": {},
    "history": HISTORY,
    "steps": 10,
    "final_loss": 1.1,
    "rows": 9,
    "git_commit": "",
    "versions": {},
}
ASKING = {"temperature": 0, "repetition_penalty": 1.0, "max_new_tokens": 40}

Said = Callable[[str, dict[str, str], random.Random], tuple[str, str]]  # policy, gold reply → reply, finish_reason


def hostile(policy: str, gold: dict[str, str], draw: random.Random) -> tuple[str, str]:
    """The fine-tuned tutor is right in half of its labels, the aligned one in most."""
    right = {"sft": 0.5, "dpo-b0.1": 0.9}[policy]
    labels = {field.name: draw.choice(list(field.labels)) for field in RUBRIC.label_fields if draw.random() > right}
    said = json.dumps({**gold, **labels, "Tutorbot": f"{HOSTILE} {draw.choice('abc')}"})
    return (said if draw.random() < 0.95 else f"Sure! {HOSTILE}"), "stop"


def script(name: str, *arguments: object) -> str:
    command = [sys.executable, f"scripts/{name}.py", *map(str, arguments)]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


def reported(results: Path, files: int = 1, tests: int = 20, said: Said = hostile, valid_format: float = 0.8) -> Path:
    """The page in a new folder `results`, on so many test conversations of each of the simulated files; summary.csv and
    the cards stand beside it."""
    draw = random.Random(1)
    sources = [ROOT / f"datasets/simulated/bio-dataset-{number + 1}.json" for number in range(files)]
    sizes = {"sft": 4, "dpo": 2, "test": tests, "seed": 1, "method": "random", "paper_rules": False}
    rubric = ("--rubric", ROOT / "datasets/rubrics/class.yaml")
    drawn = ("--dataset", "bio", *rubric, "--settings", json.dumps(sizes), "--output", results / "data")
    script("split", *sources, *drawn)
    split, splits = results / "data/bio-test_formatted.json", results / "data/splits.json"
    rows = json.loads(split.read_text())
    folders = {}
    for policy in ("sft", "dpo-b0.1"):
        folder = results / "tiny" / policy
        folders[policy] = folder / "test"
        replies = []
        for row in rows:
            gold = row["chosen"][0]["content"]
            reply, finish_reason = said(policy, json.loads(gold), draw)
            replies.append([reply, gold, row["conversation_id"], row["turn"], 40, finish_reason, 0])
        responses = folders[policy] / "responses.csv"
        write_csv(responses, READ, replies)
        record([responses], {}, {"generation": ASKING})
        outputs = (*rubric, "--output", folders[policy] / "metrics.json", "--settings", SCORING)
        script("score", split, responses, *outputs)
        alignment = {} if policy == "sft" else {"alignment": {"algorithm": "dpo", "beta": 0.1}}
        write_json(folder / "checkpoint.json", {**MANIFEST, "settings": {**TRAINING, **alignment}})
    pair = [folders[policy] / "responses.csv" for policy in folders]
    comparison = folders["dpo-b0.1"] / "comparison.json"
    script("compare", split, *pair, *rubric, "--output", comparison, "--settings", SCORING)
    metrics = [folder / "metrics.json" for folder in folders.values()]
    manifests = [folder.with_name("checkpoint.json") for folder in folders.values()]
    common = (*rubric, "--splits", splits, "--dataset", "bio", "--valid-format", valid_format)
    measured = ("--metrics", *metrics, "--comparisons", comparison, "--manifests", *manifests)
    script("summarize", *measured, *common, "--output", results / "summary.csv")
    for folder in folders.values():
        compared = ("--comparison", comparison) if comparison.parent == folder else ()
        told = ("--metrics", folder / "metrics.json", *compared, "--origin", "random weights")
        told += ("--source", "simulated", "--rows", "conversations" if folder.parent.name == "sft" else "pairs")
        write_json(folder.with_name("checkpoint") / "config.json", {"model_type": "llama"})
        script("card", folder.with_name("checkpoint.json"), *told, *common, "--output", folder.with_name("README.md"))
    page = results / "report.html"
    told = ("--dataset", "bio", *rubric, "--first-turn", "false", "--config", json.dumps({"seed": 1}))
    outputs = ("--output", page, "--charts", results / "charts")
    script("report", results, "--tutors", *(f"tiny/{policy}" for policy in folders), *told, *outputs)
    return page
