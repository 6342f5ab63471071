"""Models of the paper's families, small and random: fine-tuned, aligned, and loaded again by plain transformers."""

from argparse import Namespace
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from small import TALKS, pairs_of, settings
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from pedalign.data.rubric import load_rubric
from pedalign.models.checkpoints import load_model, load_tokenizer
from pedalign.models.prompt_format import renderer
from pedalign.training.algorithms import AlignmentSettings
from pedalign.training.alignment import align
from pedalign.training.loop import train_and_save
from pedalign.training.settings import StageSettings
from pedalign.training.sft import train_sft

ROOT = Path(__file__).parents[2]
RUBRIC = ROOT / "datasets/rubrics/mathdial.yaml"
TEXTS = [message["content"] for talk in TALKS for message in talk.messages] + ["[INST] USER: [/INST] ASSISTANT:"]
SHAPE = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
GROUPED = {**SHAPE, "num_key_value_heads": 2}


def sentencepiece_like(**special: str) -> PreTrainedTokenizerFast:
    """Of Llama 2's kind: a space before every text, single bytes for what is not known, <s> in front."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(steps)
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    tokenizer.train_from_iterator(
        TEXTS, trainers.BpeTrainer(vocab_size=500, special_tokens=tokens, show_progress=False)
    )
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names, **special)


def tiktoken_like(*reserved: str, **special: str) -> PreTrainedTokenizerFast:
    """Of Llama 3's kind: bytes, no unknown token, special tokens behind the others."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=450, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(TEXTS, trainer)
    marks = ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
    tokenizer.add_special_tokens([*marks, *reserved])
    bos = ("<|begin_of_text|>", tokenizer.token_to_id("<|begin_of_text|>"))
    tokenizer.post_processor = processors.TemplateProcessing(single="<|begin_of_text|> $A", special_tokens=[bos])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=bos[0], **special)


# family → template, tokenizer, model of a vocabulary size, the token that is to pad
FAMILIES: dict[str, tuple[str, Callable, Callable, str]] = {
    "mistral, no padding token": (
        "mistral",
        sentencepiece_like,
        lambda size: MistralForCausalLM(MistralConfig(**GROUPED, vocab_size=size, sliding_window=None)),
        "<unk>",
    ),
    "zephyr, pads with its end token": (
        "zephyr",
        partial(sentencepiece_like, pad_token="</s>"),
        lambda size: MistralForCausalLM(MistralConfig(**GROUPED, vocab_size=size, sliding_window=4096)),
        "</s>",
    ),
    "vicuna, all key-value heads": (
        "vicuna_v1.1",
        partial(sentencepiece_like, pad_token="<unk>"),
        lambda size: LlamaForCausalLM(LlamaConfig(**SHAPE, vocab_size=size)),
        "<unk>",
    ),
    "llama-3.1, a reserved padding token": (
        "llama-3",
        partial(tiktoken_like, "<|finetune_right_pad_id|>", eos_token="<|eot_id|>"),
        lambda size: LlamaForCausalLM(LlamaConfig(**GROUPED, vocab_size=size)),
        "<|finetune_right_pad_id|>",
    ),
    "llama-3.2, tied, more rows than tokens": (
        "llama-3",
        partial(tiktoken_like, eos_token="<|eot_id|>"),
        lambda size: LlamaForCausalLM(LlamaConfig(**GROUPED, vocab_size=size + 13, tie_word_embeddings=True)),
        "<|eot_id|>",
    ),
    "no padding and no end token": (
        "llama-3",
        tiktoken_like,
        lambda size: LlamaForCausalLM(LlamaConfig(**GROUPED, vocab_size=size)),
        "<|eot_id|>",
    ),
    "the tutor template": (
        "tutor",
        sentencepiece_like,
        lambda size: MistralForCausalLM(MistralConfig(**GROUPED, vocab_size=size, sliding_window=None)),
        "<unk>",
    ),
}


def saved(family: str, folder: Path) -> PreTrainedModel:
    _, make_tokenizer, make_model, _ = FAMILIES[family]
    tokenizer = make_tokenizer()
    torch.manual_seed(0)
    model = make_model(len(tokenizer))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_goes_through_both_trainings_and_back_into_plain_transformers(family, tmp_path):
    template, _, _, pad = FAMILIES[family]
    base = saved(family, tmp_path / "base")
    rendering_settings = {"template": template, "instruction": "compact"}
    stage = StageSettings(rendering_settings, settings(epochs=1, max_length=1024))

    def args(source: str, target: str) -> Namespace:
        manifest = tmp_path / f"{target}.json"
        source, output = tmp_path / source, tmp_path / target
        saving = {"save_minutes": 0, "save_steps": 0, "unlearned": "mark", "trackers": "none", "tensorboard": None}
        return Namespace(model=source, rubric=RUBRIC, output=output, manifest=manifest, **saving)

    script = ROOT / "scripts/sft.py"
    train = partial(train_sft, conversations=TALKS, settings=stage.training)
    train_and_save(script, args("base", "sft"), stage, [], train)
    tutor = tmp_path / "sft"
    rendering = renderer(load_tokenizer(tutor), rubric=load_rubric(RUBRIC), **rendering_settings)
    pairs = pairs_of(load_model(tutor, "float32"), rendering, "hm")
    alignment = AlignmentSettings("dpo", 0.1, 0.0)
    aligning = replace(stage, training=settings(epochs=1, max_length=1024, device_batch_size=2))
    train = partial(align, pairs=pairs, alignment=alignment, settings=aligning.training)
    train_and_save(script, args("sft", "dpo"), aligning, [], train)

    with torch.no_grad():
        before = base(torch.tensor([[5, 6, 7]])).logits
        for target in ("sft", "dpo"):
            folder = tmp_path / target
            rendering = renderer(load_tokenizer(folder), rubric=load_rubric(RUBRIC), **rendering_settings)
            model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
            assert type(model) is type(base)
            assert model.get_input_embeddings().weight.shape == base.get_input_embeddings().weight.shape  # no row added
            assert (tokenizer.pad_token, model.generation_config.eos_token_id) == (pad, rendering.end_id)
            talk = TALKS[3].messages
            assert tokenizer.apply_chat_template(talk, tokenize=False) == rendering.text(talk)
            after = model(torch.tensor([[5, 6, 7]])).logits
            assert not torch.allclose(before, after, atol=1e-4)
            before = after
