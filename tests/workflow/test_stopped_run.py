"""Ctrl-C and SIGTERM let trainings save their state, and the next call gives what an undisturbed one does."""

import fcntl
import os
import pty
import shutil
import signal
import subprocess
import termios
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import forked
import pytest
import yaml
from checkouts import QUICK, ROOT, Checkout, made_once
from snakemake.utils import update_config
from waiting import until

MODELS = ("one", "other", "undisturbed")
# A state is saved for a signal alone.
CHANGES = {"training_state": {"minutes": 0, "steps": 0}}
EPOCHS = 6


@pytest.fixture(scope="module")
def ready(shared_folder, finished) -> Checkout:
    """A checkout whose config.yaml is that of a quick run of three models, alike but for their names, with a longer
    fine-tuning, which comes next."""

    def make(path: Path) -> None:
        finished.copy(path)
        shutil.copy(ROOT / "Makefile", path)
        config = yaml.safe_load((path / "config.yaml").read_text())
        for changes in (yaml.safe_load((ROOT / QUICK).read_text()), CHANGES):
            update_config(config, changes)
        model = config["models"]["tiny"]
        model["sft"]["epochs"] = EPOCHS
        shutil.move(path / "results/tiny/base", path / "base")
        (path / "base/.snakemake_timestamp").unlink(missing_ok=True)
        model = {"path": "base"} | {key: model[key] for key in model.keys() - {"init", "architecture", "vocab_size"}}
        runs = [{"model": name, "algorithm": "dpo", "beta": 0.1} for name in MODELS]
        config |= {"models": dict.fromkeys(MODELS, model), "runs": runs}
        (path / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
        done(path, *(f"results/{name}/sft/audit.json" for name in MODELS))

    return made_once(shared_folder / "ready-to-train", make)


def done(path: Path, *targets: str) -> None:
    answer = forked.snakemake(path, "--cores", "2", *targets)
    assert answer.returncode == 0, answer.stdout + answer.stderr


@pytest.fixture
def start(tmp_path) -> Iterator[Callable[..., subprocess.Popen]]:
    """Starts a program in a session of its own; what it says is in the file `said`."""
    started = []

    def starter(command: list[str], **options: Any) -> subprocess.Popen:
        with (tmp_path / "said").open("wb") as said:
            started.append(
                subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT, start_new_session=True, **options)
            )
        return started[-1]

    yield starter
    for one in started:
        if one.poll() is None:
            os.killpg(one.pid, signal.SIGKILL)
        one.wait()


def trains(checkout: Checkout, model: str) -> bool:
    """Its states' folder is made just before its first step."""
    return any(checkout.path.glob(f"results/{model}/sft/checkpoint.state-*/owner"))


def check_stopped(checkout: Checkout, *models: str) -> None:
    """Each training has saved a state and nothing else, and no lock stays."""
    for model in models:
        folder = checkout.path / f"results/{model}/sft"
        assert [path.name for path in folder.glob("checkpoint.state-*/checkpoint-*/whole.json")] == ["whole.json"]
        assert not (folder / "checkpoint").exists() and not (folder / "checkpoint.json").exists()
    assert list(checkout.path.glob(".snakemake/locks/*")) == []


def test_sigterm_lets_trainings_save_and_the_same_call_ends_as_if_nothing_had_been(ready, start, tmp_path):
    checkout = ready.copy(tmp_path / "checkout")
    targets = [f"results/{model}/sft/checkpoint.json" for model in MODELS]
    call = start(["snakemake", "--cores", "2", *targets[:2]], cwd=checkout.path)
    assert until(lambda: all(trains(checkout, model) for model in MODELS[:2]), 180), (tmp_path / "said").read_text()
    call.terminate()
    assert call.wait(120) == 143
    assert (tmp_path / "said").read_text().splitlines()[-1].startswith("Stopped by SIGTERM. Start the same command")
    check_stopped(checkout, *MODELS[:2])

    done(checkout.path, *targets)
    logs = {model: (checkout.path / f"results/logs/{model}/sft/checkpoint.log").read_text() for model in MODELS}
    assert [model for model in MODELS if "going on from step" in logs[model]] == ["one", "other"]
    weights = {(checkout.path / f"results/{model}/sft/checkpoint/model.safetensors").read_bytes() for model in MODELS}
    assert len(weights) == 1


@pytest.mark.parametrize("ctrl_c", [True, False], ids=["Ctrl-C", "SIGTERM"])
def test_make_run_is_stopped_as_snakemake_is(ready, start, tmp_path, ctrl_c):
    checkout = ready.copy(tmp_path / "checkout")
    config = yaml.safe_load((checkout.path / "config.yaml").read_text())
    (checkout.path / "config.yaml").write_text(yaml.safe_dump(config | {"runs": config["runs"][:1]}, sort_keys=False))
    ours, theirs = pty.openpty()

    def take_terminal() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        fcntl.ioctl(theirs, termios.TIOCSCTTY, 0)

    command = ["make", "--old-file", ".venv/installed", "run", "ACTIVATE=true"]
    call = start(command, cwd=checkout.path, stdin=theirs, preexec_fn=take_terminal)
    assert until(lambda: trains(checkout, MODELS[0]), 180), (tmp_path / "said").read_text()
    if ctrl_c:
        os.write(ours, b"\x03")
    else:
        call.terminate()
    assert call.wait(120) != 0
    os.close(ours)
    os.close(theirs)
    said = (tmp_path / "said").read_text()
    assert f"Stopped by {'Ctrl-C' if ctrl_c else 'SIGTERM'}. Start the same command" in said
    assert " failed; its log" not in said
    check_stopped(checkout, MODELS[0])
