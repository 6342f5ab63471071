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
from test_chat_models import FAMILIES, of_family
from test_chat_templates import CHATML, TEMPLATES, tokenizer

pytestmark = pytest.mark.slow


def tokens_of(checkout, template):
    data = (checkout.path / "datasets/simulated/bio-dataset-1.json").read_text(encoding="utf-8")
    tokens = tokenizer(template, data[:500_000].split('"value": '), 2000)
    tokens.pad_token = "</s>"
    return tokens


@pytest.fixture
def folder(checkout):
    """A small random model with ChatML, as people get one from the hub."""
    tokens = tokens_of(checkout, CHATML)
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokens), max_position_embeddings=8192, **sizes))
    made = checkout.path / "my-model"
    model.save_pretrained(made)
    tokens.save_pretrained(made)
    return made


def configure(checkout, **changes):
    """The settings file mine.yaml, with few conversations and short replies."""
    quick = yaml.safe_load((checkout.path / "tests/config/quick.yaml").read_text())
    config = {
        **{name: value for name, value in quick.items() if name not in ("models", "runs")},
        "split": {"sft": 4, "dpo": 3, "test": 3},
        "presets": {"laptop": {"generate": {"max_new_tokens": 8}}},
    }
    (checkout.path / "mine.yaml").write_text(yaml.safe_dump(config | changes))


def test_a_folder_and_a_preset_run_to_metrics_with_the_models_own_template(checkout, folder):
    configure(
        checkout,
        runs=[{"model": "mine", "policy": "base"}, {"model": "mine", "algorithm": "dpo", "beta": 0.1}],
        models={"mine": {"path": "my-model", "preset": "laptop"}},
    )
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


@pytest.mark.architectures
def test_each_usual_architecture_runs_to_metrics_from_a_folder_and_a_preset(checkout):
    names = {family: family.replace("_", "-") for family in FAMILIES}
    for family, name in names.items():
        tokens = tokens_of(checkout, TEMPLATES.get(FAMILIES[family], FAMILIES[family]))
        of_family(family, tokens, tokens.eos_token_id, positions=4096).save_pretrained(checkout.path / name)
        tokens.save_pretrained(checkout.path / name)
    configure(checkout, models={name: {"path": name, "preset": "laptop"} for name in names.values()})
    metrics = [
        f"results/{name}/{policy}/test/metrics.json" for name in names.values() for policy in ("sft", "dpo-b0.1")
    ]
    answer = checkout.forked("--cores", "2", *metrics, config="mine.yaml")
    assert answer.returncode == 0, answer.stdout + answer.stderr
    for file in metrics:
        assert json.loads((checkout.path / file).read_text())["n_rows"] > 0
