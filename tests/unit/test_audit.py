"""What is trained is counted before training, and exactly that is trained."""

import pytest
from trl import SFTTrainer

from pedalign import training
from pedalign.audit import AuditSettings, audit
from pedalign.conversation import Conversation
from pedalign.errors import UserError
from pedalign.models import scratch_model, scratch_tokenizer
from pedalign.template import Renderer

REPLIES = ('{"Move": "focus", "Tutorbot": "Look."}', '{"Move": "telling", "Tutorbot": "A number."}')
ARCHITECTURE = {
    "model_type": "llama",
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
}


def talk(identity: str, opening: str) -> Conversation:
    texts = [opening, REPLIES[0], "Hm.", REPLIES[1]]
    return Conversation(
        identity, tuple({"role": ("user", "assistant")[at % 2], "content": t} for at, t in enumerate(texts))
    )


TALKS = [talk(str(number), f"Q. What is {number}?") for number in range(4)]
SHARES = [0.0, 1.0]
LONG = talk("long", "Q. " + "Why? " * 100)


@pytest.fixture(scope="module")
def renderer() -> Renderer:
    return Renderer(scratch_tokenizer(TALKS, "tutor", "Teach.", 400), "tutor", "Teach.")


def settings(**changed: object) -> training.TrainingSettings:
    values = {"epochs": 1, "learning_rate": 1e-2, "scheduler": "constant", "warmup": 0.0, "weight_decay": 0.0}
    batch = {"global_batch_size": 4, "device_batch_size": 2, "max_length": 128, "gradient_checkpointing": False}
    return training.TrainingSettings(**{**values, **batch, "dtype": "float32", "seed": 1, **changed})


def test_a_conversation_that_would_be_cut_stops_the_run_or_is_listed(renderer, refused) -> None:
    tokens = len(renderer.encode(LONG.messages)[0])
    with refused("1 of 5", "max_length 128", f"{tokens} tokens", "'long'", "allow_truncation"):
        audit([*TALKS, LONG], renderer, AuditSettings("tutor", "compact", 128, False, SHARES))
    report = audit([*TALKS, LONG], renderer, AuditSettings("tutor", "compact", 128, True, SHARES))
    lost = sum(len(renderer.reply_ids(reply)) for reply in REPLIES)
    assert report["truncated"] == [{"id": "long", "tokens": tokens, "trained_tokens_lost": lost}]
    assert report["tokens"]["max"] == tokens


def test_the_trained_share_counts_replies_and_their_end_tokens(renderer) -> None:
    report = audit(TALKS, renderer, AuditSettings("tutor", "compact", 128, False, SHARES))
    replies = sum(len(renderer.reply_ids(reply)) for reply in REPLIES) * len(TALKS)
    assert report["trained_share"] == pytest.approx(replies / report["tokens"]["total"], abs=1e-6)
    assert report["truncated"] == []


@pytest.mark.slow
def test_the_loss_is_on_the_replies_and_their_end_tokens_alone(renderer, monkeypatch) -> None:
    batches = []

    class Watched(SFTTrainer):
        def compute_loss(self, model, inputs, *args, **kwargs):
            batches.append((inputs["input_ids"].clone(), inputs["labels"].clone()))
            return super().compute_loss(model, inputs, *args, **kwargs)

    monkeypatch.setattr(training, "SFTTrainer", Watched)
    model = scratch_model(ARCHITECTURE, renderer.tokenizer, 1)
    training.finetune(model, renderer.tokenizer, renderer, TALKS, settings())
    rows = [row for ids, labels in batches for row in zip(ids.tolist(), labels.tolist(), strict=True)]
    assert len(rows) == len(TALKS)
    for ids, labels in rows:
        assert all(label in (-100, token) for token, label in zip(ids, labels, strict=True))
        trained = renderer.tokenizer.decode([label for label in labels if label != -100])
        assert trained == "".join(reply + renderer.template.end for reply in REPLIES)


@pytest.mark.slow
def test_a_conversation_whose_replies_are_all_cut_off_is_left_out_or_refused(renderer) -> None:
    model = scratch_model(ARCHITECTURE, renderer.tokenizer, 1)
    try:
        facts = training.finetune(model, renderer.tokenizer, renderer, [*TALKS, LONG], settings())
    except UserError as error:
        assert "max_length" in str(error)
    else:
        assert facts["rows"] == len(TALKS)


def test_a_split_of_which_too_much_or_too_little_would_be_trained_is_refused(renderer, refused) -> None:
    share = audit(TALKS, renderer, AuditSettings("tutor", "compact", 128, False, SHARES))["trained_share"]
    for bounds in ([0, share / 2], [(1 + share) / 2, 1]):
        with refused(f"{share:.1%} of the SFT split's tokens would be trained", "checks: trained_share"):
            audit(TALKS, renderer, AuditSettings("tutor", "compact", 128, False, bounds))
