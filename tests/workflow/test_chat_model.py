"""A pretrained chat model in two values, its folder and a preset, goes through the whole workflow."""

import json
import sys
from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from pedalign.core.artifacts import read_csv
from pedalign.data.rubric import load_rubric
from pedalign.models.templates import rendered

sys.path.append(str(Path(__file__).parents[1] / "unit"))
from test_chat_templates import CHATML, tokenizer

pytestmark = pytest.mark.slow


@pytest.fixture
def folder(checkout):
    """A small random model with ChatML, as people get one from the hub."""
    data = (checkout.path / "datasets/simulated/bio-dataset-1.json").read_text(encoding="utf-8")
    tokens = tokenizer(CHATML, data[:500_000].split('"value": '), 2000)
    tokens.pad_token = "</s>"
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokens), max_position_embeddings=8192, **sizes))
    made = checkout.path / "my-model"
    model.save_pretrained(made)
    tokens.save_pretrained(made)
    return made


def test_a_folder_and_a_preset_run_to_metrics_with_the_models_own_template(checkout, folder):
    quick = yaml.safe_load((checkout.path / "tests/config/quick.yaml").read_text())
    config = {
        **{name: value for name, value in quick.items() if name != "models"},
        "split": {"sft": 4, "dpo": 3, "test": 3},
        "runs": [{"model": "mine", "policy": "base"}, {"model": "mine", "algorithm": "dpo", "beta": 0.1}],
        "presets": {"laptop": {"generate": {"max_new_tokens": 8}}},
        "models": {"mine": {"path": "my-model", "preset": "laptop"}},
    }
    (checkout.path / "mine.yaml").write_text(yaml.safe_dump(config))
    answer = checkout.forked("--cores", "2", config="mine.yaml")
    assert answer.returncode == 0, answer.stdout + answer.stderr
    results = checkout.path / "results/mine"
    rows = read_csv(checkout.path / "results/summary.csv")
    assert [row["policy"] for row in rows] == ["base", "sft", "dpo-b0.1"]
    assert (results / "base/checkpoint/model.safetensors").resolve() == folder / "model.safetensors"
    for policy in ("sft", "dpo-b0.1"):
        assert json.loads((results / policy / "test/metrics.json").read_text())["n_rows"] > 0
        saved = AutoTokenizer.from_pretrained(results / policy / "checkpoint")
        instruction = load_rubric(checkout.path / "datasets/rubrics/class.yaml").instructions["compact"]
        asked = [{"role": "user", "content": "Q. Why?"}]
        given = [{"role": "system", "content": instruction}, *asked]
        own = rendered(AutoTokenizer.from_pretrained(folder), given, prompt=True)
        assert saved.apply_chat_template(asked, tokenize=False, add_generation_prompt=True) == own
