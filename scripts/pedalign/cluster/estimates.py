"""Estimates, in bytes, of what a model's stages need, before anything is loaded: GPU memory, node memory, disk.

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
from pedalign.models.limits import model_limits
from pedalign.models.scratch import scratch_model
from pedalign.training.states import KEPT

GB = 10**9
CARDS = (16, 24, 40, 48, 80, 141)  # GB of common GPUs
_ZERO3 = Path(__file__).parents[3] / "profiles" / "accelerate" / "zero3.yaml"
_WIDTH = {"float32": 4, "bfloat16": 2}  # bytes of a number
# Overhead of a GPU: 1 to 2 GB for CUDA's context and kernels (transformers' documentation, "Model training anatomy"),
# and 1 GB lost to fragmentation.
GPU_RESERVE = 3 * GB
_PROCESS = 0.8 * GB  # Python with torch, transformers and TRL; measured
_FOUR_BITS = (4 + 0.127) / 8  # bytes of a weight with double quantization, arXiv 2305.14314, section 3


@dataclass(frozen=True)
class Size:
    """The size of a model: counts of parameters, and dimensions."""

    parameters: int
    largest_layer: int
    linear: int  # weights of its linear layers, without the output layer
    adapter: int  # trained weights of the adapter; 0 where all weights are trained
    hidden: int
    layers: int
    vocabulary: int
    cached: int  # numbers that the keys and values of one token are
    positions: int | None  # most tokens of a text; None: no limit


@dataclass(frozen=True)
class Memory:
    """Memory of one process, on its GPU or, without a GPU, in the machine. `held` stays from step to step; `total` is
    the peak, with the longest batch that the settings allow. `node`: all processes of a node, outside the GPUs."""

    held: float
    total: float
    node: float

    def card(self) -> int | None:
        """GB of the smallest common GPU that is large enough, with GPU_RESERVE on top."""
        return next((card for card in CARDS if self.total + GPU_RESERVE <= card * GB), None)


class _Vocabulary:
    """Stands in for a tokenizer that is not made yet: it only has a length."""

    eos_token_id = pad_token_id = 0

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size


def model_size(entry: dict[str, Any], config: Any = None) -> Size:
    """The size of an entry's model; `config`: of transformers, for a pretrained model. No weights are made or read.

    Raises UserError if the architecture is not valid, or the adapter's targets are not layers of it.
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
            positions=model_limits(model.config).positions,
            adapter=_adapter(model, entry["adapter"]) if "adapter" in entry else 0,  # last: it changes the model
        )


def read_config(folder: Path) -> Any:
    """The transformers config of a folder. Raises UserError if transformers can't read its config.json."""
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
    """Memory of a job of the stage ("sft", "align" or "generate") on `gpus` GPUs over all nodes; 0: on the CPU."""
    if stage == "generate":
        return _generation_memory(size, entry, gpus)
    return _training_memory(size, entry, stage, gpus, nodes)


def _training_memory(size: Size, entry: dict[str, Any], stage: str, gpus: int, nodes: int) -> Memory:
    training, width = entry[stage], _WIDTH[entry["dtype"]]
    if gpus > 1 and not size.adapter:
        held, node = _zero3(size, gpus, nodes)
        held = max(held, size.parameters * width)  # each process has the whole model on its GPU before it is sharded
    else:
        held = _frozen(size, entry, width) + _trained(size)
        node = ceil(gpus / nodes) * (size.parameters * width + _PROCESS)
    rows = training["device_batch_size"] * (2 if stage == "align" else 1)  # both replies of a pair at once
    tokens = rows * entry["max_length"]
    total = held + _activations(size, tokens, width, training["gradient_checkpointing"])
    return Memory(held, total, node) if gpus else Memory(held + _PROCESS, total + _PROCESS, total + _PROCESS)


def _zero3(size: Size, gpus: int, nodes: int) -> tuple[float, float]:
    """Memory per GPU for weights, gradients and Adam's states, and memory per node: DeepSpeed's own estimate."""
    logging.disable(logging.WARNING)  # of DeepSpeed, about a missing GPU
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
    """Weights that an adapter does not train. With `four_bit`, those of linear layers have 4 bits, the others 32."""
    if not size.adapter:
        return 0
    if entry["adapter"]["four_bit"]:
        return size.linear * _FOUR_BITS + (size.parameters - size.linear) * 4
    return size.parameters * width


def _trained(size: Size) -> float:
    """Trained weights, their gradients and Adam's two states, in float32: accelerate's estimate."""
    return estimate_training_usage((size.adapter or size.parameters) * 4, "float32")["step"]


def _activations(size: Size, tokens: int, width: int, checkpointing: bool) -> float:
    """Activations and logits of a training step.

    In 16 bits, a layer takes 34sbh bytes ([R], equation 1, without the part that fused attention does not store). With
    checkpointing a layer takes 2sbh, plus the 34sbh of one layer at a time (section 5). Logits take 4sbv (4.3).
    """
    layer = LAYER_NUMBERS * tokens * size.hidden * width
    inputs = 2 * tokens * size.hidden * width / 2
    layers = size.layers * inputs + layer if checkpointing else size.layers * layer
    return layers + 4 * tokens * size.vocabulary


def _generation_memory(size: Size, entry: dict[str, Any], gpus: int) -> Memory:
    """Weights, keys and values of histories and replies, and one layer's activations while the histories are read.
    Without `max_batch_tokens` (as many as fit), the least: for one conversation of the greatest length."""
    width, generation = _WIDTH[entry["dtype"]], entry["generate"]
    tokens = generation["max_batch_tokens"] or entry.get("max_length") or size.positions or generation["max_new_tokens"]
    held = size.parameters * width + size.cached * tokens * width
    total = held + LAYER_NUMBERS * tokens * size.hidden * width
    node = size.parameters * width + _PROCESS
    return Memory(held, total, node) if gpus else Memory(held + _PROCESS, total + _PROCESS, total + _PROCESS)


def checkpoint_bytes(size: Size, entry: dict[str, Any]) -> float:
    """Size of a trained model's folder."""
    return size.parameters * _WIDTH[entry["dtype"]]


def base_bytes(size: Size) -> float:
    """Size of a folder with random weights, which are float32."""
    return size.parameters * 4


def training_state_bytes(size: Size, entry: dict[str, Any], gpus: int) -> float:
    """Size of all training states that exist at a time: weights and Adam's two states, in float32; with ZeRO-3 also the
    weights in the dtype of the computation."""
    state = (size.adapter or size.parameters) * 4 * 3
    if gpus > 1 and not size.adapter:
        state += size.parameters * _WIDTH[entry["dtype"]]
    return (KEPT + 1) * state
