"""What a model's stages take, before anything is loaded: GPU memory, memory of a node, disk. Bytes; estimates.

Sources: DeepSpeed's and accelerate's own estimators for weights, gradients and optimizer states; for activations
"Reducing activation recomputation in large transformer models" (arXiv 2205.05198), cited as [R].
"""

import logging
import warnings
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

import torch
import yaml
from accelerate.commands.estimate import estimate_training_usage  # type: ignore[import-untyped]
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from pedalign.core.errors import UserError
from pedalign.models.checkpoints import LAYER_NUMBERS, cached_numbers
from pedalign.models.scratch import scratch_model
from pedalign.training.states import KEPT

GB = 10**9
CARDS = (16, 24, 40, 48, 80, 141)  # GB of common GPUs
_ZERO3 = Path(__file__).parents[3] / "profiles" / "accelerate" / "zero3.yaml"
_WIDTH = {"float32": 4, "bfloat16": 2}  # bytes of a number
# What a GPU itself takes: 1 to 2 GB for CUDA's context and kernels (transformers' documentation, "Model training
# anatomy"), and 1 GB for memory that is lost between blocks of different sizes.
GPU_RESERVE = 3 * GB
_PROCESS = 0.8 * GB  # Python with torch, transformers and TRL; measured
_FOUR_BITS = (4 + 0.127) / 8  # bytes of a weight with double quantization, arXiv 2305.14314, section 3


@dataclass(frozen=True)
class Size:
    """Of a model, in numbers."""

    parameters: int
    largest_layer: int
    linear: int  # weights of its linear layers but the output
    adapter: int  # trained weights of the adapter; 0 where all weights are trained
    hidden: int
    layers: int
    vocabulary: int
    cached: int  # keys and values of one token


@dataclass(frozen=True)
class Memory:
    """Of one process on its GPU or, without a GPU, in the machine's memory. `held` is there from step to step; with the
    longest batch that the settings allow it is `total`. `node`: what all processes of a node take beside the GPUs."""

    held: float
    total: float
    node: float

    def card(self) -> int | None:
        """GB of the smallest common GPU that holds all of it beside what the GPU takes itself."""
        return next((card for card in CARDS if self.total + GPU_RESERVE <= card * GB), None)


class _Vocabulary:
    """The length of a tokenizer that is not made yet."""

    eos_token_id = pad_token_id = 0

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size


def model_size(entry: dict[str, Any], config: Any = None) -> Size:
    """The size of an entry's model, with the transformers `config` of a pretrained one; no weights are made or read.

    Raises UserError where the architecture is none, or the adapter's targets are no layers of it.
    """
    with torch.device("meta"):
        model: Any
        if config is None:
            model = scratch_model(entry["architecture"], _Vocabulary(entry["vocab_size"]), seed=0)
        else:
            model = AutoModelForCausalLM.from_config(config)
        text = model.config.get_text_config()
        output = model.get_output_embeddings()
        linear = [layer for layer in model.modules() if isinstance(layer, torch.nn.Linear) and layer is not output]
        return Size(
            parameters=sum(weights.numel() for weights in model.parameters()),
            largest_layer=max(sum(own.numel() for own in layer.parameters(recurse=False)) for layer in model.modules()),
            linear=sum(layer.weight.numel() for layer in linear),
            hidden=text.hidden_size,
            layers=text.num_hidden_layers,
            vocabulary=text.vocab_size,
            cached=cached_numbers(text),
            adapter=_adapter(model, entry["adapter"]) if "adapter" in entry else 0,  # last: it changes the model
        )


def read_config(folder: Path) -> Any:
    """Raises UserError where the folder's config.json is none of transformers'."""
    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{folder}: {str(error).splitlines()[0]}", "choose a model that transformers knows") from None


def _adapter(model: PreTrainedModel, adapter: dict[str, Any]) -> int:
    config = LoraConfig(r=adapter["rank"], target_modules=adapter["targets"], task_type="CAUSAL_LM")
    try:
        with warnings.catch_warnings(action="ignore", category=FutureWarning):  # of transformers, about PEFT
            trained: Any = get_peft_model(model, config)
    except ValueError as error:
        raise UserError(
            f"adapter: {str(error).splitlines()[0]}",
            "'targets' names layers of the model, such as [q_proj, v_proj], or is all-linear",
        ) from None
    return sum(weights.numel() for weights in trained.parameters() if weights.requires_grad)


def stage_memory(size: Size, entry: dict[str, Any], stage: str, gpus: int, nodes: int = 1) -> Memory:
    """Of a job of the stage ("sft", "align" or "generate") on `gpus` GPUs over all nodes; 0: on the CPU."""
    if stage == "generate":
        return _generation_memory(size, entry, gpus)
    return _training_memory(size, entry, stage, gpus, nodes)


def _training_memory(size: Size, entry: dict[str, Any], stage: str, gpus: int, nodes: int) -> Memory:
    training, width = entry[stage], _WIDTH[entry["dtype"]]
    if gpus > 1 and not size.adapter:
        held, node = _zero3(size, gpus, nodes)
        held = max(held, size.parameters * width)  # each process puts the whole model on its GPU before it is spread
    else:
        held = _frozen(size, entry, width) + _trained(size)
        node = ceil(gpus / nodes) * (size.parameters * width + _PROCESS)
    rows = training["device_batch_size"] * (2 if stage == "align" else 1)  # of a pair, both replies at once
    tokens = rows * entry["max_length"]
    total = held + _activations(size, tokens, width, training["gradient_checkpointing"])
    return Memory(held, total, node) if gpus else Memory(held + _PROCESS, total + _PROCESS, total + _PROCESS)


def _zero3(size: Size, gpus: int, nodes: int) -> tuple[float, float]:
    """Weights, gradients and Adam's states per GPU, and what a node holds: DeepSpeed's own estimate."""
    logging.disable(logging.WARNING)  # that it finds no GPU
    try:
        from deepspeed.runtime.zero.stage3 import (  # type: ignore[import-untyped]
            estimate_zero3_model_states_mem_needs as estimate,
        )
    finally:
        logging.disable(logging.NOTSET)
    settings = yaml.safe_load(_ZERO3.read_text())["deepspeed_config"]
    node, gpu, _ = estimate(
        total_params=size.parameters,
        largest_layer_params=size.largest_layer,
        num_gpus_per_node=ceil(gpus / nodes),
        num_nodes=nodes,
        cpu_offload=settings["offload_optimizer_device"] == "cpu",
        cpu_offload_params=settings["offload_param_device"] == "cpu",
        zero_init=settings["zero3_init_flag"],
    )
    return gpu, node


def _frozen(size: Size, entry: dict[str, Any], width: int) -> float:
    """Weights that an adapter leaves as they are. In 4 bits: those of the linear layers, the others in float32."""
    if not size.adapter:
        return 0
    if entry["adapter"]["four_bit"]:
        return size.linear * _FOUR_BITS + (size.parameters - size.linear) * 4
    return size.parameters * width


def _trained(size: Size) -> float:
    """Weights, gradients and Adam's two states, in float32: accelerate's estimate."""
    return estimate_training_usage((size.adapter or size.parameters) * 4, "float32")["step"]


def _activations(size: Size, tokens: int, width: int, checkpointing: bool) -> float:
    """34sbh bytes of 16 bits per layer ([R], equation 1, without the part that fused attention does not store), or
    where they are computed again 2sbh per layer and one layer's at a time (section 5); logits take 4sbv (4.3)."""
    layer = LAYER_NUMBERS * tokens * size.hidden * width
    inputs = 2 * tokens * size.hidden * width / 2
    layers = size.layers * inputs + layer if checkpointing else size.layers * layer
    return layers + 4 * tokens * size.vocabulary


def _generation_memory(size: Size, entry: dict[str, Any], gpus: int) -> Memory:
    """Weights, keys and values of histories and replies, and one layer's activations while the histories are read;
    where as many are held as fit, of the longest conversation alone."""
    width, tokens = _WIDTH[entry["dtype"]], entry["generate"]["max_batch_tokens"] or entry["max_length"]
    held = size.parameters * width + size.cached * tokens * width
    total = held + LAYER_NUMBERS * tokens * size.hidden * width
    node = size.parameters * width + _PROCESS
    return Memory(held, total, node) if gpus else Memory(held + _PROCESS, total + _PROCESS, total + _PROCESS)


def checkpoint_bytes(size: Size, entry: dict[str, Any]) -> float:
    """Of a trained model's folder."""
    return size.parameters * _WIDTH[entry["dtype"]]


def base_bytes(size: Size) -> float:
    """Of a model with random weights, which are float32."""
    return size.parameters * 4


def training_state_bytes(size: Size, entry: dict[str, Any], gpus: int) -> float:
    """Of all states that lie there at once: weights and Adam's two states, in float32; ZeRO-3 adds the weights as they
    are used."""
    state = (size.adapter or size.parameters) * 4 * 3
    if gpus > 1 and not size.adapter:
        state += size.parameters * _WIDTH[entry["dtype"]]
    return (KEPT + 1) * state
