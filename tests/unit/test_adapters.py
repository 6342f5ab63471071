"""An adapter is trained alone, and what is saved is a plain model."""

import copy

import pytest
import torch
from small import TALKS, pairs_of, settings, small_model
from transformers import AutoModelForCausalLM

from pedalign.models.adapters import AdapterSettings, load_with_adapter, merged
from pedalign.models.checkpoints import save_checkpoint
from pedalign.models.log_probs import log_probabilities
from pedalign.training.algorithms import AlignmentSettings
from pedalign.training.alignment import align
from pedalign.training.sft import train_sft

pytestmark = pytest.mark.slow

TARGETS = ["q_proj", "v_proj"]


def adapter(**changed) -> AdapterSettings:
    plain = {"rank": 4, "alpha": 8, "dropout": 0.0, "targets": TARGETS, "four_bit": False}
    return AdapterSettings(**{**plain, **changed})


@pytest.fixture
def saved(tmp_path):
    model, tokenizer, renderer = small_model()
    save_checkpoint(model, renderer, tokenizer, tmp_path / "base")
    return str(tmp_path / "base"), tokenizer, renderer


def weights(model) -> dict[str, torch.Tensor]:
    return copy.deepcopy(dict(model.state_dict()))


def scores(model, renderer) -> list[float]:
    rows = [(renderer.encode(talk.messages[:1])[0], renderer.reply_ids("Well.")) for talk in TALKS]
    return log_probabilities(model, rows, 10_000).totals


@pytest.mark.parametrize("stage", ["sft", "dpo", "kto"])
def test_only_the_targets_change_and_plain_transformers_loads_the_result(stage, saved, tmp_path):
    source, tokenizer, renderer = saved
    model = load_with_adapter(source, "float32", adapter())
    before = scores(model, renderer)
    if stage == "sft":
        facts = train_sft(model, tokenizer, renderer, TALKS, settings(epochs=2))
    else:
        pairs = pairs_of(model, renderer, "Hm.", chosen="Well.")
        how = AlignmentSettings(stage, 0.1, 0.0)
        facts = align(model, tokenizer, renderer, pairs, how, settings(epochs=2, warmup=0.0))
    assert facts["history"][-1]["loss"] < facts["history"][0]["loss"]
    trained = scores(model, renderer)
    assert trained != pytest.approx(before, abs=1e-3)

    save_checkpoint(merged(model, source, "float32", adapter()), renderer, tokenizer, tmp_path / "merged")
    assert not list((tmp_path / "merged").glob("adapter*"))
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert scores(plain, renderer) == pytest.approx(trained, abs=1e-3)
    old = weights(AutoModelForCausalLM.from_pretrained(source))
    changed = {name for name, weight in weights(plain).items() if not torch.equal(weight, old[name])}
    assert changed and all(name.split(".")[-2] in TARGETS for name in changed)


def test_all_linear_layers_can_be_meant_at_once(saved):
    model = load_with_adapter(saved[0], "float32", adapter(targets="all-linear"))
    adapted = {name.split(".lora_")[0].split(".")[-1] for name, _ in model.named_parameters() if "lora_" in name}
    assert adapted == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


def test_a_layer_that_the_model_does_not_have_is_refused(saved, refused):
    with refused("adapter", "query", "all-linear"):
        load_with_adapter(saved[0], "float32", adapter(targets=["query"]))


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is there")
def test_four_bits_are_refused_without_a_gpu(saved, refused):
    with refused("four_bit", "CUDA device", "four_bit: false"):
        load_with_adapter(saved[0], "bfloat16", adapter(four_bit=True))
