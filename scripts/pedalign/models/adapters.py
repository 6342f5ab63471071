"""Low-rank adapters (LoRA, arXiv 2106.09685): a few trained numbers in place of all, merged when training is done."""

import importlib.util
import tempfile
from dataclasses import dataclass
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model, prepare_model_for_kbit_training
from transformers import BitsAndBytesConfig, PreTrainedModel

from pedalign.core.errors import UserError
from pedalign.models.checkpoints import load_model


@dataclass(frozen=True)
class AdapterSettings:
    """`rank` and `alpha` are LoRA's r and alpha; `targets` names the layers, or is "all-linear" (all but the output).
    `four_bit`: the weights that are not trained are held in 4 bits (QLoRA, arXiv 2305.14314)."""

    rank: int
    alpha: int
    dropout: float
    targets: str | list[str]
    four_bit: bool


def load_with_adapter(source: str, dtype: str, settings: AdapterSettings) -> PeftModel:
    """The model of a checkpoint, of which only a new adapter is trained.

    Raises UserError where 4 bits are asked for without a GPU or bitsandbytes, or a target is no layer of the model.
    """
    options: dict[str, Any] = {}
    if settings.four_bit:
        expect_four_bit()
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=getattr(torch, dtype),
        )
    model: Any = load_model(source, dtype, **options)
    if settings.four_bit:
        model = prepare_model_for_kbit_training(model)
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=settings.targets,
        task_type="CAUSAL_LM",
    )
    try:
        return get_peft_model(model, config)
    except ValueError as error:
        raise UserError(
            f"adapter: {str(error).splitlines()[0]}",
            "'targets' names layers of the model, such as [q_proj, v_proj], or is all-linear",
        ) from None


def merged(model: PeftModel, source: str, dtype: str, settings: AdapterSettings) -> PreTrainedModel:
    """The model with its adapter added to the weights of `source`, as plain transformers loads it.

    Weights that were held in 4 bits are read anew, so that what was rounded for training is not rounded in the result.
    """
    if not settings.four_bit:
        return model.merge_and_unload()
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        return PeftModel.from_pretrained(load_model(source, dtype), folder).merge_and_unload()


def expect_four_bit(here: bool = True) -> None:
    """Raises UserError where what 4 bits need is missing. `here`: jobs run on this machine, so a GPU is looked for."""
    missing = []
    if here and not torch.cuda.is_available():
        missing.append("a CUDA device")
    if importlib.util.find_spec("bitsandbytes") is None:
        missing.append("the package bitsandbytes (pip install bitsandbytes)")
    if missing:
        raise UserError(
            f"adapter: four_bit needs {' and '.join(missing)}, not found here",
            "set four_bit: false in the model's entry of config.yaml, or run where both are",
        )
