"""Loads models and tokenizers, and saves them so that plain transformers loads them."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HTTPError, IncompleteSnapshotError
from safetensors import SafetensorError, safe_open
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from pedalign.core.checkpoint_folders import CARD, CHECKPOINT_FILES, checkpoint_files, missing_weights
from pedalign.core.errors import UserError
from pedalign.core.progress import download_bar
from pedalign.models.prompt_format import Renderer
from pedalign.models.transformers4 import add_names_of_4

MOST_TOKENS = {"cpu": 131072, "cuda": 262144}  # at a time; more were not faster on a CPU, GPUs were not measured
LAYER_NUMBERS = 17  # held per token and hidden unit while a layer is computed: arXiv 2205.05198, equation 1
_PARTS = {AutoConfig: "configuration", AutoTokenizer: "tokenizer", AutoModelForCausalLM: "weights"}

_PADDING = ("<|finetune_right_pad_id|>", "<pad>", "[PAD]")  # Llama 3.1 and others reserve these without declaring them


def load_tokenizer(source: str | Path) -> PreTrainedTokenizerFast:
    """The tokenizer of a checkpoint folder or hub id.

    A tokenizer without a padding token gets one of its other tokens for it: nothing attends to padding or is trained on
    it, and a new token would need a new row of embeddings.
    """
    tokenizer = _load(AutoTokenizer, source)
    if tokenizer.pad_token is None:
        known = tokenizer.get_vocab()
        names = (*_PADDING, tokenizer.unk_token, tokenizer.eos_token)
        tokenizer.pad_token = next((name for name in names if name in known), None)
    return tokenizer


def load_config(source: str | Path) -> Any:
    """The configuration of a checkpoint folder or hub id; nothing else is downloaded."""
    return _load(AutoConfig, source)


def load_model(
    source: str | Path, dtype: str, device: str | None = None, attention: str | None = None, **options: Any
) -> PreTrainedModel:
    """The model of a checkpoint folder or hub id, on the `device` (None: the GPU if there is one); `options` are
    `from_pretrained`'s. `attention`: as transformers calls it; None: as it decides."""
    if not Path(source).is_dir():
        _fetch(source)
    if attention is not None:
        options["attn_implementation"] = attention
    model = _load(AutoModelForCausalLM, source, dtype=getattr(torch, dtype), use_safetensors=True, **options)
    placed = "quantization_config" in options  # quantized weights are put on the GPU as they are read
    if device is None and torch.cuda.is_available():
        device = "cuda"
    return model.to(device) if device and not placed else model


def free_memory(device: torch.device) -> float:
    """Free bytes of memory, on a GPU or, for the CPU, in this machine."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))


def cached_numbers(config: Any) -> int:
    """How many numbers the keys and values of one token have, over all layers; an estimate if layers differ."""
    config = config.get_text_config()

    def number(name: str) -> int | None:
        try:
            return getattr(config, name, None)
        except Exception:  # transformers raises an error of its own if layers differ
            return None

    size = config.hidden_size
    if query_heads := number("num_attention_heads"):
        heads = number("num_key_value_heads") or query_heads
        size = heads * (number("head_dim") or config.hidden_size // query_heads)
    return 2 * config.num_hidden_layers * size


def batch_tokens(model: PreTrainedModel, max_batch_tokens: int | None) -> int:
    """How many tokens to hold at a time: `max_batch_tokens` or, if it is None, as many as fit into the device's memory.

    Other uses of the memory do not count, so that the number is the same each time.
    """
    if max_batch_tokens is not None:
        return max_batch_tokens
    kind = model.device.type
    if kind == "cuda":
        memory = 0.8 * torch.cuda.get_device_properties(model.device).total_memory - model.get_memory_footprint()
    else:
        memory = 0.25 * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    config = model.config.get_text_config()
    bytes_per_token = (cached_numbers(config) + LAYER_NUMBERS * config.hidden_size) * model.dtype.itemsize
    return int(min(max(memory // bytes_per_token, 1), MOST_TOKENS[kind]))


def _fetch(source: str | Path) -> Path:
    """The cache folder with the files of a hub id; missing ones are downloaded."""
    bar = download_bar(f"download {source}")
    try:
        wanted = [*CHECKPOINT_FILES, CARD]  # the card names the licence
        return Path(snapshot_download(str(source), allow_patterns=wanted, tqdm_class=bar))
    except IncompleteSnapshotError as error:  # no network; the cached files may suffice
        return Path(error.snapshot_path)
    except (OSError, ValueError, HTTPError) as error:
        raise UserError(
            f"{source}: neither a folder nor a checkpoint that can be fetched: {str(error).splitlines()[0]}",
            "check the paths in the model's entry of config.yaml; a gated model needs `hf auth login`",
        ) from None


def find_checkpoint(source: str | Path) -> list[Path]:
    """The files of a checkpoint folder or hub id (downloaded first), without pickles and without loading the weights.

    Raises UserError if a configuration, a tokenizer or weights as safetensors are missing.
    """
    folder = Path(source)
    if not folder.is_dir():
        folder = _fetch(source)
    files = checkpoint_files(folder)
    if (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file():
        raise UserError(
            f"{source}: an adapter alone, not a whole model",
            "merge it: PeftModel.from_pretrained(base, adapter).merge_and_unload().save_pretrained(folder)",
        )
    if missing := missing_weights(folder):
        raise UserError(
            f"{source}: a checkpoint folder without {', '.join(missing)}",
            "save it by model.save_pretrained(folder), which writes them; older formats can run code and are not read",
        )
    config = _load(AutoConfig, folder)
    load_tokenizer(folder)
    _check_shapes(config, [file for file in files if file.suffix == ".safetensors"])
    return files


def _check_shapes(config: Any, weights: Iterable[Path]) -> None:
    """Raise UserError if a file of weights is broken, or a weight has another shape than the configuration says."""
    with torch.device("meta"):
        shapes = {name: list(one.shape) for name, one in AutoModelForCausalLM.from_config(config).state_dict().items()}
    for path in weights:
        try:
            with safe_open(path, framework="pt") as file:
                found = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118 (no mapping)
        except (OSError, SafetensorError) as error:
            raise UserError(f"{path}: broken: {error}", "copy or download the checkpoint again") from None
        for name, shape in found.items():
            if shapes.get(name, shape) != shape:
                raise UserError(
                    f"{path}: '{name}' has the shape {shape}, by config.json {shapes[name]}",
                    "use config.json and weights of one checkpoint",
                )


def _load(auto: Any, source: str | Path, **arguments: Any) -> Any:
    try:
        return auto.from_pretrained(str(source), trust_remote_code=False, **arguments)
    except Exception as error:  # untrusted files can make the libraries raise anything
        what = (str(error).splitlines() or [""])[0]
        if "trust_remote_code" in str(error):
            raise UserError(
                f"{source}: comes with code of its own, which is not run (trust_remote_code is off)",
                "use a checkpoint of an architecture that transformers has itself",
            ) from None
        raise UserError(
            f"{source}: no usable checkpoint: its {_PARTS[auto]}: {type(error).__name__}: {what}",
            "check the paths in the model's entry of config.yaml; a gated model needs `hf auth login`",
        ) from None


def save_checkpoint(
    model: PreTrainedModel,
    renderer: Renderer,
    tokenizer: PreTrainedTokenizerFast,
    path: Path,
    weights: dict[str, torch.Tensor] | None = None,
) -> None:
    """Save a checkpoint for plain transformers 5, and for transformers 4 if that can compute the same.

    It has the weights (the model's own if none are given), the tokenizer, a chat template that renders as `renderer`
    does, and the token at which plain `generate` ends.
    """
    tokenizer.chat_template = renderer.jinja()
    for how_it_was_loaded in ("is_local", "local_files_only"):  # the second depends on HF_HUB_OFFLINE
        tokenizer.init_kwargs.pop(how_it_was_loaded, None)
    model.config.pad_token_id = tokenizer.pad_token_id
    model.config.get_text_config().use_cache = True  # training sets it to False, which would slow down generation
    # Not the base model's: its sampling settings are for other replies, and some can't be saved.
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=renderer.end_id, pad_token_id=tokenizer.pad_token_id
    )
    model.save_pretrained(path, state_dict=weights)
    tokenizer.save_pretrained(path)
    add_names_of_4(path, model.config)
    for file in path.iterdir():  # weights are written readable for this user only, other files by the umask
        file.chmod((path / "config.json").stat().st_mode)
