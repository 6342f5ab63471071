"""Scripts as the launcher starts them, on GPUs that are not there: such ranks run on the CPU."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import small
import torch
from safetensors.torch import load_file

from pedalign.artifacts import read_json, write_json
from pedalign.conversation import Conversation, formatted_rows
from pedalign.likelihood import log_probabilities
from pedalign.models import save_checkpoint
from pedalign.rubric import load_rubric
from pedalign.template import renderer

ROOT = Path(__file__).parents[2]
LAUNCHER = ROOT / "scripts/launch.py"
RUBRIC = ROOT / "datasets/rubrics/mathdial.yaml"
RENDERING = {"template": "tutor", "instruction": "compact"}
REJECTED = '{"Move": "telling", "Tutorbot": "It is ten."}'


def until(condition: Callable[[], object], seconds: float = 60.0) -> bool:
    """Whether the condition comes true in this time."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.002)
    return True


class Launched:
    """A launcher at work; its output goes to `said`."""

    def __init__(self, folder: Path, *arguments: object, **environment: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.output = folder / "output.txt"
        pretended = {"CUDA_VISIBLE_DEVICES": "0,1,2,3", "PEDALIGN_LEASES": str(folder / "leases")}
        with open(self.output, "wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, str(LAUNCHER), *map(str, arguments)],
                env=os.environ | {"OMP_NUM_THREADS": "1"} | pretended | environment,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    @property
    def said(self) -> str:
        return self.output.read_text()

    def says(self, words: str) -> bool:
        return until(lambda: words in self.said or self.process.poll() is not None) and words in self.said

    def ends(self, seconds: float = 120.0) -> int:
        return self.process.wait(seconds)


class Inputs:
    """A small model, conversations and preference pairs, as files that the training scripts read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        talks = [
            Conversation(talk.id, talk.messages[: 2 + 2 * (number % 2)] * (1 + number % 3))
            for number, talk in enumerate(small.TALKS)
        ]
        write_json(folder / "sft.json", [talk.record() for talk in talks])
        model, tokenizer, rendering = small.small_model()
        save_checkpoint(model, rendering, tokenizer, folder / "base")

        rows = [row for row in formatted_rows(talks) if row["turn"] < 2][:16]
        pairs = {name: [row[name] for row in rows] for name in ("conversation_id", "turn", "prompt", "chosen")}
        pairs["rejected"] = [[{"role": "assistant", "content": REJECTED}]] * len(rows)
        rendering = renderer(tokenizer, rubric=load_rubric(RUBRIC), **RENDERING)
        reference = {name: pairs[name] for name in ("conversation_id", "turn")}
        for side in ("chosen", "rejected"):
            replies = [
                (rendering.encode(row)[0], rendering.reply_ids(reply[0]["content"]))
                for row, reply in zip(pairs["prompt"], pairs[side], strict=True)
            ]
            reference[side] = log_probabilities(model, replies, 10_000)
        write_json(folder / "preferences.json", pairs)
        write_json(folder / "reference.json", reference)

    def script(
        self, algorithm: str, checkpoint: Path, *saving: str, adapter: dict[str, Any] | None = None, **training: Any
    ) -> list[str]:
        """The script that trains by the `algorithm` ("sft", or one of alignment), and its arguments."""
        plain = {"epochs": 1, "learning_rate": 1e-3, "max_length": 1024, "device_batch_size": 2}
        settings = {"rendering": RENDERING, "training": asdict(small.settings(**{**plain, **training}))}
        settings |= {"adapter": adapter} if adapter else {}
        data = ["finetune.py", "sft.json"]
        if algorithm != "sft":
            settings["alignment"] = {"algorithm": algorithm, "beta": 0.1, "label_noise": 0.1}
            data = ["optimize.py", "preferences.json", "--reference", "reference.json"]
        paths = [str(self.folder / part) if part.endswith(".json") else part for part in data[1:]]
        given = {"model": self.folder / "base", "rubric": RUBRIC, "settings": json.dumps(settings)}
        given |= {"output": checkpoint, "manifest": f"{checkpoint}.json", "save-minutes": 0}
        options = [f"--{name}={value}" if name != "settings" else value for name, value in given.items()]
        at = options.index(given["settings"])
        return [str(ROOT / "scripts" / data[0]), *paths, *options[:at], "--settings", *options[at:], *saving]


def weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    return load_file(checkpoint / "model.safetensors")
