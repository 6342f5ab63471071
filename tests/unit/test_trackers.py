"""The curves of a training in TensorBoard's files, and those of Weights & Biases."""

import json
import math
import os
import re
import subprocess
import sys
import sysconfig
import venv

import pytest
from checkouts import ROOT
from small import TALKS, pairs_of, settings, small_model
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import TrainerState, TrainingArguments

from pedalign.training.algorithms import AlignmentSettings
from pedalign.training.alignment import align
from pedalign.training.sft import train_sft
from pedalign.training.trackers import trackers

pytestmark = pytest.mark.slow


def curve(folder, name):
    read = EventAccumulator(str(folder))
    read.Reload()
    return [(event.step, round(event.value, 4)) for event in read.Scalars(f"train/{name}")]


def losses(folder):
    return curve(folder, "loss")


def test_tensorboard_has_the_loss_of_each_step_of_the_newest_training(tmp_path):
    model, tokenizer, renderer = small_model()
    for epochs in (2, 1):
        watchers = trackers(["tensorboard"], tmp_path / "tiny/sft", epochs)
        facts = train_sft(model, tokenizer, renderer, TALKS, settings(epochs=epochs), watchers=watchers)
        steps = [(number + 1, round(entry["loss"], 4)) for number, entry in enumerate(facts["history"])]
        assert losses(tmp_path / "tiny/sft") == steps


def test_the_curve_of_epochs_counts_those_of_the_training(tmp_path):
    watchers = trackers(["tensorboard"], tmp_path, 3)
    train_sft(*small_model(), TALKS, settings(epochs=3), watchers=watchers)
    assert curve(tmp_path, "epoch")[3::4] == [(4, 1.0), (8, 2.0), (12, 3.0)]


def test_tensorboard_has_no_curve_of_what_the_trainer_does_not_compute(tmp_path):
    """With replies of one prompt in two rows, TRL computes neither entropy nor the mean logits."""
    model, tokenizer, renderer = small_model()
    pairs = pairs_of(model, renderer, '{"Move": "telling"}')
    watchers = trackers(["tensorboard"], tmp_path, 1)
    aligning = AlignmentSettings(algorithm="dpo", beta=0.1, label_noise=0.1)
    align(model, tokenizer, renderer, pairs, aligning, settings(epochs=1), watchers=watchers)
    read = EventAccumulator(str(tmp_path))
    read.Reload()
    names = read.Tags()["scalars"]
    assert {"train/loss", "train/rewards/margins"} <= set(names)
    assert not [name for name in names if any(math.isnan(event.value) for event in read.Scalars(name))]


def test_a_training_that_goes_on_has_each_step_once(tmp_path):
    for first, last in ((0, 6), (4, 8)):  # ended after the sixth; its newest state is of the fourth
        (watcher,) = trackers(["tensorboard"], tmp_path, 1)
        state = TrainerState(global_step=first, is_world_process_zero=True)
        watcher.on_train_begin(TrainingArguments(), state, None)
        for step in range(first + 1, last + 1):
            state.global_step = step
            watcher.on_log(None, state, None, logs={"loss": float(step)})
        watcher.on_train_end(None, state, None)
    assert losses(tmp_path) == [(step, float(step)) for step in range(1, 9)]


def test_a_tracker_that_is_not_known_or_not_installed_is_refused(tmp_path, monkeypatch, refused):
    with refused("tensorbord", "did you mean 'tensorboard'"):
        trackers(["tensorbord"], tmp_path, 1)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with refused("'wandb' is not installed", "pip install wandb"):
        trackers(["wandb"], tmp_path, 1)


def training(tracker: str, folder, epochs: int) -> str:
    """A program that trains, its curves in `folder`."""
    return f"""
import sys; sys.path[:0] = [{str(ROOT / "scripts")!r}, {str(ROOT / "tests")!r}]
from pathlib import Path
from small import TALKS, pairs_of, settings, small_model
from pedalign.training.trackers import trackers
from pedalign.training.sft import train_sft
watchers = trackers([{tracker!r}], Path({str(folder)!r}), {epochs})
facts = train_sft(*small_model(), TALKS, settings(epochs={epochs}), watchers=watchers)
print("steps", len(facts["history"]))
"""


def test_weights_and_biases_has_the_training_by_its_name_and_its_loss(tmp_path):
    """In an environment that has its package besides ours; with WANDB_MODE=offline, since there may be no net. A
    training that goes on from its fourth step has the same run, one that starts over another."""
    venv.create(tmp_path / "venv", symlinks=True)
    python = tmp_path / "venv/bin/python"
    packages = next((tmp_path / "venv/lib").glob("python3*")) / "site-packages"
    (packages / "ours.pth").write_text(sysconfig.get_path("purelib"))
    subprocess.run([sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "wandb==0.31.0"], check=True)
    code = f"""{training("wandb", tmp_path / "logs/tiny/sft", epochs=2)}
import json, os, wandb
from transformers import TrainerState, TrainingArguments
run, runs = wandb.run, [wandb.run.id]
found = [run.project, run.name, run.dir, run.summary["train/loss"], facts["history"][-1]["loss"]]
for step in (4, 0):
    wandb.finish()
    wandb.teardown()
    del os.environ["WANDB_RUN_ID"]  # as in another process
    (watcher,) = trackers(["wandb"], Path({str(tmp_path / "logs/tiny/sft")!r}), 2)
    watcher.on_train_begin(TrainingArguments(), TrainerState(global_step=step, is_world_process_zero=True), None)
    runs.append(wandb.run.id)
print("found", json.dumps([*found, runs]))
"""
    key = "0123456789" * 4
    environment = {**os.environ, "WANDB_MODE": "offline", "WANDB_API_KEY": key}
    command = [python, "-c", code]
    answer = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    found = re.search("^found (.*)$", answer.stdout, re.MULTILINE)[1]
    project, name, folder, logged, loss, (first, gone_on, new) = json.loads(found)
    assert (project, name, logged) == ("pedalign", "tiny/sft", loss)
    assert first == gone_on != new
    assert folder.startswith(str(tmp_path / "logs/tiny/wandb/offline-run-"))
    for written in (tmp_path / "logs").rglob("*"):
        assert not written.is_file() or key not in written.read_text(errors="replace"), written


def test_a_tracker_on_a_full_disk_ends_no_training(tmp_path):
    """In a namespace of its own, where the folder is a disk of 8 KB."""
    code = training("tensorboard", tmp_path / "tiny", epochs=20)
    private = ["unshare", "--user", "--map-root-user", "--mount", "bash", "-euc"]
    command = f'mount -t tmpfs -o size=8k none "{tmp_path}"; exec "{sys.executable}" -'
    answer = subprocess.run([*private, command], input=code, capture_output=True, text=True)
    assert "steps 80" in answer.stdout, answer.stderr
    assert "tensorboard: failed, and is no longer used: " in answer.stdout
