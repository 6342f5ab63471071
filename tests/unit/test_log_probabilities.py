"""Log-probabilities of replies are the model's own, on every causal architecture of transformers."""

import random

import pytest
import torch
from architectures import ARCHITECTURES, VOCABULARY, make
from peft import LoraConfig, get_peft_model

from pedalign.models import log_probs
from pedalign.models.log_probs import Reply, log_probabilities

# Their rotary embeddings depend on the longest row of a batch; so each reply is computed alone.
ONE_BY_ONE = {"llama, dynamic rope", "phi3, longrope"}


def replies() -> list[Reply]:
    """Their lengths lie on both sides of 16 and of 32 tokens."""
    rng = random.Random(1)
    lengths = ((5, 3), (12, 9), (24, 6), (20, 14), (40, 5), (9, 2))
    return [tuple([rng.randrange(2, VOCABULARY) for _ in range(n)] for n in both) for both in lengths]


@torch.no_grad()
def by_hand(model, reply: Reply) -> float:
    """By the model's plain forward pass."""
    whole = torch.tensor([[*reply[0], *reply[1]]])
    model(input_ids=whole[:, :1])  # rotary embeddings that grow with the longest text forget it
    log_probs = model(input_ids=whole).logits[0, :-1].float().log_softmax(-1)
    return float(log_probs.gather(1, whole[0, 1:, None])[len(reply[0]) - 1 :].sum())


@pytest.mark.slow
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_they_are_those_of_the_models_forward_pass_on_each_reply_alone(name, capsys):
    found = log_probabilities(make(name), replies(), 150)
    model = make(name)
    for total, reply in zip(found.totals, replies(), strict=True):
        assert total == pytest.approx(by_hand(model, reply), abs=1e-4 * len(reply[1]))
    assert found.batched == (name not in ONE_BY_ONE)
    assert ("log-probabilities are computed one by one" in capsys.readouterr().out) == (name in ONE_BY_ONE)


@pytest.mark.parametrize("name", ["granite, scaled", "gemma2, soft cap of logits alone", "gemma3"])
def test_an_adapter_counts(name):
    model = make(name)
    without = log_probabilities(model, replies(), None).totals
    adapted = get_peft_model(model, LoraConfig(target_modules="all-linear", init_lora_weights=False, lora_alpha=64))
    found = log_probabilities(adapted, replies(), None)
    assert found.batched
    assert found.totals == pytest.approx([by_hand(adapted, reply) for reply in replies()], abs=1e-3)
    assert found.totals != pytest.approx(without, abs=0.1)


def test_a_batch_has_no_more_logits_than_its_limit(monkeypatch):
    """Each batch's logits are asked for from the first reply on."""
    model, seen = make("llama"), []
    forward = model.forward

    def watching(logits_to_keep=0, **inputs):
        outputs = forward(logits_to_keep=logits_to_keep, **inputs)
        if len(inputs["input_ids"]) > 1:
            seen.append(outputs.logits.numel())
        return outputs

    monkeypatch.setattr(model, "forward", watching)
    whole = log_probabilities(model, replies() * 8, None)
    assert max(seen) > 70 * VOCABULARY
    seen.clear()
    monkeypatch.setattr(log_probs, "_LOGITS", 70 * VOCABULARY)
    small = log_probabilities(model, replies() * 8, None)
    assert seen and max(seen) <= 70 * VOCABULARY + 16 * VOCABULARY
    assert small.totals == pytest.approx(whole.totals, abs=1e-3)
