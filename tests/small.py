"""A very small model and conversations for it."""

from transformers import PreTrainedModel, PreTrainedTokenizerFast

from pedalign.data.conversations import Conversation
from pedalign.models.log_probs import log_probabilities
from pedalign.models.prompt_format import Renderer
from pedalign.models.scratch import scratch_model, scratch_tokenizer
from pedalign.training.alignment import Pair
from pedalign.training.settings import TrainingSettings

ARCHITECTURE = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "tie_word_embeddings": True,
}
TALKS = [
    Conversation(
        str(number),
        (
            {"role": "user", "content": f"Q. What is {number}?"},
            {"role": "assistant", "content": '{"Move": "focus", "Tutorbot": "Look."}'},
            {"role": "user", "content": "Hm."},
            {"role": "assistant", "content": '{"Move": "telling", "Tutorbot": "A number."}'},
        ),
    )
    for number in range(16)
]


def settings(**changed) -> TrainingSettings:
    plain = {"epochs": 4, "learning_rate": 1e-2, "scheduler": "cosine", "warmup": 0.1, "weight_decay": 0.0}
    batch = {"global_batch_size": 4, "device_batch_size": 4, "max_length": 256, "gradient_checkpointing": False}
    return TrainingSettings(**{**plain, **batch, "dtype": "float32", "seed": 1, **changed})


def small_model() -> tuple[PreTrainedModel, PreTrainedTokenizerFast, Renderer]:
    tokenizer = scratch_tokenizer(TALKS, "tutor", "Teach.", 400)
    return scratch_model(ARCHITECTURE, tokenizer, seed=1), tokenizer, Renderer(tokenizer, "tutor", "Teach.")


def pairs_of(model: PreTrainedModel, renderer: Renderer, rejected: str, chosen: str | None = None) -> list[Pair]:
    """A pair for the first turn of each of TALKS, with `model` as reference.

    The tutor's own reply is `chosen` where none is given.
    """
    made = []
    for talk in TALKS:
        asked, both = talk.messages[:1], (chosen or talk.messages[1]["content"], rejected)
        replies = [(renderer.encode(asked)[0], renderer.reply_ids(reply)) for reply in both]
        made.append(Pair(asked, *both, *log_probabilities(model, replies, 10_000).totals))
    return made
