"""Two small tutors in a results folder, by the workflow's own scripts: one has learned its replies, one has not."""

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import forked
from checkouts import ROOT, made_once
from small import TALKS, settings, small_model

from pedalign.core.artifacts import write_records
from pedalign.models.checkpoints import save_checkpoint

RUBRIC = ROOT / "datasets/rubrics/mathdial.yaml"
RENDERING = {"template": "tutor", "instruction": "compact"}
EPOCHS = {"sft": 1, "dpo-b0.1": 40}


def script(name: str, *arguments: object, given: str | None = None, **environment: str) -> subprocess.CompletedProcess:
    if not environment:
        return forked.script(name, *arguments, given=given or "")
    command = [sys.executable, f"scripts/{name}.py", *map(str, arguments)]
    environment = {**os.environ, **environment}
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, input=given, env=environment)


def trained(shared: Path) -> list[Path]:
    """The checkpoints of tiny/sft, whose replies can't be read, and of tiny/dpo-b0.1; copy them before changing any."""
    results = made_once(shared / "tutors", _train).path
    return [results / "tiny" / policy / "checkpoint" for policy in EPOCHS]


def _train(results: Path) -> None:
    model, tokenizer, renderer = small_model()
    save_checkpoint(model, renderer, tokenizer, results / "base")
    write_records(results / "data/sft.json", [talk.record() for talk in TALKS])
    for policy, epochs in EPOCHS.items():
        checkpoint = results / "tiny" / policy / "checkpoint"
        told = json.dumps({"rendering": RENDERING, "training": asdict(settings(epochs=epochs))})
        made = ("--output", checkpoint, "--manifest", f"{checkpoint}.json", "--settings", told)
        answer = script("sft", results / "data/sft.json", "--model", results / "base", "--rubric", RUBRIC, *made)
        assert answer.returncode == 0, answer.stderr
