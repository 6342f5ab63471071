"""The renderer keeps its promises with other families' tokenizers and wordings, too."""

import re

import pytest
from fastchat.conversation import conv_templates
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from pedalign.data.conversations import Conversation
from pedalign.models.prompt_format import Renderer
from pedalign.models.scratch import scratch_tokenizer
from pedalign.models.templates import END_TOKENS

INSTRUCTION = "You are a tutor. Reply with one JSON object."
TEXTS = [
    "Q. Why is the sky blue?",
    '{"Move": "focus", "Tutorbot": "What do you know?"}',
    "It is.\nSo?",
    '{"Move": "x"}',
]
TALK = [{"role": ("user", "assistant")[at % 2], "content": text} for at, text in enumerate(TEXTS)]
TEMPLATES = pytest.mark.parametrize("template", sorted(END_TOKENS))

# Ours puts the space before a reply into the prompt, FastChat leaves it to the reply; FastChat closes a full
# conversation with the new line that stands before the next turn.
OPENS_WITH = {"mistral": " ", "vicuna_v1.1": " "}
CLOSES_WITH = {"zephyr": "\n"}


def scratch(template: str, instruction: str = INSTRUCTION) -> Renderer:
    tokenizer = scratch_tokenizer([Conversation("1", tuple(TALK))], template, instruction, 400)
    rendering = Renderer(tokenizer, template, instruction)
    tokenizer.chat_template = rendering.jinja()
    return rendering


RENDERERS = {template: scratch(template) for template in END_TOKENS}


@TEMPLATES
@settings(deadline=None, max_examples=30)
@given(texts=st.lists(st.text(min_size=1), min_size=1, max_size=12))
def test_text_is_fastchats_prompt_to_the_character(template: str, texts: list[str]) -> None:
    theirs = conv_templates[template].copy()
    theirs.system_message = INSTRUCTION
    for at, text in enumerate(texts):
        theirs.append_message(theirs.roles[at % 2], text)
    asked = len(texts) % 2 == 1
    if asked:
        theirs.append_message(theirs.roles[1], None)
    ours = RENDERERS[template].text(
        [{"role": ("user", "assistant")[at % 2], "content": t} for at, t in enumerate(texts)]
    )
    if asked:
        assert ours == theirs.get_prompt() + OPENS_WITH.get(template, "")
    else:
        assert ours + CLOSES_WITH.get(template, "") == theirs.get_prompt()


@TEMPLATES
@pytest.mark.parametrize(
    "instruction", ["Say \"yes\"\\n\nor 'no'.", "{{ x }} {% raw %} -}} #}", "é \u2028 \x7f", "Smile 😀"]
)
def test_the_saved_chat_template_holds_any_instruction(template: str, instruction: str) -> None:
    rendering = scratch(template, instruction)
    apply = rendering.tokenizer.apply_chat_template
    assert apply(TALK, tokenize=False) == rendering.text(TALK)
    assert apply(TALK[:1], tokenize=False, add_generation_prompt=True) == rendering.text(TALK[:1])


def llama_tokenizer() -> PreTrainedTokenizerFast:
    """Like those of Llama 2, Mistral, Zephyr and Vicuna: a space is set before every text, words begin with one."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(steps)
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator([INSTRUCTION, *TEXTS, "[INST] USER: [/INST] ASSISTANT:"], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


@pytest.mark.parametrize("template", ["mistral", "vicuna_v1.1"])
def test_a_tokenizer_that_sets_spaces_before_texts_adds_none_between_turns(template: str) -> None:
    rendering = Renderer(llama_tokenizer(), template, INSTRUCTION)
    ids, _ = rendering.encode(TALK)
    decoded = rendering.tokenizer.decode(ids)
    assert re.sub(r"(</?s>) ", r"\1", decoded) == rendering.text(TALK)  # behind a special token a space is usual
    assert decoded.count("<s>") == 1


def test_a_beginning_of_sequence_token_that_the_template_writes_is_not_set_twice() -> None:
    rendering = scratch("llama-3")
    rendering.tokenizer.bos_token = "<|begin_of_text|>"
    backend = rendering.tokenizer.backend_tokenizer
    bos = backend.token_to_id("<|begin_of_text|>")
    backend.post_processor = processors.TemplateProcessing(
        single="<|begin_of_text|> $A", special_tokens=[("<|begin_of_text|>", bos)]
    )
    ids, _ = Renderer(rendering.tokenizer, "llama-3", INSTRUCTION).encode(TALK)
    assert ids[0] == bos and ids.count(bos) == 1
