"""Each architecture of transformers is answered for by an engine that gives the model's own replies."""

import random
from functools import partial

import pytest
import torch
from architectures import ARCHITECTURES, END, VOCABULARY, make
from checkouts import ROOT
from peft import LoraConfig, get_peft_model
from small import TALKS, small_model
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

from pedalign.generation import engines, plain_engine, shared_prefix_engine
from pedalign.generation.common import GenerationSettings, History, row_seed
from pedalign.generation.engines import ALONE, PLAIN, SHARED_PREFIX, Engine, choose_engine, engine_for

TOKENS = 4
# Of these, transformers' generate and a forward pass over the whole text differ: positions are counted from the tokens
# that are not padding, one of which may be drawn, or scaled by the length.
OTHERWISE = {
    *("camembert", "data2vec-text", "roberta", "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl"),
    *("llama, dynamic rope", "phi3, longrope"),
}


def histories() -> list[History]:
    """Two conversations, one of them of two turns; the prompts lie on both sides of 16 and 32 tokens."""
    rng = random.Random(0)
    found = []
    for number, lengths in enumerate([(13, 20), (36,)]):
        ids = [2, 3, 4, 5, 6, *(rng.randrange(2, VOCABULARY) for _ in range(lengths[-1] - 5))]
        found.append(History(f"c{number}", ids, list(lengths)))
    return found


def settings(**changed) -> GenerationSettings:
    values = {"max_new_tokens": TOKENS, "min_new_tokens": 0, "temperature": 0.0, "repetition_penalty": 1.0, "seed": 7}
    return GenerationSettings(**{**values, "max_batch_tokens": None, **changed})


def prompts(asked: list[History]):
    return [one.ids[:length] for one in asked for length in one.prompt_lengths]


def replies(engine, model, decoding: GenerationSettings) -> list[list[int]]:
    answers = engine.generate(model, histories(), END, decoding)
    return [[*one.ids, *[END] * (one.finish_reason == "stop")] for completions in answers for one in completions]


def forget(model) -> None:
    """Rotary embeddings that depend on the length remember the longest text; a short one resets them."""
    with torch.no_grad():
        model(input_ids=torch.tensor([[3]]))


def by_transformers(model, prompt: list[int]) -> list[int]:
    forget(model)
    model.generation_config = GenerationConfig()  # without tokens that some kinds force
    ids = torch.tensor([prompt])
    how = {"do_sample": False, "max_new_tokens": TOKENS, "eos_token_id": END, "pad_token_id": 0}
    return model.generate(ids, attention_mask=torch.ones_like(ids), **how)[0, len(prompt) :].tolist()


def documented() -> dict[str, str]:
    """Architecture → engine, by the table in docs/how-to/engines.md."""
    page = (ROOT / "docs/how-to/engines.md").read_text(encoding="utf-8")
    found = {}
    for engine in (SHARED_PREFIX, PLAIN, ALONE):
        (names,) = (line.split("|")[2] for line in page.splitlines() if line.startswith(f"| {engine} |"))
        found |= {name.strip(): engine for name in names.split(";")}
    return found


def test_the_table_in_the_docs_has_all_architectures() -> None:
    assert sorted(documented()) == sorted(ARCHITECTURES)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_replies_are_the_models_own(name) -> None:
    model = make(name)
    engine = choose_engine(model, histories(), settings())
    assert engine.name == documented()[name], engine.why
    wanted = [by_transformers(model, prompt) for prompt in prompts(histories())]
    assert replies(engine, model, settings()) == wanted
    sampled = replies(engine, model, settings(temperature=1.0))
    if name in OTHERWISE:
        alone = Engine(ALONE, partial(plain_engine.generate, padded=False))
        assert sampled == replies(alone, model, settings(temperature=1.0))
        return
    keys = [(one.id, turn) for one in histories() for turn in range(len(one.prompt_lengths))]
    for (identity, turn), prompt, reply in zip(keys, prompts(histories()), sampled, strict=True):
        forget(model)
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([prompt + reply])).logits[0, len(prompt) - 1 : -1].double()
        generator = torch.Generator().manual_seed(row_seed(settings(), identity, turn))
        draws = torch.rand(TOKENS, generator=generator).double()
        for token, step, draw in zip(reply, logits.softmax(-1).cumsum(-1), draws, strict=False):
            below = float(step[token - 1]) if token else 0.0
            assert below - 1e-3 <= draw <= float(step[token]) + 1e-3, "not drawn by the model's probabilities"


def wrong(*arguments):
    """Attention whose scores are a little off."""
    query, keys, values, scaling, *bias = arguments
    return RIGHT(query, keys, values, 1.05 * scaling, *bias)


RIGHT = shared_prefix_engine._part


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_engine_whose_attention_is_not_the_models_is_not_taken(dtype, monkeypatch) -> None:
    model = make("llama").to(dtype)
    assert choose_engine(model, histories(), settings()).name == SHARED_PREFIX
    monkeypatch.setattr(shared_prefix_engine, "_part", wrong)
    found = choose_engine(model, histories(), settings())
    assert found.name == PLAIN
    assert "log-probabilities differ" in str(found)


def rounded_model() -> LlamaForCausalLM:
    """One whose rounding in bfloat16 is that of a real pretrained model: 0.08 in the mean, 0.8 at most."""
    torch.manual_seed(0)
    shape = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = LlamaConfig(**shape, vocab_size=4000, num_hidden_layers=8, initializer_range=0.3)
    return LlamaForCausalLM(config).to(torch.bfloat16).eval()


def test_the_rounding_of_16_bits_is_no_mistake_of_an_engine() -> None:
    model = rounded_model()
    before = [weights.data_ptr() for weights in model.parameters()]
    assert choose_engine(model, histories(), settings()).name == SHARED_PREFIX
    assert [weights.data_ptr() for weights in model.parameters()] == before
    assert model.dtype == torch.bfloat16


def test_where_memory_does_not_suffice_for_float32_a_gross_mistake_is_found_in_16_bits(monkeypatch) -> None:
    model = rounded_model()
    monkeypatch.setattr(engines, "free_memory", lambda device: 0)
    assert choose_engine(model, histories(), settings()).name == SHARED_PREFIX
    monkeypatch.setattr(shared_prefix_engine, "_part", lambda query, *rest: RIGHT(2 * query, *rest))
    assert choose_engine(model, histories(), settings()).name == PLAIN


@pytest.mark.parametrize("name", ["xlm-roberta-xl", "llama, dynamic rope", "marian"])
def test_where_memory_does_not_suffice_for_float32_a_models_own_differences_allow_none_of_an_engine(
    name, monkeypatch
) -> None:
    monkeypatch.setattr(engines, "free_memory", lambda device: 0)
    assert choose_engine(make(name).to(torch.bfloat16), histories(), settings()).name == documented()[name]


def test_where_memory_ends_in_the_proof_in_float32_the_model_is_proved_as_it_is(monkeypatch) -> None:
    model = rounded_model()
    before = [weights.data_ptr() for weights in model.parameters()]
    own, converted = torch.Tensor.to, []

    def full(self, *given, **how):
        if self.dtype == torch.bfloat16 and given == (torch.float32,):
            converted.append(self)
            if len(converted) == 5:
                raise torch.OutOfMemoryError
        return own(self, *given, **how)

    monkeypatch.setattr(torch.Tensor, "to", full)
    assert choose_engine(model, histories(), settings()).name == SHARED_PREFIX
    assert len(converted) >= 5
    assert [weights.data_ptr() for weights in model.parameters()] == before


def test_an_adapter_on_a_model_in_16_bits_is_trained_after_the_proof() -> None:
    model, _, renderer = small_model()
    adapted = get_peft_model(model.to(torch.bfloat16), LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear"))
    assert engine_for(adapted, renderer, TALKS, "auto").name == SHARED_PREFIX
    ids = torch.tensor([[3, 4, 5]])
    adapted(input_ids=ids, labels=ids).loss.backward()
    assert any(weights.grad is not None and weights.grad.any() for weights in adapted.parameters())


def test_an_engine_that_is_asked_for_but_is_not_the_models_is_refused(refused) -> None:
    with refused("shared_prefix", "gpt_oss", "engine: auto"):
        choose_engine(make("gpt_oss"), histories(), settings(engine="shared_prefix"))
    assert choose_engine(make("llama"), histories(), settings(engine="plain")).name == PLAIN
    with refused("'fast' is not known", "valid: auto, plain, shared_prefix"):
        choose_engine(make("llama"), histories(), settings(engine="fast"))


def test_a_window_that_only_a_long_reply_reaches_is_found() -> None:
    asked = [History("short", list(range(2, 10)), [8])]
    model = make("mistral, window 16")
    assert choose_engine(model, asked, settings(max_new_tokens=2)).name == SHARED_PREFIX
    assert choose_engine(model, asked, settings(max_new_tokens=40)).name == PLAIN


def test_the_engine_is_known_before_the_training_with_an_adapter_too() -> None:
    model, _, renderer = small_model()
    model.train()
    assert engine_for(model, renderer, TALKS, "auto").name == SHARED_PREFIX
    assert model.training and model.config._attn_implementation == "sdpa"
    adapted = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear"))
    assert engine_for(adapted, renderer, TALKS, "auto").name == SHARED_PREFIX


def test_what_transformers_itself_can_not_answer_is_refused_in_two_lines(refused, monkeypatch) -> None:
    model = make("llama")
    monkeypatch.setattr(model, "prepare_inputs_for_generation", lambda *_, **__: {}["inputs"])
    with refused("transformers' own generate fails with this llama model", "another architecture"):
        choose_engine(model, histories(), settings())
