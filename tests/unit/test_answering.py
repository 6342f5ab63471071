"""Answering with many rows at a time: sampling is true to the model, and what cannot be right is not answered."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

from pedalign.generation.common import Completion, GenerationSettings, History
from pedalign.generation.engines import choose_engine
from pedalign.generation.shared_prefix_engine import generate

SHAPE = {
    "vocab_size": 24,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.3,
}
PROMPT = [5, 9, 3, 7, 2, 11, 8, 4, 6, 3, 9, 12, 20, 15, 4, 7, 19, 2, 13, 21, 6, 10, 8, 17]

NEVER = 99  # an end token that no model of this vocabulary gives


def settings(**changed: object) -> GenerationSettings:
    values = {"max_new_tokens": 8, "min_new_tokens": 0, "temperature": 0.0, "repetition_penalty": 1.0, "seed": 42}
    return GenerationSettings(**{**values, "max_batch_tokens": 10_000, **changed})


@pytest.fixture
def model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**SHAPE)).eval()


def test_sampled_tokens_come_as_often_as_the_model_says(model) -> None:
    rows, temperature, penalty = 4000, 0.2, 1.5
    model.lm_head.weight.data /= 10  # so that punished tokens of negative logits are drawn often enough to count
    histories = [History(str(at), PROMPT, [len(PROMPT)]) for at in range(rows)]
    wanted = settings(max_new_tokens=1, temperature=temperature, repetition_penalty=penalty)
    answers = [answer[0] for answer in generate(model, histories, 1, wanted)]

    with torch.no_grad():
        logits = model(torch.tensor([PROMPT])).logits[0, -1].clone()
    seen = torch.tensor(sorted(set(PROMPT)))
    assert (logits[seen] < 0).any() and (logits[seen] > 0).any()
    logits[seen] = torch.where(logits[seen] < 0, logits[seen] * penalty, logits[seen] / penalty)
    expected = (logits / temperature).softmax(-1) * rows
    counts = torch.zeros(24)
    for answer in answers:
        counts[answer.ids[0] if answer.ids else 1] += 1
    assert ((counts - expected).abs() <= 4.5 * expected.sqrt() + 1).all()


def test_a_reply_ends_at_the_end_token_but_not_before_its_least_length(model) -> None:
    history = [History("a", PROMPT, [len(PROMPT)])]
    ((free,),) = generate(model, history, NEVER, settings())
    assert (len(free.ids), free.finish_reason) == (8, "length")
    end = free.ids[0]
    assert generate(model, history, end, settings()) == [[Completion([], "stop")]]
    ((late,),) = generate(model, history, end, settings(min_new_tokens=3))
    assert len(late.ids) >= 3 and end not in late.ids


def test_a_model_computes_the_same_after_it_has_answered(model) -> None:
    ids = torch.tensor([PROMPT])
    before = model(ids).logits
    generate(model, [History("a", PROMPT, [3, 9, len(PROMPT)])], 1, settings())
    assert torch.equal(model(ids).logits, before)


def test_a_history_longer_than_a_sliding_window_is_answered_right() -> None:
    torch.manual_seed(0)
    model = MistralForCausalLM(MistralConfig(**SHAPE, sliding_window=6)).eval()
    prompt, asked = torch.tensor([PROMPT]), [History("a", PROMPT, [len(PROMPT)])]
    output = model.generate(prompt, attention_mask=torch.ones_like(prompt), do_sample=False, max_new_tokens=8)
    ((answer,),) = choose_engine(model, asked, settings()).generate(model, asked, NEVER, settings())
    assert answer.ids == output[0, len(PROMPT) :].tolist()
