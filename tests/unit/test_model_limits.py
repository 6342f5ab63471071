"""The limits that a configuration states are those of the model."""

import pytest
import torch
from architectures import ARCHITECTURES, make
from transformers import AutoConfig

from pedalign.models.limits import model_limits

COMPUTED = 3000  # tokens of a text at most: more would take long


@pytest.mark.slow
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_text_of_as_many_tokens_as_there_are_positions_can_be_computed(name) -> None:
    model = make(name)
    limits = model_limits(model.config)
    embeddings = model.get_input_embeddings().weight
    assert limits.embeddings <= len(embeddings)
    tokens = min(limits.positions or COMPUTED, COMPUTED)
    with torch.inference_mode():
        logits = model(input_ids=torch.randint(3, limits.embeddings, (1, tokens)), use_cache=False).logits
    assert logits.isfinite().all()


@pytest.mark.parametrize("name", ["gpt2", "opt", "biogpt", "gptj", "mpt", "roberta", "gpt_neo", "codegen"])
def test_learned_positions_end_where_the_limits_say(name) -> None:
    model = make(name)
    positions = model_limits(model.config).positions
    assert positions is not None
    with torch.inference_mode():
        model(input_ids=torch.full((1, positions), 5), use_cache=False)
        with pytest.raises((IndexError, RuntimeError)):
            model(input_ids=torch.full((1, positions + 1), 5), use_cache=False)


@pytest.mark.parametrize(
    ("rope", "positions"),
    [
        ({"rope_type": "default"}, 4096),
        ({"rope_type": "linear", "factor": 4.0}, 16384),
        ({"rope_type": "dynamic", "factor": 2.0}, 8192),
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 4096}, 16384),
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024}, 4096),
        (
            {
                "rope_type": "llama3",
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 512,
            },
            4096,
        ),
    ],
)
def test_rotary_positions_reach_as_far_as_their_scaling_says(rope, positions) -> None:
    """A scaling's factor either is in max_position_embeddings already, or comes on top of what was trained first."""
    config = AutoConfig.for_model("llama", max_position_embeddings=4096, rope_parameters={**rope, "rope_theta": 1e4})
    assert model_limits(config).positions == positions


def test_alibi_has_no_last_position() -> None:
    for kind, more in (("bloom", {}), ("falcon", {"alibi": True}), ("mamba", {})):
        assert model_limits(AutoConfig.for_model(kind, **more)).positions is None
    assert model_limits(AutoConfig.for_model("falcon", alibi=False)).positions == 2048


def test_a_multimodal_model_has_the_limits_of_its_text_model() -> None:
    text = {"max_position_embeddings": 777, "sliding_window": 55, "vocab_size": 333}
    limits = model_limits(AutoConfig.for_model("gemma3", text_config=text))
    assert (limits.positions, limits.window, limits.embeddings) == (777, 55, 333)


def test_a_window_is_one_only_where_layers_use_it() -> None:
    def window(kind: str, **more: object) -> int | None:
        return model_limits(AutoConfig.for_model(kind, **more)).window

    assert window("mistral", sliding_window=64) == window("gemma2", sliding_window=64) == 64
    assert window("mistral", sliding_window=None) is window("llama") is None
    assert window("qwen2", sliding_window=64, use_sliding_window=False) is None
    assert window("llama4_text", attention_chunk_size=64) == 64
