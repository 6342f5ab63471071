"""A report page of two tutors whose replies are made up, by the workflow's own scripts."""

import json
import random
import subprocess
import sys
from pathlib import Path

from checkouts import ROOT

from pedalign.artifacts import write_csv, write_json
from pedalign.responses import READ
from pedalign.rubric import load_rubric

RUBRIC = ROOT / "datasets/rubrics/class.yaml"
SCORING = json.dumps({"first_turn": False, "resamples": 200, "seed": 1})
HOSTILE = "<script>window.hostile = true</script><img src=x onerror='window.hostile = true'>"
HISTORY = [{"loss": 2.0 - at / 10, "grad_norm": 1.0, "learning_rate": 1e-4} for at in range(10)]


def script(name: str, *arguments: object) -> None:
    command = [sys.executable, f"scripts/{name}.py", *map(str, arguments)]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr


def reported(results: Path, files: int = 1, tests: int = 20) -> Path:
    """The page in a new folder `results`, on so many test conversations of each of the simulated files.

    The fine-tuned tutor is right in half of its labels, the aligned one in most.
    """
    rubric, draw = load_rubric(RUBRIC), random.Random(1)
    sources = [ROOT / f"datasets/simulated/bio-dataset-{number + 1}.json" for number in range(files)]
    sizes = {"sft": 4, "dpo": 2, "test": tests, "seed": 1, "method": "random", "paper_rules": False}
    drawn = ("--dataset", "bio", "--rubric", RUBRIC, "--settings", json.dumps(sizes), "--output", results / "data")
    script("split", *sources, *drawn)
    split = results / "data/bio-test_formatted.json"
    rows = json.loads(split.read_text())
    folders = {}
    for policy, right in (("sft", 0.5), ("dpo-b0.1", 0.9)):
        folder = results / "tiny" / policy
        folders[policy] = folder / "test"
        replies = []
        for row in rows:
            gold = row["chosen"][0]["content"]
            labels = {
                field.name: draw.choice(list(field.labels)) for field in rubric.label_fields if draw.random() > right
            }
            said = json.dumps({**json.loads(gold), **labels, "Tutorbot": f"{HOSTILE} {draw.choice('abc')}"})
            reply = said if draw.random() < 0.95 else f"Sure! {HOSTILE}"
            replies.append([reply, gold, row["conversation_id"], row["turn"], 0])
        write_csv(folders[policy] / "responses.csv", READ, replies)
        outputs = ("--rubric", RUBRIC, "--output", folders[policy] / "metrics.json", "--settings", SCORING)
        script("score", split, folders[policy] / "responses.csv", *outputs)
        write_json(folder / "checkpoint.json", {"files": {}, "history": HISTORY})
    pair = [folders[policy] / "responses.csv" for policy in ("sft", "dpo-b0.1")]
    comparison = folders["dpo-b0.1"] / "comparison.json"
    script("compare", split, *pair, "--rubric", RUBRIC, "--output", comparison, "--settings", SCORING)
    metrics = [folder / "metrics.json" for folder in folders.values()]
    manifests = [folder.with_name("checkpoint.json") for folder in folders.values()]
    marked = ("--valid-format", 0.8, "--rubric", RUBRIC, "--splits", results / "data/splits.json", "--dataset", "bio")
    measured = ("--metrics", *metrics, "--comparisons", comparison, "--manifests", *manifests)
    script("summarize", *measured, *marked, "--output", results / "summary.csv")
    page = results / "report.html"
    told = ("--dataset", "bio", "--rubric", RUBRIC, "--first-turn", "false", "--config", json.dumps({"seed": 1}))
    script(
        "report",
        results,
        "--tutors",
        "tiny/sft",
        "tiny/dpo-b0.1",
        *told,
        "--output",
        page,
        "--charts",
        results / "charts",
    )
    return page
