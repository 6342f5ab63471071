"""A chat model with its own template, from the prompt to the losses: as plain transformers and TRL have it."""

import copy
import math

import pytest
import torch
from architectures import config
from datasets import Dataset
from small import settings
from test_chat_templates import CHATML, TEMPLATES, tokenizer
from test_losses import losses, trained
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

from pedalign.data.conversations import Conversation
from pedalign.generation.common import GenerationSettings, history
from pedalign.generation.engines import engine_for
from pedalign.models.log_probs import log_probabilities
from pedalign.models.prompt_format import Renderer
from pedalign.training.algorithms import AlignmentSettings
from pedalign.training.alignment import Pair, align
from pedalign.training.sft import train_sft

pytestmark = pytest.mark.slow

INSTRUCTION = "Teach."
OLMO = (
    "{{ bos_token }}{% for message in messages %}<|{{ message['role'] }}|>\n{{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}</s>{% endif %}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'user' %}[INST]{{ message['content'] }}[/INST]"
    "{% elif message['role'] == 'assistant' %}{{ message['content'] }}</s>"
    "{% else %}{{ raise_exception('Only user and assistant roles are supported.') }}{% endif %}{% endfor %}"
)
# Architecture → the template of its chat models, of those that TRL holds where it is one of them.
FAMILIES = {
    "llama": "llama3_1",
    "qwen2": "qwen2_5",
    "qwen3": "qwen3",
    "gemma2": "gemma",
    "gemma3_text": "gemma3",
    "phi3": "phi3",
    "olmo2": OLMO,
    "mistral": MISTRAL,
    "gpt2": CHATML,
    "gpt_neox": CHATML,
    "mixtral": CHATML,
}
# Of each kind of template one; `make test-architectures` takes all.
USUAL = ("llama", "qwen3", "gemma2", "mixtral")
TEXTS = ("Q. Why?", '{"Action": "1"}', "Hm, I see.\n\nReally?", '{"Action": "2", "Tutorbot": "Yes."}')
# Three steps, each over all of TALKS, whatever their order.
THREE_STEPS = settings(epochs=3, learning_rate=1e-3, scheduler="constant", warmup=0.0)


def messages(*texts: str) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[at % 2], "content": text} for at, text in enumerate(texts)]


TALKS = [Conversation(str(at), tuple(messages(f"{at}. {TEXTS[0]}", *TEXTS[1:]))) for at in range(4)]


def of_family(family: str, tokens: PreTrainedTokenizerBase, end_id: int, positions: int = 512) -> PreTrainedModel:
    """A small model with random weights, which knows these tokens."""
    asked = config(family).to_dict() | {"vocab_size": len(tokens), "eos_token_id": end_id}
    asked["n_positions" if family == "gpt2" else "max_position_embeddings"] = positions
    asked["router_aux_loss_coef"] = 0.0  # of a mixture of experts, a loss beside those that are compared
    asked |= {name: 0.0 for name, value in asked.items() if "drop" in name and isinstance(value, float)}
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(type(config(family)).from_dict(asked), dtype=torch.float32)


@pytest.fixture(
    params=[one if one in USUAL else pytest.param(one, marks=pytest.mark.architectures) for one in FAMILIES]
)
def made(request) -> tuple[PreTrainedModel, Renderer]:
    """A small random model, and the renderer of its own chat template."""
    template = FAMILIES[request.param]
    renderer = Renderer(tokenizer(TEMPLATES.get(template, template)), "auto", INSTRUCTION)
    renderer.tokenizer.pad_token = "<s>"
    return of_family(request.param, renderer.tokenizer, renderer.end_id).eval(), renderer


def test_greedy_replies_are_transformers_own_to_the_templates_prompt(made) -> None:
    model, renderer = made
    decoding = GenerationSettings(
        **{"max_new_tokens": 6, "min_new_tokens": 0, "temperature": 0.0, "repetition_penalty": 1.0, "seed": 1},
        max_batch_tokens=None,
    )
    prompts = [talk.messages[:end] for talk in TALKS[:2] for end in (1, 3)]
    asked = [history(talk.id, [talk.messages[:1], talk.messages[:3]], renderer) for talk in TALKS[:2]]
    engine = engine_for(model, renderer, TALKS, "auto")
    found = [one.ids for completions in engine.generate(model, asked, renderer.end_id, decoding) for one in completions]
    model.generation_config = GenerationConfig()
    saved = renderer.tokenizer
    saved.chat_template = renderer.jinja()
    for prompt, reply in zip(prompts, found, strict=True):
        ids = saved.apply_chat_template([*prompt], add_generation_prompt=True, return_dict=True, return_tensors="pt")
        how = {"do_sample": False, "max_new_tokens": 6, "eos_token_id": renderer.end_id, "pad_token_id": 0}
        right = model.generate(**ids, **how)[0, ids["input_ids"].shape[1] :].tolist()
        assert reply == [token for token in right if token != renderer.end_id]


def test_fine_tuning_has_the_losses_of_plain_trl_on_the_tutors_turns_of_the_template(made) -> None:
    model, renderer = made
    plain, tokens = copy.deepcopy(model), renderer.tokenizer
    ours = losses(train_sft(model, tokens, renderer, TALKS, THREE_STEPS))
    tokens.chat_template = renderer.jinja()
    arguments = SFTConfig(
        **THREE_STEPS.trainer_arguments(), assistant_only_loss=True, packing=False, eos_token=renderer.template.end
    )
    rows = Dataset.from_list([{"messages": [*talk.messages]} for talk in TALKS] * 3)
    theirs = trained(SFTTrainer(model=plain, args=arguments, train_dataset=rows, processing_class=tokens))
    assert ours == pytest.approx(theirs, rel=1e-4) and ours[2] < ours[0]


def test_alignment_has_the_tokens_and_the_losses_of_plain_trl(made) -> None:
    model, renderer = made
    plain = copy.deepcopy(model)
    replies = ('{"Action": "1"}', '{"Action": "3"}')
    pairs = []
    for talk in TALKS:
        prompt = talk.messages[:3]
        totals = log_probabilities(
            model, [(renderer.encode(prompt)[0], renderer.reply_ids(one)) for one in replies], 10_000
        ).totals
        pairs.append(Pair(prompt, *replies, *totals))
    tokens = renderer.tokenizer
    ours = losses(align(model, tokens, renderer, pairs, AlignmentSettings("dpo", 0.1, 0.0), THREE_STEPS))
    tokens.chat_template = renderer.jinja()
    names = ("chosen", "rejected")
    rows = Dataset.from_list(
        [
            {"prompt": [*pair.prompt]}
            | {side: [{"role": "assistant", "content": one}] for side, one in zip(names, replies, strict=True)}
            for pair in pairs
        ]
        * 3
    )
    trainer = DPOTrainer(
        model=plain,
        ref_model=copy.deepcopy(plain),
        args=DPOConfig(**THREE_STEPS.trainer_arguments(), beta=0.1),
        train_dataset=rows,
        processing_class=tokens,
    )
    for row, pair in zip(trainer.train_dataset, pairs * 3, strict=True):
        assert row["prompt_ids"] == renderer.encode(pair.prompt)[0]
        for side, reply in zip(names, replies, strict=True):
            assert row[f"{side}_ids"] == renderer.reply_ids(reply)
    theirs = trained(trainer)
    assert ours == pytest.approx(theirs, rel=1e-3) and ours[2] < ours[0] == pytest.approx(math.log(2), abs=1e-3)
