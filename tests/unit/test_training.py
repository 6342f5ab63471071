"""Fine-tuning changes what it should: on a very small model, by TRL's real trainer."""

import math
import time
from argparse import Namespace
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import pytest
import torch
from small import ARCHITECTURE, TALKS, settings, small_model
from transformers import TrainerState

from pedalign.core.errors import UserError
from pedalign.core.processes import accumulation
from pedalign.data.conversations import Conversation
from pedalign.models.checkpoints import load_model, load_tokenizer, save_checkpoint
from pedalign.models.scratch import scratch_model
from pedalign.training.loop import Steps, expect_better, train_and_save
from pedalign.training.settings import StageSettings
from pedalign.training.sft import train_sft
from pedalign.training.trl_log_probs import _InTiles

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
RUBRIC = ROOT / "datasets/rubrics/mathdial.yaml"


@pytest.fixture
def made():
    return small_model()


def test_fine_tuning_lowers_the_loss_and_is_the_same_each_time(made):
    model, tokenizer, renderer = made
    twin = scratch_model(ARCHITECTURE, tokenizer, seed=1)
    facts = train_sft(model, tokenizer, renderer, TALKS, settings())
    assert facts["rows"] == len(TALKS)
    assert facts["steps"] == len(facts["history"]) == 16
    assert 10**8 < facts["peak_memory_bytes"] < 10**11  # bytes
    assert facts["final_loss"] < 0.5 * float(facts["history"][0]["loss"])
    again = train_sft(twin, tokenizer, renderer, TALKS, settings())
    assert again["final_loss"] == facts["final_loss"]
    assert all(torch.equal(one, other) for one, other in zip(model.parameters(), twin.parameters(), strict=True))


def test_only_trained_positions_are_scored_and_the_figures_are_those_of_trls_own_head(made, monkeypatch):
    model, tokenizer, renderer = made
    twin = scratch_model(ARCHITECTURE, tokenizer, seed=1)
    scored = []

    class Recorded(_InTiles):
        @staticmethod
        def apply(hidden, *rest):
            if torch.is_grad_enabled():  # not in the proof before the training
                scored.append(len(hidden))
            return _InTiles.apply(hidden, *rest)

    monkeypatch.setattr("pedalign.training.trl_log_probs._InTiles", Recorded)
    facts = train_sft(model, tokenizer, renderer, TALKS, settings(epochs=1))
    trained = sum(sum(renderer.encode(talk.messages)[1]) for talk in TALKS)
    assert sum(scored) == trained
    for module in ("sft", "loop"):
        monkeypatch.setattr(f"pedalign.training.{module}.fast_head", nullcontext)
    plain = train_sft(twin, tokenizer, renderer, TALKS, settings(epochs=1))
    for step, other in zip(facts["history"], plain["history"], strict=True):
        assert {"loss", "grad_norm"} <= step.keys() and not any(map(math.isnan, step.values()))
        assert step == pytest.approx({name: other[name] for name in step}, rel=1e-5)


def test_accumulated_batches_train_like_whole_ones(made):
    model, tokenizer, renderer = made
    twin = scratch_model(ARCHITECTURE, tokenizer, seed=1)
    train_sft(model, tokenizer, renderer, TALKS, settings())
    train_sft(twin, tokenizer, renderer, TALKS, settings(device_batch_size=1))
    for one, other in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.allclose(one, other, atol=1e-4)


def test_a_batch_that_does_not_divide_is_refused_with_the_numbers():
    assert accumulation(32, 2, processes=4) == 4
    with pytest.raises(UserError, match=r"global_batch_size 6 is not a multiple of device_batch_size 4 x 1"):
        accumulation(6, 4, processes=1)


def test_a_saved_checkpoint_comes_back_and_a_folder_without_weights_is_refused(made, tmp_path):
    model, tokenizer, renderer = made
    save_checkpoint(model, renderer, tokenizer, tmp_path / "whole")
    loaded = load_model(tmp_path / "whole", "float32")
    assert all(
        torch.equal(one, other.cpu()) for one, other in zip(model.parameters(), loaded.parameters(), strict=True)
    )
    text = load_tokenizer(tmp_path / "whole").apply_chat_template(list(TALKS[0].messages), tokenize=False)
    assert text == renderer.text(TALKS[0].messages)
    (tmp_path / "whole/model.safetensors").unlink()
    for name, words in (("whole", "no usable checkpoint"), ("nowhere", "neither a folder nor a checkpoint")):
        with pytest.raises(UserError, match=words):
            load_model(tmp_path / name, "float32")


def test_steps_too_small_for_bfloat16_add_up_in_a_training_that_computes_in_it(made, tmp_path):
    model, tokenizer, renderer = made
    base = model.to(torch.bfloat16)
    save_checkpoint(base, renderer, tokenizer, tmp_path / "base")
    output, manifest = tmp_path / "sft", tmp_path / "sft.json"
    args = Namespace(
        model=tmp_path / "base",
        rubric=RUBRIC,
        output=output,
        manifest=manifest,
        save_minutes=0,
        save_steps=0,
        unlearned="mark",
        trackers="none",
        tensorboard=None,
    )
    slow = settings(dtype="bfloat16", learning_rate=1e-5, scheduler="constant", warmup=0.0, epochs=8)
    stage = StageSettings({"template": "tutor", "instruction": "compact"}, slow)
    train = partial(train_sft, conversations=TALKS, settings=slow)
    train_and_save(ROOT / "scripts/sft.py", args, stage, [], train)
    trained = load_model(output, "bfloat16")
    assert {weight.dtype for weight in trained.parameters()} == {torch.bfloat16}
    name = "model.layers.0.mlp.up_proj.weight"
    before, after = base.state_dict()[name], trained.state_dict()[name].cpu()
    assert (before != after).float().mean() > 0.5


def test_the_time_left_is_that_of_the_steps_that_this_run_did(capsys):
    """Of a training that goes on from step 100, ten steps in twenty seconds."""
    steps = Steps("sft")
    steps.on_train_begin(None, TrainerState(global_step=100, max_steps=120), None)
    steps.progress.marks.append((time.monotonic() - 20, 100))
    steps.progress.said -= 600  # the last line was ten minutes ago
    steps.on_log(None, TrainerState(global_step=110, max_steps=120), None, logs={"loss": 1.0})
    said = capsys.readouterr().out
    assert said == "sft: 110 of 120 steps (92%), 2.0 s each, 00:20 left, loss 1.000\n"


@pytest.mark.parametrize(
    ("spoil", "figure"),
    [(lambda model: None, "grad_norm|loss"), (lambda model: model.lm_head.weight.data.fill_(math.nan), "loss")],
)
def test_a_loss_that_is_no_number_ends_the_training_at_its_step(made, spoil, figure):
    model, tokenizer, renderer = made
    spoil(model)
    with pytest.raises(UserError, match=rf"sft: step \d+ of 16: ({figure}) is (nan|inf)\n.*lower 'learning_rate'"):
        train_sft(model, tokenizer, renderer, TALKS, settings(learning_rate=1e30))


def test_a_training_that_did_not_learn_is_told_and_stopped_where_that_is_wished(made, capsys):
    model, tokenizer, renderer = made
    alike = [Conversation(str(number), TALKS[0].messages) for number in range(16)]
    history = train_sft(model, tokenizer, renderer, alike, settings(learning_rate=1e-12))["history"]
    expect_better(Path("checkpoint"), history, "mark")
    assert capsys.readouterr().out.startswith("warning: checkpoint: the loss did not fall (")
    with pytest.raises(UserError, match="the loss did not fall"):
        expect_better(Path("checkpoint"), history, "stop")
    history = train_sft(model, tokenizer, renderer, alike, settings())["history"]
    expect_better(Path("checkpoint"), history, "stop")
