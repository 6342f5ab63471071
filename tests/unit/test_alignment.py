"""Alignment does what the literature says: on a very small model, by TRL's real trainers."""

import copy
import math
import statistics
from collections import Counter
from dataclasses import replace

import pytest
import torch
from small import TALKS, settings, small_model

from pedalign.core.errors import UserError
from pedalign.models.log_probs import log_probabilities
from pedalign.models.scratch import scratch_model
from pedalign.training import alignment, preference_trainers
from pedalign.training.algorithms import ALGORITHMS, AlignmentSettings
from pedalign.training.alignment import Pair, align, read_pairs
from pedalign.training.preference_trainers import TRAINERS
from pedalign.training.shared_prompt import PromptOnce
from pedalign.training.single_replies import spread

pytestmark = pytest.mark.slow

BETA = 0.2
GOOD, BAD = (f'{{"Move": "{move}", "Tutorbot": "Well."}}' for move in ("focus", "telling"))
LOSS_AT_STEP_0 = {  # where it is the same for every policy that is its own reference
    **dict.fromkeys(("dpo", "cdpo", "robust", "aot", "aot_unpaired", "dpo_norm"), math.log(2)),
    **dict.fromkeys(("nca", "bco"), 2 * math.log(2)),
    **dict.fromkeys(("rso", "apo_zero", "apo_down"), 1.0),
    "ipo": 1 / (2 * BETA) ** 2,
    "sppo": 1 / (2 * BETA**2),
    "kto": 0.5,
    "exo": -math.log(2) - math.log(1e-3 * (1 - 1e-3)) / 2,
    "discopop": (math.log(2) + 1) / 2,
}


@pytest.fixture
def made():
    return small_model()


def algorithm(name: str, beta: float = BETA, label_noise: float = 0.1) -> AlignmentSettings:
    return AlignmentSettings(name, beta, label_noise)


def reply_scores(model, renderer, replies: list[str]) -> list[float]:
    rows = [
        (renderer.encode(talk.messages[:1])[0], renderer.reply_ids(reply))
        for talk, reply in zip(TALKS, replies, strict=True)
    ]
    return log_probabilities(model, rows, 10_000).totals


def pairs(model, renderer, chosen: str = GOOD, rejected: str = BAD) -> list[Pair]:
    scores = [reply_scores(model, renderer, [reply] * len(TALKS)) for reply in (chosen, rejected)]
    return [
        Pair(talk.messages[:1], chosen, rejected, one, other) for talk, one, other in zip(TALKS, *scores, strict=True)
    ]


def loss_at_step_0(name: str, model, renderer, given: list[Pair]) -> float:
    """The mean loss of the pairs, which have replies of the same two lengths, by the algorithm's formula."""
    if name in LOSS_AT_STEP_0:
        return LOSS_AT_STEP_0[name]
    good, bad = ([getattr(pair, f"reference_{side}") for pair in given] for side in ("chosen", "rejected"))
    long, short = (len(renderer.reply_ids(reply)) for reply in (GOOD, BAD))
    entropy = -statistics.mean(good) / long
    if name == "dpo_sft":
        return math.log(2) + entropy
    per_token = [(one / long, other / short) for one, other in zip(good, bad, strict=True)]
    if name == "cpo":
        return entropy + statistics.mean(softplus(BETA * (other - one)) for one, other in zip(good, bad, strict=True))
    if name == "simpo":
        return statistics.mean(softplus(0.5 - BETA * (one - other)) for one, other in per_token)
    assert name == "orpo"
    odds = [one - other - math.log((1 - math.exp(one)) / (1 - math.exp(other))) for one, other in per_token]
    rows = [[*renderer.encode(pair.prompt)[0], *renderer.reply_ids(pair.chosen)] for pair in given]
    totals = log_probabilities(
        model, [(row[:1], row[1:]) for row in rows], 10_000
    ).totals  # ORPO's is of the prompt too
    whole = -sum(totals) / sum(len(row) - 1 for row in rows)
    return whole + BETA * statistics.mean(softplus(-odd) for odd in odds)


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


def margin(model, renderer) -> float:
    good, bad = (sum(reply_scores(model, renderer, [reply] * len(TALKS))) for reply in (GOOD, BAD))
    return good - bad


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_algorithm_starts_at_its_closed_form_and_moves_the_margin_the_right_way(name, made):
    model, tokenizer, renderer = made
    given = pairs(model, renderer)
    before, start = copy.deepcopy(model), margin(model, renderer)
    right = loss_at_step_0(name, model, renderer, given)
    whole = {} if name in LOSS_AT_STEP_0 else {"global_batch_size": 16, "device_batch_size": 16, "epochs": 16}
    how = settings(**{"learning_rate": 1e-3, "warmup": 0.0, **whole})
    facts = align(model, tokenizer, renderer, given, algorithm(name), how)
    assert facts["history"][0]["loss"] == pytest.approx(right, abs=1e-3)
    assert facts["history"][-1]["loss"] < facts["history"][0]["loss"]
    # DiscoPOP's loss rises at a margin of 0, where each training starts (docs/explanation/algorithms.md).
    assert (margin(model, renderer) - start) * (-1 if name == "discopop" else 1) > 0.5
    assert all(not torch.equal(one, other) for one, other in zip(model.parameters(), before.parameters(), strict=True))
    # The reference is what the pairs say, and they are as they were.
    assert pairs(before, renderer) == given


def test_cdpo_is_the_weighted_loss_of_a_pair_as_given_and_turned_round(made, monkeypatch):
    """Mitchell's formula, at a policy that is not the reference."""
    monkeypatch.setattr(alignment, "_expect_reference", lambda *given: None)
    model, tokenizer, renderer = made
    moved = [
        Pair(pair.prompt, pair.chosen, pair.rejected, pair.reference_chosen + 3, pair.reference_rejected - 4)
        for pair in pairs(model, renderer)
    ]
    whole = settings(epochs=1, global_batch_size=16, device_batch_size=16)
    facts = align(model, tokenizer, renderer, moved, algorithm("cdpo", label_noise=0.3), whole)
    logit = BETA * (-3 - 4)
    expected = -0.7 * math.log(1 / (1 + math.exp(-logit))) - 0.3 * math.log(1 / (1 + math.exp(logit)))
    assert facts["history"][0]["loss"] == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("name", ["dpo", "ipo", "rso", "cdpo", "kto", "aot", "dpo_sft"])
def test_the_losses_are_those_of_a_reference_model_held_in_memory(name, made, monkeypatch):
    model, tokenizer, renderer = made
    twin, reference = copy.deepcopy(model), copy.deepcopy(model)
    given = pairs(model, renderer)
    facts = align(model, tokenizer, renderer, given, algorithm(name), settings(epochs=2, learning_rate=1e-3))

    trainer_class, config_class = TRAINERS[ALGORITHMS[name].trainer]
    kept = {}

    def config(**arguments):
        kept.update(arguments)
        return config_class(**arguments)

    def with_a_model(args, train_dataset, **others):
        names = [column for column in train_dataset.column_names if column.startswith("ref_")]
        plain = config_class(**{**kept, "precompute_ref_log_probs": False})
        rows = train_dataset.remove_columns(names)
        return trainer_class(args=plain, train_dataset=rows, ref_model=reference, **others)

    monkeypatch.setitem(TRAINERS, ALGORITHMS[name].trainer, (with_a_model, config))
    monkeypatch.setattr(alignment, "_expect_reference", lambda *given: None)
    other = align(twin, tokenizer, renderer, given, algorithm(name), settings(epochs=2, learning_rate=1e-3))
    losses, others = ([step["loss"] for step in one["history"]] for one in (facts, other))
    assert losses == pytest.approx(others, rel=1e-4, abs=1e-6)
    assert len(set(losses)) > 1


@pytest.mark.parametrize("name", ["dpo", "ipo"])
def test_a_prompt_that_is_computed_once_trains_as_one_that_is_computed_for_each_reply(name, made, monkeypatch):
    model, tokenizer, renderer = made
    twin = copy.deepcopy(model)
    given = []
    for number, talk in enumerate(TALKS):
        prompt = talk.messages[: 1 + number % 3 // 2 * 2]
        chosen, rejected = GOOD[number % 3 :], BAD * (1 + number % 2)
        ids = renderer.encode(prompt)[0]
        scores = log_probabilities(
            model, [(ids, renderer.reply_ids(reply)) for reply in (chosen, rejected)], None
        ).totals
        given.append(Pair(prompt, chosen, rejected, *scores))
    seen = []

    class Counted(PromptOnce):
        def __init__(self, model):
            def counting(**inputs):
                seen.append(inputs["input_ids"].shape)
                return model(**inputs)

            super().__init__(counting)

    monkeypatch.setattr(preference_trainers, "PromptOnce", Counted)
    once = align(model, tokenizer, renderer, given, algorithm(name), settings(epochs=2, learning_rate=1e-3))
    monkeypatch.setattr(preference_trainers, "PromptOnce", lambda model: model)
    twice = align(twin, tokenizer, renderer, given, algorithm(name), settings(epochs=2, learning_rate=1e-3))
    assert seen and all(rows == 4 for rows, _ in seen)  # a row for each pair
    for one, other in zip(once["history"], twice["history"], strict=True):
        assert {"loss", "grad_norm", "logps/chosen", "logps/rejected", "rewards/margins"} <= set(one) == set(other)
        for figure in one:
            assert one[figure] == pytest.approx(other[figure], rel=1e-4, abs=1e-6), figure
    for one, other in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.allclose(one, other, atol=1e-5)


def test_kto_rows_are_shuffled_and_rows_of_one_prompt_are_kept_apart():
    prompts = [str(number) for number in range(20) for _ in range(2)]
    for size in (2, 4, 8, 20):
        order = spread(prompts, size, seed=1)
        assert sorted(order) == list(range(40))
        for start in range(0, 40, size):
            batch = [prompts[at] for at in order[start : start + size]]
            assert len(set(batch)) == len(batch)
    assert spread(prompts, 4, seed=1) == spread(prompts, 4, seed=1) != spread(prompts, 4, seed=2)
    assert order != sorted(order)


def test_prompts_with_many_replies_are_spread_too():
    prompts = [str(number) for number in range(30) for _ in range(2 + 2 * (number % 3))]
    for seed in range(20):
        order = spread(prompts, 8, seed)
        for start in range(0, len(order), 8):
            assert max(Counter(prompts[at] for at in order[start : start + 8]).values()) == 1


def test_too_few_prompts_for_ktos_batches_are_refused(made):
    model, tokenizer, renderer = made
    with pytest.raises(UserError, match="3 prompts are too few for batches of 4"):
        align(model, tokenizer, renderer, pairs(model, renderer)[:3], algorithm("kto"), settings())
    with pytest.raises(UserError, match="device_batch_size is 1"):
        align(model, tokenizer, renderer, pairs(model, renderer), algorithm("kto"), settings(device_batch_size=1))


def test_an_algorithm_that_is_not_known_is_refused_with_the_nearest_name(refused):
    with refused("algorithm 'cpdo' is not known", "cdpo"):
        algorithm("cpdo")


def test_pairs_that_do_not_fit_are_refused_before_training_with_the_longest(made, refused):
    model, tokenizer, renderer = made
    given = pairs(model, renderer)
    reply = "A longer reply. " * 9
    given[5] = replace(given[5], rejected=reply, conversation_id="the longest", turn=2)
    longest = len(renderer.encode(given[5].prompt)[0]) + len(renderer.reply_ids(reply))
    place = "conversation 'the longest', turn 2"
    with refused(f"longest: {longest}", place, f"set the model's max_length to {longest}"):
        align(model, tokenizer, renderer, given, algorithm("dpo"), settings(max_length=8))


def test_log_probabilities_do_not_depend_on_the_batch_and_are_transformers_loss(made):
    model, _, renderer = made
    rows = [
        (renderer.encode(talk.messages[:1])[0], renderer.reply_ids("Well. " * (1 + at % 5)))
        for at, talk in enumerate(TALKS)
    ]
    together = log_probabilities(model, rows, 10_000).totals
    assert together == pytest.approx(log_probabilities(model, rows, 1).totals, abs=1e-3)
    for (prompt, reply), total in zip(rows, together, strict=True):
        ids = torch.tensor([[*prompt, *reply]])
        labels = torch.tensor([[-100] * len(prompt) + reply])
        loss = model(input_ids=ids, labels=labels).loss.item()
        assert total == pytest.approx(-loss * len(reply), rel=1e-4)


def test_a_policy_that_does_not_start_as_the_reference_is_refused_before_training(made, refused):
    model, tokenizer, renderer = made
    before, given = copy.deepcopy(model), pairs(model, renderer)
    with torch.no_grad():
        model.lm_head.weight *= 0.9  # as a logit scale that one of the two leaves out
    for name in ("dpo", "kto"):
        with refused("before the first step", "reference.json has", "LlamaForCausalLM would start wrong"):
            align(model, tokenizer, renderer, given, algorithm(name), settings())
    align(before, tokenizer, renderer, given, algorithm("dpo"), settings(epochs=1))


def test_rounding_to_bfloat16_is_no_reason_to_refuse_an_alignment(made):
    """The reference's weights are of bfloat16, the policy's the same in float32, computed in bfloat16."""
    model, tokenizer, renderer = made
    for weights in model.parameters():
        weights.data *= 4  # a model that is as sure as a trained one
    given = pairs(model.to(torch.bfloat16), renderer)
    facts = align(model.float(), tokenizer, renderer, given, algorithm("dpo"), settings(epochs=1, dtype="bfloat16"))
    assert (facts["log_probabilities"], facts["prompt_computed_once"]) == ("fused", True)
    assert facts["history"][0]["loss"] == pytest.approx(math.log(2), abs=0.1)


@pytest.mark.parametrize("gradient_checkpointing", [False, True])
def test_dropout_that_is_no_module_is_switched_off_in_alignment(made, gradient_checkpointing):
    _, tokenizer, renderer = made
    sizes = {"hidden_size": 32, "ffn_dim": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    drops = {"dropout": 0.5, "attention_dropout": 0.5, "layerdrop": 0.5, "word_embed_proj_dim": 32}
    opt = scratch_model({"model_type": "opt", **sizes, **drops}, tokenizer, seed=1)
    how = settings(epochs=1, gradient_checkpointing=gradient_checkpointing)
    facts = align(opt, tokenizer, renderer, pairs(opt, renderer), algorithm("dpo"), how)
    assert facts["history"][0]["loss"] == pytest.approx(math.log(2), abs=1e-4)
    assert opt.config.dropout == 0.5  # as it is saved


def test_log_probabilities_of_other_pairs_are_refused():
    preferences = {"conversation_id": ["a"], "turn": [0], "prompt": [[]], "chosen": [[]], "rejected": [[]]}
    with pytest.raises(UserError, match="not of these preference pairs"):
        read_pairs(preferences, {"conversation_id": ["a"], "turn": [1], "chosen": [0.0], "rejected": [0.0]})
