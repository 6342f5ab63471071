"""Scripts as the launcher starts them, on GPUs that are not there: several ranks run on the CPU."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import forked
import small
import torch
import waiting
from safetensors.torch import load_file

from pedalign.core.artifacts import write_json
from pedalign.data.conversations import Conversation, formatted_rows
from pedalign.data.rubric import load_rubric
from pedalign.models.checkpoints import save_checkpoint
from pedalign.models.log_probs import log_probabilities
from pedalign.models.prompt_format import renderer
from pedalign.models.scratch import scratch_model

ROOT = Path(__file__).parents[2]
LAUNCHER = ROOT / "scripts/launch.py"
RUBRIC = ROOT / "datasets/rubrics/mathdial.yaml"
RENDERING = {"template": "tutor", "instruction": "compact"}
REJECTED = '{"Move": "telling", "Tutorbot": "It is ten."}'
# The launcher, with less time (in seconds) from one SIGTERM to the next.
IMPATIENT = """
import runpy, sys
from pedalign.cluster import launching
launching._REMINDER = 0.1
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def until(condition: Callable[[], object], seconds: float = 240.0) -> bool:
    """With the time that a training takes."""
    return waiting.until(condition, seconds)


def alive(process: str) -> bool:
    """Whether there is such a process, and more of it than an exit status that no one has asked for."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def set_ignored(numbers: Sequence[int]) -> None:
    """In a new process: of the signals of a terminal these are ignored, whatever these tests ignore themselves."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN if number in numbers else signal.SIG_DFL)


class Launched:
    """A launcher at work. The locks of its GPUs, and what it says, are in `folder`.

    `warm`: its processes are forked from one that has imported what they need (`forked`).
    """

    def __init__(
        self,
        folder: Path,
        *script: object,
        gpu: int = 0,
        log: object = None,
        impatient: bool = False,
        ignored: Sequence[int] = (),
        warm: bool = True,
        **told: str,
    ) -> None:
        self.output = folder / f"{time.monotonic_ns()}.output"
        options = [f"--gpu={gpu}", *([f"--log={log}"] if log else []), "--", *map(str, script)]
        pretended = {"CUDA_VISIBLE_DEVICES": "0,1,2,3", "PEDALIGN_LEASES": str(folder / "leases")}
        python, server = (forked.python(), {forked.SERVER: forked.server("script")}) if warm else (sys.executable, {})
        with open(self.output, "wb") as output:
            self.process = subprocess.Popen(
                [python, *(["-c", IMPATIENT] if impatient else []), str(LAUNCHER), *options],
                env=os.environ | {"OMP_NUM_THREADS": "1"} | pretended | server | told,
                stdout=output,
                stderr=subprocess.STDOUT,
                preexec_fn=lambda: set_ignored(ignored),
            )

    @property
    def said(self) -> str:
        return self.output.read_bytes().decode(errors="replace")

    def says(self, words: str) -> bool:
        """Whether it says this before it ends."""
        ended = until(lambda: words in self.said or self.process.poll() is not None)
        return ended and words in self.said

    def ends(self) -> int:
        return self.process.wait(600)


class Inputs:
    """A small model, conversations and preference pairs, as files that the training scripts read.

    `wide`: ZeRO-3 spreads only tensors of more than 100,000 numbers over the ranks, so the model has some.
    """

    def __init__(self, folder: Path, wide: bool = False) -> None:
        self.folder = folder
        talks = [Conversation(talk.id, talk.messages * (1 + number % 3)) for number, talk in enumerate(small.TALKS)]
        self.write("sft.json", [talk.record() for talk in talks])
        _, tokenizer, _ = small.small_model()
        sizes = {"hidden_size": 256, "intermediate_size": 512} if wide else {}
        model = scratch_model({**small.ARCHITECTURE, **sizes}, tokenizer, seed=1)
        rendering = renderer(tokenizer, rubric=load_rubric(RUBRIC), **RENDERING)
        save_checkpoint(model, rendering, tokenizer, folder / "base")

        rows = [row for row in formatted_rows(talks) if row["turn"] == 0]
        pairs = {name: [row[name] for row in rows] for name in ("conversation_id", "turn", "prompt", "chosen")}
        pairs["rejected"] = [[{"role": "assistant", "content": REJECTED}]] * len(rows)
        reference = {name: pairs[name] for name in ("conversation_id", "turn")}
        for side in ("chosen", "rejected"):
            replies = [
                (rendering.encode(prompt)[0], rendering.reply_ids(reply[0]["content"]))
                for prompt, reply in zip(pairs["prompt"], pairs[side], strict=True)
            ]
            reference[side] = log_probabilities(model, replies, max_batch_tokens=10_000).totals
        self.write("preferences.json", pairs)
        self.write("reference.json", reference)

    def write(self, name: str, value: Any) -> None:
        write_json(self.folder / name, value)

    def script(
        self, algorithm: str, checkpoint: Path, *saving: str, adapter: dict[str, Any] | None = None, **training: Any
    ) -> list[str]:
        """The script that trains by the `algorithm`, which is "sft" or one of alignment, and its arguments."""
        plain = {"epochs": 1, "learning_rate": 1e-3, "max_length": 1024, "device_batch_size": 2}
        settings: dict[str, Any] = {
            "rendering": RENDERING,
            "training": asdict(small.settings(**plain | training)),
            "adapter": adapter,
        }
        script = [ROOT / "scripts/sft.py", self.folder / "sft.json"]
        if algorithm != "sft":
            settings["alignment"] = {"algorithm": algorithm, "beta": 0.1, "label_noise": 0.1}
            script = [ROOT / "scripts/align.py", self.folder / "preferences.json"]
            script += ["--reference", self.folder / "reference.json"]
        script += ["--model", self.folder / "base", "--rubric", RUBRIC, "--settings", json.dumps(settings)]
        script += ["--output", checkpoint, "--manifest", f"{checkpoint}.json", "--save-minutes", "0", *saving]
        return [str(part) for part in script]


def weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    return load_file(checkpoint / "model.safetensors")
