"""Checkpoints in transformers 4: it computes what transformers 5 does, or refuses to load them."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from checkouts import ROOT
from small import TALKS
from test_tokenizers import llama_tokenizer
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, LlamaTokenizer

from pedalign.core.artifacts import read_json
from pedalign.models.checkpoints import save_checkpoint
from pedalign.models.prompt_format import Renderer
from pedalign.models.scratch import scratch_model, scratch_tokenizer
from pedalign.models.transformers4 import which_transformers

VERSIONS = ("4.57.6", "4.50.3")  # as in the Makefile
SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 512,
    "initializer_range": 0.3,
}
FACTORS = {"short_factor": [1.0, 1.5, 2.0, 2.5], "long_factor": [2.0, 3.0, 4.0, 5.0]}
DEFAULT = {"rope_type": "default", "rope_theta": 1e6}
WINDOWS = {"sliding_window": 64, "num_hidden_layers": 7, "query_pre_attn_scalar": 8}


def llama(kind: str, **rope: Any) -> dict[str, Any]:
    return {**SHAPE, "model_type": "llama", "rope_parameters": {"rope_type": kind, "rope_theta": 5e5, **rope}}


def gemma3(**sliding: Any) -> dict[str, Any]:
    full = {"rope_type": "linear", "rope_theta": 2e6, "factor": 8.0}
    ropes = {"full_attention": full, "sliding_attention": {"rope_type": "default", "rope_theta": 2e4, **sliding}}
    return {**SHAPE, **WINDOWS, "model_type": "gemma3_text", "rope_parameters": ropes}


# name → architecture, and the versions of transformers that read it, as the card says
ARCHITECTURES: dict[str, tuple[dict[str, Any], str]] = {
    "theta": ({**llama("default"), "rope_parameters": DEFAULT}, "4.50 or newer"),
    "linear": (llama("linear", factor=4.0), "4.50 or newer"),
    "dynamic": (llama("dynamic", factor=4.0), "4.50 or newer"),
    "llama3": (
        llama("llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=64),
        "4.50 or newer",
    ),
    "yarn": (llama("yarn", factor=4.0, original_max_position_embeddings=128, beta_fast=16.0), "4.57 or newer"),
    "longrope": (llama("longrope", factor=4.0, original_max_position_embeddings=128, **FACTORS), "4.57 or newer"),
    "longrope of Phi 3": (
        {
            **{name: value for name, value in SHAPE.items() if name != "head_dim"},
            "model_type": "phi3",
            "original_max_position_embeddings": 128,
            "rope_parameters": {"rope_type": "longrope", "rope_theta": 5e5, **FACTORS},
        },
        "4.57 or newer",
    ),
    "layer types of Gemma 3": (gemma3(), "4.57 or newer"),
    "part of the head in GPT-NeoX": (
        {
            **{name: value for name, value in SHAPE.items() if name not in ("head_dim", "num_key_value_heads")},
            "model_type": "gpt_neox",
            "rope_parameters": {**DEFAULT, "partial_rotary_factor": 0.5},
        },
        "4.50 or newer",
    ),
    "experts of qwen3": (
        {
            **{name: value for name, value in SHAPE.items() if name != "head_dim"},
            "model_type": "qwen3_moe",
            "rope_parameters": DEFAULT,
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 16,
        },
        "4.50 or newer",
    ),
    "no rope": ({"model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512}, "4.50 or newer"),
    "scaled sliding layers": (gemma3(rope_type="linear", factor=2.0), "5"),
    "scaled Nemotron": (
        {**SHAPE, "model_type": "nemotron", "rope_parameters": {**DEFAULT, "rope_type": "linear", "factor": 4.0}},
        "5",
    ),
}


def save(folder: Path, architecture: dict[str, Any]) -> Renderer:
    tokenizer = scratch_tokenizer(TALKS, "tutor", "Teach.", 400)
    tokenizer.add_special_tokens({"extra_special_tokens": ["<|pad|>"]})
    rendering = Renderer(tokenizer, "tutor", "Teach.")
    save_checkpoint(scratch_model(architecture, tokenizer, seed=1), rendering, tokenizer, folder)
    return rendering


def prompt(rendering: Renderer) -> torch.Tensor:
    """Longer than what YaRN and LongRoPE stretch from."""
    return torch.tensor([(rendering.encode(TALKS[0].messages)[0] * 20)[:200]])


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_both_names_for_rope_are_in_the_configuration_or_the_card_says_that_transformers_5_is_needed(tmp_path, name):
    architecture, wanted = ARCHITECTURES[name]
    save(tmp_path, architecture)
    written, config = read_json(tmp_path / "config.json"), AutoConfig.from_pretrained(tmp_path)
    assert which_transformers(written) == f"transformers {wanted}"
    assert wanted == "5" or written["torch_dtype"] == written["dtype"] == "float32"
    if "rope_parameters" in architecture:
        found = config.rope_parameters
        nested = {key: value for key, value in architecture["rope_parameters"].items() if isinstance(value, dict)}
        for one, other in [(found[key], nested[key]) for key in nested] or [(found, architecture["rope_parameters"])]:
            assert {key: one[key] for key in other} == other


def test_a_tokenizer_with_a_class_of_its_own_says_the_same_tokens_once_saved(tmp_path):
    state = json.loads(llama_tokenizer().backend_tokenizer.to_str())["model"]
    tokenizer = LlamaTokenizer(vocab=state["vocab"], merges=[tuple(pair) for pair in state["merges"]], pad_token="</s>")
    rendering = Renderer(tokenizer, "vicuna_v1.1", "Teach.")
    save_checkpoint(scratch_model(llama("default"), tokenizer, 1), rendering, tokenizer, tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert type(tokenizer) is not type(again)
    for text in ("Why?", " What  do\nyou know", "a</s>b", "é 空", rendering.text(TALKS[0].messages)):
        assert again(text)["input_ids"] == tokenizer(text)["input_ids"]
        assert again.decode(again(text)["input_ids"]) == tokenizer.decode(tokenizer(text)["input_ids"])


def test_what_attention_of_transformers_4_leaves_out_is_said():
    assert which_transformers({"model_type": "gemma2", "rope_theta": 1e4, "attn_logit_softcapping": 50.0}) == (
        'transformers 4.50 or newer; 4 computes right with `attn_implementation="eager"` alone'
    )


READ = """
import json, sys
from pathlib import Path
import torch, transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

found = {"version": transformers.__version__}
for folder in (Path(sys.argv[1]) / name for name in sys.argv[2:]):
    asked = json.loads((folder / "asked.json").read_text())
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
        model = AutoModelForCausalLM.from_pretrained(folder, torch_dtype="auto").eval()
        ids = torch.tensor(asked["ids"])
        with torch.no_grad():
            logits = model(ids).logits
            reply = model.generate(ids, max_new_tokens=12, do_sample=False)
        text = tokenizer.apply_chat_template(asked["messages"], tokenize=False, add_generation_prompt=True)
        prompt = tokenizer(text, add_special_tokens=False)
        tokens = [prompt["input_ids"], sorted(prompt), tokenizer.all_special_tokens]
        found[folder.name] = [logits.tolist(), reply.tolist(), *tokens]
    except ValueError as error:
        found[folder.name] = str(error)
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory) -> tuple[Path, dict[str, Any]]:
    """Those of ARCHITECTURES, and what transformers 5 gives for them."""
    root, found = tmp_path_factory.mktemp("checkpoints"), {}
    for name, (architecture, _) in ARCHITECTURES.items():
        rendering = save(root / name, architecture)
        ids, messages = prompt(rendering), list(TALKS[0].messages[:3])
        (root / name / "asked.json").write_text(json.dumps({"ids": ids.tolist(), "messages": messages}))
        model = AutoModelForCausalLM.from_pretrained(root / name).eval()
        with torch.no_grad():
            reply = model.generate(ids, max_new_tokens=12, do_sample=False)
            found[name] = (model(ids).logits, reply.tolist(), rendering.encode(messages)[0])
    return root, found


@pytest.mark.transformers4
@pytest.mark.slow
@pytest.mark.parametrize("version", VERSIONS)
def test_transformers_4_computes_the_same_and_refuses_what_it_cannot(checkpoints, version):
    root, wanted = checkpoints
    environment = {**os.environ, "PYTHONPATH": str(ROOT / ".transformers4" / version), "OMP_NUM_THREADS": "1"}
    names = [name for name, (_, least) in ARCHITECTURES.items() if least == "5" or least <= version]
    command = [sys.executable, "-c", READ, root, *names]
    answer = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    found = json.loads(answer.stdout)
    assert found.pop("version") == version
    for name in names:
        if ARCHITECTURES[name][1] == "5":
            assert "TokenizersBackend does not exist" in found[name]
        elif version.startswith("4.50") and "qwen3" in name:
            assert "does not recognize this architecture" in found[name]
        else:
            logits, reply, ids = wanted[name]
            theirs, their_reply, their_ids, inputs, special = found[name]
            difference = (torch.tensor(theirs) - logits).abs().max()
            assert difference < 1e-5, f"{name}: {difference}"
            assert (their_reply, their_ids) == (reply, ids), name
            assert inputs == ["attention_mask", "input_ids"]
            assert "<|pad|>" in special
