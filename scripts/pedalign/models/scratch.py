"""Makes a model with random weights, and a tokenizer trained on the conversations alone."""

from collections.abc import Iterable
from itertools import chain
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from pedalign.core.errors import UserError, nearest
from pedalign.data.conversations import Conversation
from pedalign.models.templates import load_template

PAD = "<|pad|>"

# Merges may span words, up to the next punctuation mark (superwords, arXiv 2503.13423), and a JSON key with its quotes
# is one piece. Replies are JSON with few, fixed keys, and a problem's sentences are repeated often, so a conversation
# has little more than half the tokens that merges within words would give. Punctuation with the space after it is a
# separate piece, so that a sentence has the same tokens everywhere.
_PIECES = r'\{"[^"]*": "|", "[^"]*": "|"\}|[.,?!:;]+ ?|[^.,?!:;"{}]+'


def scratch_tokenizer(
    conversations: Iterable[Conversation], template: str, instruction: str, vocab_size: int
) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer trained on the conversations' texts; equal texts give equal tokenizers."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    pieces = load_template(template)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[PAD, *pieces.markers()],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = (message["content"] for conversation in conversations for message in conversation.messages)
    tokenizer.train_from_iterator(chain([instruction], texts), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=PAD, eos_token=pieces.end)


def scratch_model(architecture: dict[str, Any], tokenizer: PreTrainedTokenizerFast, seed: int) -> PreTrainedModel:
    """A model with random weights of the `architecture` (arguments of a transformers config, `model_type` included)."""
    try:
        known = AutoConfig.for_model(architecture["model_type"])
        for name in architecture:
            if not hasattr(known, name):
                raise UserError(f"config.yaml: 'architecture': unknown argument '{name}'", nearest(name, vars(known)))
        config = AutoConfig.for_model(
            **architecture,
            vocab_size=len(tokenizer),
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    except (TypeError, ValueError, KeyError, StrictDataclassError) as error:
        raise UserError(
            f"config.yaml: 'architecture': {error}",
            "see transformers' config class of this model_type for the arguments",
        ) from None
