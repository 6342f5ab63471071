"""What is trained and asked is counted before training, and held against what the model can take."""

import copy
import re
from dataclasses import replace
from typing import Any

import pytest
from trl import SFTTrainer

from pedalign.core.errors import UserError
from pedalign.data.conversations import Conversation
from pedalign.models.length_limits import LengthSettings, cut_off_replies, expect_lengths_fit, length_warnings
from pedalign.models.limits import ModelLimits
from pedalign.models.prompt_format import Renderer
from pedalign.models.scratch import scratch_model, scratch_tokenizer
from pedalign.training.audit import audit
from pedalign.training.settings import TrainingSettings
from pedalign.training.sft import train_sft, truncated

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


def talk(identity: str, opening: str, reply: str = REPLIES[1]) -> Conversation:
    texts = [opening, REPLIES[0], "Hm.", reply]
    return Conversation(
        identity, tuple({"role": ("user", "assistant")[at % 2], "content": t} for at, t in enumerate(texts))
    )


LONG_REPLY = REPLIES[1].replace("A number", "One more number")
TALKS = [talk(str(number), f"Q. What is {number}?") for number in range(4)]
SETTINGS = LengthSettings(128, False, 30, [0.0, 1.0], fine_tuned=True, pairs=True)
ROOMY = ModelLimits(None, None, 10_000)
LONG = talk("long", "Q. " + "Why? " * 100)


@pytest.fixture(scope="module")
def renderer() -> Renderer:
    return Renderer(scratch_tokenizer(TALKS, "tutor", "Teach.", 400), "tutor", "Teach.")


def settings(**changed: object) -> TrainingSettings:
    values = {"epochs": 1, "learning_rate": 1e-2, "scheduler": "constant", "warmup": 0.0, "weight_decay": 0.0}
    batch = {"global_batch_size": 4, "device_batch_size": 2, "max_length": 128, "gradient_checkpointing": False}
    return TrainingSettings(**{**values, **batch, "dtype": "float32", "seed": 1, **changed})


def audited(
    renderer: Renderer,
    sft: list[Conversation] = TALKS,
    dpo: list[Conversation] = TALKS,
    test: list[Conversation] = TALKS,
    limits: ModelLimits = ROOMY,
    **changed: Any,
) -> dict[str, Any]:
    """The audit, refused where its lengths do not fit, with the warnings."""
    report, settings = audit({"sft": sft, "dpo": dpo, "test": test}, renderer, limits), replace(SETTINGS, **changed)
    expect_lengths_fit(report, settings)
    return {**report, "warnings": list(length_warnings(report, settings))}


def length(renderer: Renderer, conversation: Conversation, messages: int | None = None) -> int:
    return len(renderer.encode(conversation.messages[:messages])[0])


def test_a_conversation_that_would_be_cut_stops_the_run_or_is_listed(renderer, refused) -> None:
    tokens = length(renderer, LONG)
    with refused(
        "max_length 128", f"{tokens} tokens, sft conversation 'long', turn 1", f"{tokens} or more", "allow_trun"
    ):
        audited(renderer, [*TALKS, LONG])
    assert audited(renderer, [*TALKS, LONG], allow_truncation=True)["tokens"]["max"] == tokens
    reply = len(renderer.reply_ids(REPLIES[1]))
    cut = settings(max_length=tokens - reply + 2)
    found = {"id": "long", "tokens": tokens, "trained_tokens_lost": reply - 2}
    assert truncated(renderer, [*TALKS, LONG], cut) == [found]
    assert truncated(renderer, [*TALKS, LONG], settings(max_length=None)) == []


def test_a_pair_of_the_dpo_split_that_may_be_too_long_is_refused_before_any_training(renderer, refused) -> None:
    prompt = length(renderer, LONG, 3)
    for new, reply in (
        (30, 31),
        (3, len(renderer.reply_ids(REPLIES[1]))),
    ):  # of the tutor, and an end token; the gold one
        with refused("dpo conversation 'long', turn 1", f"max_length to {prompt + reply} or more"):
            audited(renderer, dpo=[*TALKS, LONG], allow_truncation=True, max_new_tokens=new)
    audited(renderer, dpo=[*TALKS, LONG], pairs=False)


@pytest.mark.parametrize("where", ["sft", "dpo", "test"])
def test_a_text_beyond_the_models_positions_is_refused_before_any_training(where, renderer, refused) -> None:
    given, tokens = {where: [*TALKS, LONG]}, length(renderer, LONG)
    room = {"sft": 0, "dpo": 31, "test": 30}[where]  # for a reply, and the end token of a pair
    needed = max(tokens, length(renderer, LONG, 3) + room)
    words = (
        f"{where} conversation 'long', turn 1",
        f"longest: {tokens} tokens",
        f"with {needed} positions",
    )
    for truncation in (False, True):
        with refused(*words):
            audited(
                renderer,
                **given,
                max_length=1000,
                limits=replace(ROOMY, positions=tokens - 1),
                allow_truncation=truncation,
            )
    audited(renderer, **given, max_length=1000, max_new_tokens=3, limits=replace(ROOMY, positions=tokens))


def test_what_is_cut_at_max_length_needs_no_more_positions(renderer) -> None:
    limits = replace(ROOMY, positions=128)
    assert audited(renderer, [*TALKS, LONG], limits=limits, allow_truncation=True)["tokens"]["max"] > 128


def test_a_prompt_without_room_for_a_reply_is_refused_before_any_training(renderer, refused) -> None:
    positions = length(renderer, LONG) + 5
    with refused("test conversation 'long', turn 1", "prompts with a reply of max_new_tokens (90)"):
        audited(renderer, test=[*TALKS, LONG], max_new_tokens=90, limits=replace(ROOMY, positions=positions))


def test_the_number_that_a_refusal_names_is_enough(renderer) -> None:
    """Of several limits that are passed at once: each mending brings the next, and then the audit passes."""
    longer = talk("longer", "Q. " + "Why? " * 120)
    splits = {"sft": [*TALKS, LONG], "dpo": [*TALKS, longer], "test": [LONG, longer]}
    changed, limits = {"max_length": 50, "max_new_tokens": 400}, replace(ROOMY, positions=length(renderer, longer) + 7)
    named = []
    for _ in range(3):
        try:
            audited(renderer, **splits, limits=limits, **changed)
            break
        except UserError as error:
            ((name, number),) = re.findall(r"(max_length|max_new_tokens) to (\d+)", error.remedy)
            changed[name] = int(number)
            named.append(name)
    assert named == ["max_new_tokens", "max_length"]
    assert length(renderer, longer, 3) + changed["max_new_tokens"] + 1 == limits.positions  # and is not too small


def test_gold_replies_that_a_tutor_could_not_finish_are_counted_with_the_number_to_set(renderer) -> None:
    first, second = (len(renderer.reply_ids(reply)) for reply in (REPLIES[0], LONG_REPLY))
    talks = [talk(str(number), f"Q. What is {number}?", LONG_REPLY) for number in range(4)]
    report = audited(renderer, talks, talks, talks, max_new_tokens=first)
    found = {"replies": 24, "longest": second, "lengths": {str(first): 12, str(second): 12}}
    assert report["gold_replies"] == {**found, "longest_at": "sft conversation '0', turn 1"}
    assert [cut_off_replies(report, most) for most in (first - 1, first, second)] == [24, 12, 0]
    (warning,) = report["warnings"]
    assert warning.startswith("12 of 24 gold replies (50.0%)") and f"max_new_tokens to {second}" in warning
    assert audited(renderer, talks, talks, talks, max_new_tokens=second)["warnings"] == []


def test_a_token_without_an_embedding_is_refused_before_any_training(renderer, refused) -> None:
    size, tokenizer = len(renderer.tokenizer), copy.deepcopy(renderer.tokenizer)
    exactly = replace(ROOMY, embeddings=size)
    audited(renderer, limits=exactly)
    tokenizer.add_special_tokens({"pad_token": "<pad>"})
    with refused(f"the padding token '<pad>' has the id {size}", f"ids below {size}", "pad_token"):
        audited(Renderer(tokenizer, "tutor", "Teach."), limits=exactly)
    highest = max(max(renderer.encode(one.messages)[0]) for one in TALKS)
    with refused("a token of sft conversation '", f"ids below {highest}"):
        audited(renderer, limits=replace(ROOMY, embeddings=highest))
    end = Renderer(tokenizer, "tutor", "Teach.").end_id
    with refused(f"the end token '<|end|>' has the id {end}"):
        audited(renderer, limits=replace(ROOMY, embeddings=end))


def test_a_sliding_window_is_no_problem_and_is_told(renderer) -> None:
    report = audited(renderer, limits=replace(ROOMY, window=5))
    assert report["model"]["window"] == 5 and report["warnings"] == []


def test_a_test_prompt_longer_than_what_is_trained_is_warned_of(renderer) -> None:
    (warning,) = audited(renderer, test=[*TALKS, LONG])["warnings"]
    assert f"longest: {length(renderer, LONG, 3)} tokens, test conversation 'long', turn 1" in warning


def test_a_conversation_of_one_turn_is_asked_of_no_tutor(renderer) -> None:
    short = Conversation("short", LONG.messages[:2])
    assert audited(renderer, dpo=[*TALKS, short], test=[*TALKS, short])["prompts"]["test"]["number"] == 8


def test_the_trained_share_counts_replies_and_their_end_tokens(renderer) -> None:
    report = audited(renderer)
    replies = sum(len(renderer.reply_ids(reply)) for reply in REPLIES) * len(TALKS)
    assert report["trained_share"] == pytest.approx(replies / report["tokens"]["total"], abs=1e-6)


@pytest.mark.slow
def test_the_loss_is_on_the_replies_and_their_end_tokens_alone(renderer, monkeypatch) -> None:
    batches = []

    class Watched(SFTTrainer):
        def compute_loss(self, model, inputs, *args, **kwargs):
            batches.append((inputs["input_ids"].clone(), inputs["labels"].clone()))
            return super().compute_loss(model, inputs, *args, **kwargs)

    monkeypatch.setattr("pedalign.training.sft.SFTTrainer", Watched)
    model = scratch_model(ARCHITECTURE, renderer.tokenizer, 1)
    train_sft(model, renderer.tokenizer, renderer, TALKS, settings())
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
        facts = train_sft(model, renderer.tokenizer, renderer, [*TALKS, LONG], settings())
    except UserError as error:
        assert "max_length" in str(error)
    else:
        assert facts["rows"] == len(TALKS)


def test_a_split_of_which_too_much_or_too_little_would_be_trained_is_refused(renderer, refused) -> None:
    share = audited(renderer)["trained_share"]
    for bounds in ([0, share / 2], [(1 + share) / 2, 1]):
        with refused(f"{share:.1%} of the SFT split's tokens would be trained", "checks: trained_share"):
            audited(renderer, trained_share=bounds)
