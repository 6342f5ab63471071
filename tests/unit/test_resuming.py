"""A training that was ended goes on where it was, and its result is that of one that was not; or it starts over."""

import dataclasses
import json
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import small
from hypothesis import given
from hypothesis import strategies as st
from launched import Inputs, Launched, alive, until, weights

from pedalign.core.artifacts import read_json, write_json, write_text
from pedalign.training import loop, states
from pedalign.training.loop import training_order
from pedalign.training.states import KEPT, Origin, TrainingStates, origin

LORA = {"rank": 4, "alpha": 8, "dropout": 0.0, "targets": ["q_proj", "v_proj"], "four_bit": False}
LONG = {"global_batch_size": 4, "epochs": 12}  # 48 steps, which take a second or two: time for a signal
SHORT = {"global_batch_size": 4, "epochs": 2.5}  # 10 steps


# A script, with a line for each step that it makes.
TOLD = """
import runpy, sys
from pedalign.training.states import TrainingStates
on_step_end = TrainingStates.on_step_end
def told(states, args, state, control, **more):
    if state.is_world_process_zero:
        print(f"trained step {state.global_step}.", flush=True)
    on_step_end(states, args, state, control, **more)
TrainingStates.on_step_end = told
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
THEN = """
from transformers.integrations.deepspeed import unset_hf_deepspeed_config
unset_hf_deepspeed_config()
sys.argv = {}
runpy.run_path(sys.argv[0], run_name="__main__")
"""


class Died(Exception):
    """In place of the death of the process."""


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Inputs:
    return Inputs(tmp_path_factory.mktemp("inputs"))


def run_here(script: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a script and its arguments in this process."""
    monkeypatch.setattr("sys.argv", script)
    runpy.run_path(script[0], run_name="__main__")


class Work:
    """Trains one checkpoint, in this process or in others."""

    def __init__(self, inputs: Inputs, folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture):
        self.inputs, self.folder, self.monkeypatch, self.capfd = inputs, folder, monkeypatch, capfd
        self.checkpoint = folder / "checkpoint"
        self.jobs: list[Launched] = []

    def script(self, algorithm: str, *saving: str, **how) -> list[str]:
        return self.inputs.script(algorithm, self.checkpoint, *saving, **how)

    def here(self, script: list[str]) -> str:
        """What the script says, run in this process; `trained` are the steps that it makes."""
        on_step_end = TrainingStates.on_step_end
        self.trained: list[int] = []

        def noted(states, args, state, control, **more):
            self.trained.append(state.global_step)
            on_step_end(states, args, state, control, **more)

        self.capfd.readouterr()
        with self.monkeypatch.context() as patched:
            patched.setattr(TrainingStates, "on_step_end", noted)
            run_here(script, patched)
        return self.capfd.readouterr().out

    def launched(self, script: list[str], gpu: int = 0, then: list[str] | None = None, warm: bool = True) -> Launched:
        """`then`: another one, which the same processes run after it."""
        (self.folder / "told.py").write_text(TOLD + (THEN.format(then) if then else ""))
        self.jobs.append(Launched(self.folder, self.folder / "told.py", *script, gpu=gpu, warm=warm))
        return self.jobs[-1]

    def dies_after(self, step: int, script: list[str]) -> None:
        """Run the script here until it has saved its state of this step."""
        on_save = TrainingStates.on_save

        def dying(states, args, state, control, **more):
            on_save(states, args, state, control, **more)
            assert len(list(states.folder.glob("*/whole.json"))) <= KEPT
            if state.global_step == step:
                raise Died

        with self.monkeypatch.context() as patched, pytest.raises(Died):
            patched.setattr(TrainingStates, "on_save", dying)
            self.here(script)

    @property
    def states(self) -> list[Path]:
        """Those that are whole, the newest last."""
        found = [whole.parent for whole in self.folder.glob("checkpoint.state-*/checkpoint-*/whole.json")]
        return sorted(found, key=lambda state: int(state.name.rpartition("-")[2]))

    @property
    def started(self) -> bool:
        return any(self.folder.glob("checkpoint.state-*/owner"))

    def check_same_as(self, whole: Path) -> None:
        """The result is that of the training that made `whole` without a break, and no state is left."""
        assert (self.checkpoint / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
        one, other = (read_json(Path(f"{made}.json")) for made in (self.checkpoint, whole))
        assert json.dumps(one["history"]) == json.dumps(other["history"]) and one["steps"] == other["steps"]
        assert not list(self.folder.glob("*.state-*"))


def trained(job: Launched) -> list[int]:
    """The steps that it made."""
    return [int(step) for step in re.findall(r"trained step (\d+)\.", job.said)]


@pytest.fixture
def work(inputs, tmp_path, monkeypatch, capfd):
    made = Work(inputs, tmp_path, monkeypatch, capfd)
    yield made
    for job in made.jobs:
        job.process.kill()
        job.ends()


@pytest.fixture(scope="module")
def unbroken(inputs, tmp_path_factory) -> Callable[..., Path]:
    """The checkpoint of a training in one process that nothing disturbs."""
    made: dict[str, Path] = {}

    def maker(algorithm: str, **how) -> Path:
        key = json.dumps([algorithm, how], sort_keys=True)
        if key not in made:
            made[key] = tmp_path_factory.mktemp("unbroken") / "checkpoint"
            with pytest.MonkeyPatch.context() as monkeypatch:
                run_here(inputs.script(algorithm, made[key], **how), monkeypatch)
        return made[key]

    return maker


@pytest.mark.slow
def test_after_a_sigkill_the_newest_state_is_gone_on_with(work, unbroken):
    """States are saved after a part of a minute, by the real clock."""
    script = work.script("sft", "--save-minutes", "0.001", **LONG)
    job = work.launched(script, warm=False)
    assert until(lambda: len(work.states) >= 2)
    (owner,) = work.folder.glob("checkpoint.state-*/owner")
    (process,) = re.findall(r"process (\d+)", owner.read_text())
    job.process.kill()
    assert job.ends() == -signal.SIGKILL and until(lambda: not alive(process))
    assert not work.checkpoint.exists() and len(work.states) in (KEPT, KEPT + 1)  # one may just have been written
    newest = work.states[-1]
    step = int(newest.name.rpartition("-")[2])

    again = work.launched(script)
    assert again.ends() == 0
    assert f"going on from step {step} ({newest})" in again.said and trained(again)[0] == step + 1
    work.check_same_as(unbroken("sft", **LONG))


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["sft", "dpo", "kto", "orpo"])
def test_sigterm_saves_at_the_next_step_and_the_rest_comes_with_the_next_run(work, unbroken, algorithm):
    script = work.script(algorithm, **LONG)
    job = work.launched(script)
    assert until(lambda: work.started)
    job.process.terminate()
    assert job.ends() == 75
    (state,) = work.states
    step = int(state.name.rpartition("-")[2])
    assert f"ended by SIGTERM after step {step}/" in job.said and "run again, it goes on from there" in job.said
    assert not work.checkpoint.exists() and not Path(f"{work.checkpoint}.json").exists()

    assert f"going on from step {step} " in work.here(script)
    assert work.trained[0] == step + 1
    work.check_same_as(unbroken(algorithm, **LONG))


@pytest.mark.slow
def test_without_the_launcher_sigterm_ends_a_training_with_the_same_status(work):
    def terminate(states, *_, **__):
        os.kill(os.getpid(), signal.SIGTERM)

    work.monkeypatch.setattr(TrainingStates, "on_train_begin", terminate)
    with pytest.raises(SystemExit) as ended:
        work.here(work.script("sft", **SHORT))
    assert ended.value.code == 75 and [state.name for state in work.states] == ["checkpoint-1"]


@pytest.mark.slow
def test_sigterm_in_the_last_step_changes_nothing(work, unbroken):
    def terminate(states, args, state, control, **_):
        if state.global_step == state.max_steps - 1:
            os.kill(os.getpid(), signal.SIGTERM)

    work.monkeypatch.setattr(TrainingStates, "on_step_begin", terminate)
    work.here(work.script("sft", **SHORT))
    work.check_same_as(unbroken("sft", **SHORT))
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN  # one more would spoil the exit status


@pytest.mark.slow
def test_random_numbers_go_on_too(work, unbroken):
    how = {"adapter": LORA | {"dropout": 0.5}, **SHORT}
    script = work.script("sft", "--save-steps", "2", **how)
    work.dies_after(6, script)
    assert "going on from step 6 " in work.here(script)
    assert work.trained == [7, 8, 9, 10]
    work.check_same_as(unbroken("sft", **how))
    plain = unbroken("sft", adapter=LORA, **SHORT)
    assert (plain / "model.safetensors").read_bytes() != (work.checkpoint / "model.safetensors").read_bytes()


def cut(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-100] ^= 1
    file.write_bytes(content)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, tear, defect",
    [
        ("optimizer.pt", cut, "not as it was written"),
        ("model.safetensors", flip, "not as it was written"),
        ("trainer_state.json", Path.unlink, "not as it was written"),
        ("whole.json", flip, "not as it was written"),
        ("whole.json", Path.unlink, "not written to its end"),
    ],
)
def test_a_torn_state_is_removed_and_the_one_before_it_is_gone_on_with(work, unbroken, name, tear, defect):
    script = work.script("sft", "--save-steps", "3", **SHORT)
    work.dies_after(9, script)
    older, newest = work.states
    tear(newest / name)
    said = work.here(script)
    assert f"{newest}: {defect}, removed\n" in said and f"going on from step 6 ({older})" in said
    assert work.trained == [7, 8, 9, 10]
    work.check_same_as(unbroken("sft", **SHORT))


@pytest.mark.slow
@pytest.mark.parametrize(
    "different", ["settings.training.learning_rate: 0.002 -> 0.001", "data.sft.json: ", "code: ", "versions.trl: 0 -> "]
)
def test_a_state_of_another_training_is_named_with_what_differs_and_not_used(work, unbroken, different):
    kind = different.split(".")[0].rstrip(": ")
    script = work.script("sft", "--save-steps", "3", **SHORT)
    other = list(script)
    with work.monkeypatch.context() as patched:
        if kind == "settings":
            other = work.script("sft", "--save-steps", "3", learning_rate=2e-3, **SHORT)
        elif kind == "data":
            records = read_json(Path(script[1]))
            other[1] = str(work.folder / "sft.json")
            write_json(Path(other[1]), records[::-1])
        elif kind == "code":
            patched.setattr(states, "digest", lambda script: "other")
        else:
            version = states.version
            patched.setattr(states, "version", lambda package: "0" if package == "trl" else version(package))
        work.dies_after(6, other)
    (folder,) = work.folder.glob("*.state-*")
    said = work.here(script)
    (line,) = (line for line in said.splitlines() if "another training" in line)
    assert line.startswith(f"{folder}: a training state of another training, starting over (") and different in line
    assert work.trained == list(range(1, 11))
    work.check_same_as(unbroken("sft", **SHORT))


@pytest.mark.slow
def test_a_sharded_training_goes_on_too(work, tmp_path_factory):
    inputs = Inputs(tmp_path_factory.mktemp("wide"), wide=True)
    how = {"device_batch_size": 1, "global_batch_size": 4, "epochs": 5}  # steps of a tenth of a second
    script = inputs.script("sft", work.checkpoint, **how)
    job = work.launched(script, gpu=2, warm=False)  # its ranks are signalled
    assert until(lambda: work.started)
    job.process.terminate()
    assert job.ends() == 75
    assert job.said.count("ended by SIGTERM after step ") == 1
    (state,) = work.states
    step = int(state.name.rpartition("-")[2])
    whole = work.folder / "whole"
    again = work.launched(script, gpu=2, then=inputs.script("sft", whole, **how))
    assert again.ends() == 0, again.said[-3000:]
    assert again.said.count(f"going on from step {step} ") == 1
    assert trained(again) == [*range(step + 1, 21), *range(1, 21)]
    work.check_same_as(whole)


@pytest.mark.slow
def test_an_adapter_goes_on_in_another_number_of_ranks(work, unbroken):
    how = {"adapter": LORA, "device_batch_size": 1, **SHORT}
    script = work.script("sft", "--save-steps", "3", **how)
    work.dies_after(6, script)
    job = work.launched(script, gpu=2)
    assert job.ends() == 0, job.said[-3000:]
    assert "going on from step 6 " in job.said and trained(job) == [7, 8, 9, 10]
    whole = unbroken("sft", **how)
    one, other = weights(whole), weights(work.checkpoint)
    # As in test_ranks.py: what is summed in another order.
    assert max(float((one[name] - other[name]).abs().max()) for name in one) < 3e-6
    losses = [
        [step["loss"] for step in read_json(Path(f"{made}.json"))["history"]] for made in (whole, work.checkpoint)
    ]
    assert losses[1] == pytest.approx(losses[0], rel=1e-6) and len(losses[0]) == 10


@pytest.mark.slow
@pytest.mark.parametrize("moment, steps", [("on_step_begin", 6), ("on_train_end", 10)])
@pytest.mark.parametrize("finished", [False, True])
def test_a_training_that_another_process_took_over_stops_and_writes_nothing(work, moment, steps, finished):
    def taken_over(states, args, state, control, **_):
        if state.global_step >= 5 and finished:
            shutil.rmtree(states.folder, ignore_errors=True)
        elif state.global_step >= 5:
            write_text(states.folder / "owner", "node2, process 7")

    work.monkeypatch.setattr(TrainingStates, moment, taken_over)
    with pytest.raises(SystemExit) as ended:
        work.here(work.script("sft", **SHORT))
    problem, remedy = str(ended.value).splitlines()
    other = "one that has finished" if finished else "node2, process 7"
    assert problem == f"error: {work.checkpoint}: another process has taken this training over: {other}"
    assert "nothing is lost" in remedy and work.trained[-1] == steps
    assert not work.checkpoint.exists() and not Path(f"{work.checkpoint}.json").exists()


@pytest.mark.slow
def test_states_are_saved_by_the_clock(work, unbroken):
    """Which stands still but for a minute that each look at it takes; one that saves takes two."""
    saved, minutes, on_save = [], iter(range(10_000)), TrainingStates.on_save

    def noted(states, args, state, control, **more):
        saved.append(state.global_step)
        on_save(states, args, state, control, **more)

    work.monkeypatch.setattr(TrainingStates, "on_save", noted)
    work.monkeypatch.setattr(states, "time", SimpleNamespace(monotonic=lambda: 60.0 * next(minutes)))
    work.here(work.script("sft", "--save-minutes", "3", **SHORT))
    assert saved == [3, 6, 9]
    work.check_same_as(unbroken("sft", **SHORT))


@pytest.mark.slow
def test_a_rank_whose_launcher_died_while_it_started_trains_nothing(work):
    launcher = subprocess.Popen(["true"])
    launcher.wait()
    environment = os.environ | {"WORLD_SIZE": "2", "RANK": "0", "PEDALIGN_LAUNCHER": str(launcher.pid)}
    ended = subprocess.run([sys.executable, *work.script("sft")], env=environment, capture_output=True, text=True)
    assert ended.returncode == 1 and ended.stderr.endswith("the launcher has died\n")


def of(processes: int = 1, sharded: bool = False, counted: bool = False, **decides) -> Origin:
    return Origin({"settings": {"seed": 1, "batch": {"size": 4}}, **decides}, processes, sharded, counted)


@pytest.mark.parametrize(
    "here, there, found",
    [
        (of(), of(), []),
        (of(2, sharded=True), of(2, sharded=True), []),
        (of(4, sharded=True), of(2, sharded=True), ["processes: 2 -> 4"]),
        (of(1), of(2, sharded=True), ["processes: 2 -> 1"]),
        (of(2, sharded=True), of(1), ["processes: 1 -> 2"]),
        (of(2, sharded=True), of(2), ["sharded: False -> True"]),
        (of(2), of(1), []),
        (of(1), of(4), []),
        (of(2, counted=True), of(1, counted=True), ["processes: 1 -> 2"]),
        (of(2, counted=True), of(2, counted=True), []),
        (of(code="a"), of(code="b"), ["code: b -> a"]),
        (of(adapter=None), of(adapter={"rank": 4}), ["adapter.rank: 4 -> None"]),
        (
            of(settings={"seed": 2, "batch": {"size": 8}}),
            of(),
            ["settings.batch.size: 4 -> 8", "settings.seed: 1 -> 2"],
        ),
    ],
)
def test_what_keeps_a_state_from_being_gone_on_with_is_named(here, there, found):
    assert here.differences(there) == found
    assert (here.key == there.key) == (here.decides == there.decides)


@pytest.fixture
def saved(tmp_path):
    """Leaves states of these steps, as a training of this origin would."""

    def maker(source: Origin, *steps: int) -> TrainingStates:
        states = TrainingStates(tmp_path / "checkpoint", source, 0, 0)
        states.newest()
        for step in steps:
            write_text(states.folder / f"checkpoint-{step}/weights", "1, 2, 3")
            states.on_save(None, SimpleNamespace(global_step=step), None)
        return states

    return maker


def newest(source: Origin, folder: Path) -> Path | None:
    return TrainingStates(folder / "checkpoint", source, 0, 0).newest()


def test_the_newest_two_states_are_kept_and_steps_are_numbers(saved, tmp_path):
    states = saved(of(), 9, 10, 100, 99)
    assert sorted(state.name for state in states.folder.glob("checkpoint-*")) == ["checkpoint-100", "checkpoint-99"]
    assert newest(of(), tmp_path) == states.folder / "checkpoint-100"


@pytest.mark.parametrize(
    "here, there, difference",
    [
        (of(4, sharded=True), of(2, sharded=True), "processes: 2 -> 4"),
        (of(2, counted=True), of(1, counted=True), "processes: 1 -> 2"),
        (of(code="new"), of(code="old"), "code: old -> new"),
        (of(2), of(1), None),
    ],
)
def test_a_state_that_can_be_adapted_is_used_and_any_other_named_and_removed(
    saved, tmp_path, capfd, here, there, difference
):
    states = saved(there, 3)
    beside = tmp_path / "checkpoint-other.state-1/checkpoint-1"
    beside.mkdir(parents=True)
    found = newest(here, tmp_path)
    if difference:
        assert found is None and not (states.folder / "checkpoint-3").exists()
        line = f"{states.folder}: a training state of another training, starting over ({difference})\n"
        assert capfd.readouterr().out == line
    else:
        assert found == states.folder / "checkpoint-3"
    assert beside.exists()


def test_many_differences_are_cut_short(saved, tmp_path, capfd):
    saved(of(**{f"name{number}": 1 for number in range(9)}), 3)
    assert newest(of(), tmp_path) is None
    assert capfd.readouterr().out.endswith("name3: 1 -> None; name4: 1 -> None; ...)\n")


@pytest.mark.parametrize("text", [None, "{", '{"unknown": 1}', "[]"])
def test_a_state_that_does_not_say_of_what_it_is_is_removed(saved, tmp_path, capfd, text):
    states = saved(of(), 3)
    (states.folder / "origin.json").unlink()
    if text:
        (states.folder / "origin.json").write_text(text)
    assert newest(of(), tmp_path) is None
    assert "it does not say" in capfd.readouterr().out
    assert read_json(states.folder / "origin.json") == dataclasses.asdict(of())


def test_where_all_states_are_torn_the_training_starts_over(saved, tmp_path):
    states = saved(of(), 3, 4)
    cut(states.folder / "checkpoint-3/weights")
    (states.folder / "checkpoint-4/more").touch()
    assert newest(of(), tmp_path) is None and not list(states.folder.glob("checkpoint-*"))


def test_the_origin_is_all_that_decides_the_result(tmp_path, root, monkeypatch):
    data, model, script = tmp_path / "data.json", tmp_path / "model", root / "scripts/sft.py"
    data.write_text("1")
    model.mkdir()
    (model / "weights").write_text("1")
    settings = {"training": {"seed": 1}, "adapter": None, "alignment": None}

    def now(script=script, at_a_time=False, **changed) -> Origin:
        return origin(script, settings | changed, [data], model, at_a_time)

    first = now()
    assert now() == first and not first.counted
    assert [found.split(":")[0] for found in now(training={"seed": 2}).differences(first)] == ["settings.training.seed"]
    assert [found.split(":")[0] for found in now(script=root / "scripts/align.py").differences(first)] == ["code"]
    data.write_text("2")
    assert [found.split(":")[0] for found in now().differences(first)] == ["data.data.json"]
    data.write_text("1")
    (model / "weights").write_text("12")
    assert [found.split(":")[0] for found in now().differences(first)] == ["model"]
    write_json(tmp_path / "model.json", {"files": {"weights": {"sha256": "a"}}})
    with_manifest = now()
    os.utime(model / "weights", (1, 1))
    assert now() == with_manifest  # a checkpoint of ours is known by its manifest
    write_json(tmp_path / "model.json", {"files": {"weights": {"sha256": "b"}}})
    assert [found.split(":")[0] for found in now().differences(with_manifest)] == ["model"]

    assert now(adapter={"dropout": 0.1}).counted and not now(adapter={"dropout": 0.0}).counted
    assert now(at_a_time=True).counted and now(training={"trainer": {"neftune_noise_alpha": 5}}).counted
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    assert (now().processes, now().sharded) == (2, True) and now().key == now().key


@pytest.mark.parametrize(("algorithm", "counts"), [("dpo", False), ("kto", True)])
def test_the_number_of_processes_counts_where_the_loss_depends_on_rows_at_a_time(
    tmp_path, root, monkeypatch, algorithm, counts
):
    told = []
    monkeypatch.setattr(loop, "train_and_save", lambda *given: told.append(given[-1]))
    for name in ("preferences.json", "reference.json"):
        write_json(tmp_path / name, {key: [] for key in ("conversation_id", "turn", "prompt", "chosen", "rejected")})
    aligning = {"algorithm": algorithm, "beta": 0.1, "label_noise": 0.0}
    plain = {"rendering": {}, "training": dataclasses.asdict(small.settings()), "alignment": aligning}
    files = [str(tmp_path / "preferences.json"), "--reference", str(tmp_path / "reference.json")]
    others = [one for name in ("model", "rubric", "output", "manifest") for one in (f"--{name}", name)]
    script = str(root / "scripts/align.py")
    monkeypatch.setattr("sys.argv", [script, *files, *others, "--settings", json.dumps(plain)])
    runpy.run_path(script, run_name="__main__")
    assert told == [counts]


ROWS = st.lists(st.integers(1, 500), min_size=1, max_size=40)


def order(lengths: list[int] | int, size: int = 4, epochs: float = 1, **changed) -> list[int]:
    return training_order(lengths, small.settings(global_batch_size=size, epochs=epochs, **changed))


@given(lengths=ROWS, size=st.integers(1, 9), epochs=st.integers(1, 3), shuffled=st.booleans())
def test_each_epoch_has_each_row_and_is_filled_with_its_first_ones(lengths, size, epochs, shuffled):
    rows = len(lengths)
    made = order(lengths if shuffled else rows, size, epochs)
    epoch = -(-rows // size) * size
    assert len(made) == epochs * epoch
    for start in range(0, len(made), epoch):
        whole, filling = made[start : start + rows], made[start + rows : start + epoch]
        assert sorted(whole) == list(range(rows))
        assert filling == (whole * size)[: len(filling)]
        if not shuffled:
            assert whole == list(range(rows))


@given(lengths=ROWS, size=st.integers(1, 9), epochs=st.floats(0.1, 3))
def test_a_part_of_an_epoch_ends_with_a_whole_step(lengths, size, epochs):
    made, longer = order(lengths, size, epochs), order(lengths, size, 3)
    steps = -(-len(lengths) // size)
    assert len(made) % size == 0 and 0 <= len(made) / size - epochs * steps < 1
    assert made == longer[: len(made)]


@given(lengths=ROWS, seed=st.integers(0, 1000))
def test_the_order_follows_from_the_seed_and_not_from_the_device_batch(lengths, seed):
    made = order(lengths, seed=seed, device_batch_size=1)
    assert made == order(lengths, seed=seed, device_batch_size=4)


def test_another_seed_and_another_epoch_have_another_order():
    lengths = [10 + number % 7 for number in range(40)]
    assert len({tuple(order(lengths, seed=seed)) for seed in range(20)}) == 20
    both = order(lengths, epochs=2)
    assert both[:40] != both[40:] and Counter(both[:40]) == Counter(both[40:])


def test_rows_of_like_length_come_together():
    lengths = [1 + number * 37 % 100 for number in range(100)]
    made = [lengths[row] for row in order(lengths, size=5)]
    spreads = [max(made[at : at + 5]) - min(made[at : at + 5]) for at in range(0, 100, 5)]
    assert sum(spreads) / len(spreads) < 25  # of rows at random: 66
