"""What a model's stages take, against figures by hand and against what is really written."""

import runpy
import shutil
from pathlib import Path

import pytest
import yaml
from launched import RENDERING, ROOT, RUBRIC, Inputs, Launched, until
from small import TALKS
from transformers import LlamaConfig, MistralConfig

from pedalign.cluster.estimates import base_bytes, checkpoint_bytes, model_size, stage_memory, training_state_bytes
from pedalign.data.rubric import load_rubric
from pedalign.models.checkpoints import save_checkpoint
from pedalign.models.prompt_format import renderer
from pedalign.models.scratch import scratch_model, scratch_tokenizer
from pedalign.training.states import TrainingStates
from pedalign.workflow.catalogue import filled_in

MODELS = filled_in(yaml.safe_load((ROOT / "config.yaml").read_text()))["models"]
MISTRAL = MistralConfig(num_key_value_heads=8)  # of 7B, as its defaults are
P = 2 * 32000 * 4096 + 32 * (2 * 4096 * 4096 + 2 * 4096 * 1024 + 3 * 4096 * 14336 + 2 * 4096) + 4096


def test_the_parameters_of_a_7b_model_are_counted_without_its_weights():
    size = model_size(MODELS["mistral-7b"], MISTRAL)
    assert P == 7_241_732_096  # as its model card says, 7.24B
    assert (size.parameters, size.largest_layer) == (P, 32000 * 4096)
    assert size.linear == P - 2 * 32000 * 4096 - 32 * 2 * 4096 - 4096  # all but embeddings, output and norms
    assert size.cached == 2 * 32 * 8 * 128


def test_the_parameters_of_a_model_from_scratch_are_those_that_are_made():
    entry = {**MODELS["tiny"], "vocab_size": 400}
    tokenizer = scratch_tokenizer(TALKS, "tutor", "Teach.", 400)
    made = scratch_model(entry["architecture"], tokenizer, seed=1)
    assert model_size({**entry, "vocab_size": len(tokenizer)}).parameters == made.num_parameters()


def test_a_training_of_all_weights_is_spread_over_the_gpus_with_16_to_18_bytes_a_parameter():
    entry, size = MODELS["mistral-7b"], model_size(MODELS["mistral-7b"], MISTRAL)
    for gpus, nodes in ((2, 1), (4, 1), (8, 2)):
        states = stage_memory(size, entry, "sft", gpus, nodes).held - 4 * 32000 * 4096  # one layer, gathered
        assert 16 * P / gpus <= states <= 18 * P / gpus
    assert stage_memory(size, entry, "sft", 64, 8).held == 2 * P  # the whole model in 16 bits, while it is loaded
    assert stage_memory(size, entry, "sft", 1).held == 4 * 4 * P  # weights, gradients, Adam's two, all in 32 bits
    assert stage_memory(size, entry, "sft", 4).node == 4 * P * 4 * 1.5  # DeepSpeed's, without its zero_init


def test_the_activations_of_the_longest_batch_come_on_top():
    entry, size = MODELS["mistral-7b"], model_size(MODELS["mistral-7b"], MISTRAL)

    def above(stage: str, **changed: object) -> float:
        memory = stage_memory(size, {**entry, stage: {**entry[stage], **changed}}, stage, 4)
        return memory.total - memory.held

    checkpointed = 32 * 2 * 4096 * 4096 + 34 * 4096 * 4096 + 4 * 4096 * 32000
    assert above("sft") == checkpointed
    assert above("align") == 4 * checkpointed  # two pairs at a time, of two replies each
    assert above("sft", gradient_checkpointing=False) == 32 * 34 * 4096 * 4096 + 4 * 4096 * 32000
    assert stage_memory(size, entry, "sft", 4).card() == 40
    assert stage_memory(size, entry, "sft", 1).card() == 141


def test_an_adapter_takes_the_frozen_weights_and_16_bytes_of_each_of_its_own():
    adapter = {"rank": 16, "alpha": 32, "dropout": 0.0, "targets": ["q_proj", "v_proj"], "four_bit": False}
    trained = 32 * 16 * ((4096 + 4096) + (4096 + 1024))
    whole = {**MODELS["mistral-7b"], "adapter": adapter}
    size = model_size(whole, MISTRAL)
    assert (size.parameters, size.adapter) == (P, trained)
    assert stage_memory(size, whole, "sft", 4).held == stage_memory(size, whole, "sft", 1).held == 2 * P + 16 * trained
    quantized = {**whole, "adapter": {**adapter, "four_bit": True}}
    assert 0.5 < (stage_memory(size, quantized, "sft", 1).held - 16 * trained) / P < 0.7


def test_an_adapter_for_layers_that_are_not_there_is_refused(refused):
    adapter = {"rank": 1, "alpha": 1, "dropout": 0.0, "targets": ["query"], "four_bit": False}
    with refused("query", "all-linear"):
        model_size({**MODELS["tiny"], "adapter": adapter})


def test_an_architecture_that_is_none_is_refused(refused):
    with refused("'hidden_sise'", "hidden_size"):
        model_size({**MODELS["tiny"], "architecture": {"model_type": "llama", "hidden_sise": 8}})


def test_answering_takes_weights_and_the_keys_and_values_of_histories_and_replies():
    entry, size = MODELS["mistral-7b"], model_size(MODELS["mistral-7b"], MISTRAL)
    memory = stage_memory(size, entry, "generate", 1)
    assert memory.held == 2 * P + entry["max_length"] * size.cached * 2  # as many as fit: one conversation must
    more = stage_memory(size, {**entry, "generate": {**entry["generate"], "max_batch_tokens": 65536}}, "generate", 1)
    assert more.held == 2 * P + 65536 * size.cached * 2
    assert memory.total < more.held < more.total < 40e9


def test_a_small_models_memory_on_the_cpu_is_the_processs_own():
    memory = stage_memory(model_size(MODELS["tiny"]), MODELS["tiny"], "sft", 0)
    assert 0.5e9 < memory.held < 1e9 and memory.held < memory.total == memory.node < 4e9


# What is really written, of a model that is large enough for its tokenizer to matter little.


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    made = Inputs(tmp_path_factory.mktemp("inputs"))
    tokenizer = scratch_tokenizer(TALKS, "tutor", "Teach.", 400)
    architecture = {"model_type": "llama", "hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 4}
    model = scratch_model({**architecture, "num_attention_heads": 4}, tokenizer, seed=1)
    rendering = renderer(tokenizer, rubric=load_rubric(RUBRIC), **RENDERING)
    shutil.rmtree(made.folder / "base")
    save_checkpoint(model, rendering, tokenizer, made.folder / "base")
    return made


def bytes_of(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


@pytest.mark.slow
@pytest.mark.parametrize(("gpus", "dtype"), [(0, "float32"), (2, "float32"), (0, "bfloat16")])
def test_what_is_written_takes_the_disk_that_was_estimated_within_a_fifth(gpus, dtype, inputs, tmp_path, monkeypatch):
    entry = {"dtype": dtype}
    size = model_size(entry, LlamaConfig.from_pretrained(inputs.folder / "base"))
    checkpoint = tmp_path / "checkpoint"
    script = inputs.script("sft", checkpoint, "--save-steps", "1", epochs=0.5, device_batch_size=2, dtype=dtype)
    folders = set()

    def states() -> list[Path]:
        found = [file.parent for file in tmp_path.glob("checkpoint.state-*/checkpoint-*/whole.json")]
        folders.update((folder, bytes_of(folder)) for folder in found)
        return found

    if gpus:
        training = Launched(tmp_path, *script, gpu=gpus, log=tmp_path / "log")
        assert until(lambda: states() or training.process.poll() is not None, 120)
        assert training.ends() == 0, training.said
    else:
        on_save = TrainingStates.on_save

        def noted(*arguments, **more):
            on_save(*arguments, **more)
            states()

        monkeypatch.setattr(TrainingStates, "on_save", noted)
        monkeypatch.setattr("sys.argv", script)
        runpy.run_path(script[0], run_name="__main__")
    state = max(written for _, written in folders)
    assert training_state_bytes(size, entry, gpus) / 3 == pytest.approx(state, rel=0.2)
    assert checkpoint_bytes(size, entry) == pytest.approx(bytes_of(checkpoint), rel=0.2)
    assert base_bytes(size) == pytest.approx(bytes_of(inputs.folder / "base"), rel=0.2)
