"""Low-rank adapters (LoRA, arXiv 2106.09685): few weights are trained, and merged into the model after training."""

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
    """The settings of an adapter.

    `rank` and `alpha` are LoRA's r and alpha; `targets` names the layers, or is "all-linear" (all but the output).
    `four_bit`: the weights that are not trained are held in 4 bits (QLoRA, arXiv 2305.14314).
    """

    rank: int
    alpha: int
    dropout: float
    targets: str | list[str]
    four_bit: bool


def load_with_adapter(source: str, dtype: str, settings: AdapterSettings, attention: str | None = None) -> PeftModel:
    """The model of a checkpoint with a new adapter, which alone is trained.

    Raises UserError if 4 bits are asked for without a GPU or bitsandbytes, or a target is not a layer of the model.
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
    model: Any = load_model(source, dtype, attention=attention, **options)
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

    Weights that were held in 4 bits are read again, so that the result does not have the rounding of the training.
    """
    if not settings.four_bit:
        return model.merge_and_unload()
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        return PeftModel.from_pretrained(load_model(source, dtype), folder).merge_and_unload()


def expect_four_bit(here: bool = True) -> None:
    """Raise UserError if a requirement of 4 bits is missing. `here`: jobs run on this machine, so it needs a GPU."""
    missing = []
    if here and not torch.cuda.is_available():
        missing.append("a CUDA device")
    if importlib.util.find_spec("bitsandbytes") is None:
        missing.append("the package bitsandbytes (pip install bitsandbytes)")
    if missing:
        raise UserError(
            f"adapter: four_bit needs {' and '.join(missing)}, not found here",
            "set four_bit: false in the model's entry of config.yaml, or run on a machine that has both",
        )
