"""The fast way of answering gives what the plain way gives."""

import random

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

from pedalign.generation import shared_prefix_engine
from pedalign.generation.common import GenerationSettings, History, batches
from pedalign.generation.shared_prefix_engine import generate

END, VOCABULARY = 1, 120
SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "head_dim": 8,
    "initializer_range": 0.3,
}
MODELS = {
    "one key-value head": (LlamaForCausalLM, LlamaConfig(**SHAPE, num_key_value_heads=1, tie_word_embeddings=True)),
    "two key-value heads": (LlamaForCausalLM, LlamaConfig(**SHAPE, num_key_value_heads=2)),
    "all heads": (LlamaForCausalLM, LlamaConfig(**SHAPE, num_key_value_heads=4)),
    "mistral": (MistralForCausalLM, MistralConfig(**SHAPE, num_key_value_heads=2, sliding_window=None)),
}


@pytest.fixture(params=MODELS)
def model(request):
    kind, config = MODELS[request.param]
    torch.manual_seed(0)
    return kind(config).eval()


# For what has nothing to do with the kind of attention.
one_kind = pytest.mark.parametrize("model", ["two key-value heads"], indirect=True)


def histories(count: int = 6, instruction: int = 20) -> list[History]:
    """They all begin with so many tokens."""
    rng = random.Random(0)
    made = []
    for number in range(count):
        ids, lengths = list(range(2, 2 + instruction)), []
        for _ in range(rng.randint(1, 6)):
            ids = ids + [rng.randrange(2, VOCABULARY) for _ in range(rng.randint(3, 30))]
            lengths.append(len(ids))
        made.append(History(f"c{number}", ids, lengths))
    return made


def settings(**changed) -> GenerationSettings:
    plain = {"max_new_tokens": 40, "min_new_tokens": 0, "temperature": 0.0, "repetition_penalty": 1.0}
    return GenerationSettings(**{**plain, "max_batch_tokens": 400, "seed": 7, **changed})


@pytest.mark.parametrize(
    ("changed", "instruction"),
    [({}, 0), ({}, 40), ({"repetition_penalty": 1.2}, 40), ({"min_new_tokens": 10}, 0)],
)
def test_greedy_replies_equal_transformers_one_prompt_at_a_time(model, changed, instruction):
    wanted = settings(**changed)
    answers = generate(model, histories(instruction=instruction), END, wanted)
    model.set_attn_implementation("sdpa")
    for history, completions in zip(histories(instruction=instruction), answers, strict=True):
        for length, completion in zip(history.prompt_lengths, completions, strict=True):
            prompt = torch.tensor([history.ids[:length]])
            output = model.generate(
                prompt,
                attention_mask=torch.ones_like(prompt),
                do_sample=False,
                max_new_tokens=wanted.max_new_tokens,
                min_new_tokens=wanted.min_new_tokens,
                repetition_penalty=wanted.repetition_penalty,
                eos_token_id=END,
                pad_token_id=0,
            )[0, length:].tolist()
            stopped = END in output
            assert completion.ids == (output[: output.index(END)] if stopped else output)
            assert completion.finish_reason == ("stop" if stopped else "length")


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_reply_does_not_depend_on_what_else_is_answered(model, temperature):
    wanted = settings(temperature=temperature)
    together = generate(model, histories(), END, wanted)
    one_by_one = [
        generate(model, [history], END, settings(temperature=temperature, max_batch_tokens=1))[0]
        for history in histories()
    ]
    assert together == one_by_one
    backwards = generate(model, histories()[::-1], END, settings(temperature=temperature, max_batch_tokens=10_000))
    assert together == backwards[::-1]


def test_a_batch_holds_no_more_tokens_than_the_setting_says_unless_it_is_one_conversation():
    many, wanted = histories(100, instruction=50), settings(max_batch_tokens=1000)
    found = batches(many, wanted)
    assert sorted(at for batch in found for at in batch) == list(range(100))
    held = [
        50
        + (max(len(many[at].ids) for at in batch) - 50) * len(batch)
        + sum(len(many[at].prompt_lengths) for at in batch) * wanted.max_new_tokens
        for batch in found
    ]
    assert max(held) <= 1000
    assert sum(held) > 0.7 * 1000 * len(found)
    assert batches(many, settings(max_batch_tokens=1)) == [[at] for batch in found for at in batch]


@one_kind
def test_as_many_are_answered_at_a_time_as_fit_where_no_number_is_given(model, monkeypatch):
    wanted, whole, at_a_time = (
        generate(model, histories(), END, settings(max_batch_tokens=300)),
        shared_prefix_engine._read,
        [],
    )

    def read(model, histories, *rest):
        at_a_time.append(len(histories))
        return whole(model, histories, *rest)

    monkeypatch.setattr(shared_prefix_engine, "_read", read)
    assert generate(model, histories(), END, settings(max_batch_tokens=None)) == wanted
    assert at_a_time == [len(histories())]
    monkeypatch.setattr(shared_prefix_engine, "batch_tokens", lambda model, number: number or 300)  # of a small machine
    assert generate(model, histories(), END, settings(max_batch_tokens=None)) == wanted
    assert len(at_a_time) > 2


@pytest.fixture
def early(monkeypatch):
    """Most replies end after a few tokens, some not at all."""
    choose = shared_prefix_engine.TokenChooser.choose

    def sooner(self, logits, *rest):
        return choose(self, logits + 3 * (torch.arange(VOCABULARY) == END), *rest)

    monkeypatch.setattr(shared_prefix_engine.TokenChooser, "choose", sooner)


@one_kind
@pytest.mark.parametrize("changed", [{}, {"temperature": 1.0}, {"repetition_penalty": 1.2, "min_new_tokens": 3}])
def test_the_last_rows_of_a_batch_go_on_beside_the_next_one(model, early, monkeypatch, changed):
    many, wanted, step, together = (
        histories(100),
        settings(max_batch_tokens=6000, **changed),
        shared_prefix_engine._step,
        [],
    )

    def counted(model, going):
        together.append(len(going))
        step(model, going)

    monkeypatch.setattr(shared_prefix_engine, "_step", counted)
    apart = generate(model, many, END, wanted, selection=batches(many, wanted))
    steps_apart = len(together)
    assert set(together) == {1}
    together.clear()
    assert generate(model, many, END, wanted) == apart
    assert max(together) > 1
    assert len(together) < 0.9 * steps_apart


@one_kind
def test_where_memory_does_not_suffice_beside_rows_that_waited_all_are_answered_once(model, early, monkeypatch):
    many, wanted, step = histories(100), settings(max_batch_tokens=6000), shared_prefix_engine._step
    undisturbed, refused = generate(model, many, END, wanted), []

    def of_a_small_gpu(model, going):
        if len(going) > 1:
            refused.append(going)
            raise torch.OutOfMemoryError
        step(model, going)

    monkeypatch.setattr(shared_prefix_engine, "_step", of_a_small_gpu)
    told = []
    assert generate(model, many, END, wanted, told.append) == undisturbed
    assert refused
    assert told == sorted(told) and told[-1] == sum(len(history.prompt_lengths) for history in many)


@one_kind
def test_what_memory_does_not_suffice_for_is_halved_until_it_does(model, monkeypatch, refused):
    wanted, whole = generate(model, histories(), END, settings(max_batch_tokens=10_000)), shared_prefix_engine._read

    def of_a_small_gpu(room):
        def read(model, histories, *rest):
            if len(histories) > room:
                raise torch.OutOfMemoryError
            return whole(model, histories, *rest)

        monkeypatch.setattr(shared_prefix_engine, "_read", read)

    of_a_small_gpu(2)
    assert generate(model, histories(), END, settings(max_batch_tokens=10_000)) == wanted
    of_a_small_gpu(0)
    with refused("memory does not suffice", "max_new_tokens"):
        generate(model, histories(), END, settings())


@one_kind
def test_another_seed_samples_other_replies(model):
    assert generate(model, histories(), END, settings(temperature=1.0)) == generate(
        model, histories(), END, settings(temperature=1.0)
    )
    assert generate(model, histories(), END, settings(temperature=1.0)) != generate(
        model, histories(), END, settings(temperature=1.0, seed=8)
    )


def test_progress_counts_up_to_all_rows(model):
    seen = []
    generate(model, histories(), END, settings(max_new_tokens=2), seen.append)
    assert seen[-1] == sum(len(history.prompt_lengths) for history in histories())
    assert seen == sorted(seen) and len(seen) > 1
