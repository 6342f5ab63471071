"""`template: auto`: a tokenizer's own chat template, taken apart into pieces and proved."""

import re
from collections.abc import Sequence
from datetime import datetime
from functools import cache
from pathlib import Path

import pytest
import trl
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast
from transformers.models.llama4 import processing_llama4
from transformers.models.qwen2_audio.processing_qwen2_audio import Qwen2AudioProcessor
from transformers.models.smolvlm import processing_smolvlm

from pedalign.core.errors import UserError
from pedalign.models.prompt_format import Renderer
from pedalign.models.templates import Template, own_template, rendered, with_instruction

# Those that the packages trl and transformers hold.
TEMPLATES = {
    **{
        path.stem: path.read_text(encoding="utf-8") for path in Path(trl.__file__).parent.glob("chat_templates/*.jinja")
    },
    "llama4 of transformers": processing_llama4.chat_template,
    "qwen2_audio of transformers": Qwen2AudioProcessor.default_chat_template.fget(None),
    "smolvlm of transformers": processing_smolvlm.DEFAULT_CHAT_TEMPLATE,
}
# What Llama 3's and Qwen's tokenizers take for a word.
WORD = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
MARK = r"<\|[^|<>\s]{1,40}\|>|<\uff5c[^\uff5c]{1,40}\uff5c>|\[/?[A-Z_]+\]|<[|/]?[a-z_]+\|?>"
INSTRUCTION = 'Teach biology. Answer with JSON: {"Action": "1"}.'
# Those that are refused, and why.
THINKING = "opens a reply in a prompt with '<\uff5cAssistant\uff5c><think>\\n'"
REFUSED = {
    "deepseek_r1_distill": THINKING,
    "deepseek_r1_distill_training": THINKING,
    "deepseekv3": THINKING,
    "deepseekv3_training": THINKING,
    "glm4moe": "ends no reply with a token of its own: '<|user|>\\n', the last one ''",
    "gptoss": "ends no reply with a token of its own: '<|end|><|start|>user<|message|>', the last one '<|return|>'",
    "gptoss_training": "ends no reply with a token of its own",
    "idefics3": "does not keep the turns",  # it wants lists of texts and pictures
    "idefics3_training": "does not keep the turns",
    "llava_next": "can't render a conversation (UndefinedError",
    "llava_next_training": "can't render a conversation (UndefinedError",
    "smolvlm": "does not keep the turns",
    "smolvlm_training": "does not keep the turns",
    "smolvlm of transformers": "does not keep the turns",
}
USED = [name for name in sorted(TEMPLATES) if name not in REFUSED]


def tokenizer(template: str, texts: Sequence[str] = (), size: int = 400) -> PreTrainedTokenizerFast:
    """A small one that knows the template's marks; bytes are its alphabet, so it reads every text. `texts`: those in
    which it has more than bytes."""
    made = Tokenizer(models.BPE())
    words = pre_tokenizers.Split(Regex(WORD), "isolated")
    made.pre_tokenizer = pre_tokenizers.Sequence([words, pre_tokenizers.ByteLevel(False, use_regex=False)])
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, special_tokens=["<s>", "</s>"])
    made.train_from_iterator(["user assistant system model: Q. Why the of you\n\n"] * 5 + [*texts], trainer)
    tokens = PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>")
    tokens.add_special_tokens({"additional_special_tokens": sorted(set(re.findall(MARK, template)))})
    tokens.chat_template = template
    return tokens


@cache
def own(name: str) -> Renderer:
    return Renderer(tokenizer(TEMPLATES[name]), "auto", INSTRUCTION)


def messages(*texts: str) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[at % 2], "content": text} for at, text in enumerate(texts)]


TALK = messages("Q. Why?", '{"Action": "1", "Tutorbot": "Look."}', "Hm,\n\nwhy? É 🙂", '{"Tutorbot": "Right."}', "OK")


def test_the_packages_have_templates_of_some_thirty_families() -> None:
    assert len(TEMPLATES) > 60 and set(REFUSED) < set(TEMPLATES)


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_a_template_that_cannot_be_taken_apart_is_refused_with_what_to_use(refused, name: str) -> None:
    with refused(f"template auto: the tokenizer's chat template {REFUSED[name]}", "template", "tutor"):
        own(name)


@pytest.mark.parametrize("name", USED)
def test_a_prompt_and_a_conversation_are_those_of_the_template(name: str) -> None:
    renderer = own(name)
    template, tokens = renderer.template, renderer.tokenizer
    for end in range(1, len(TALK) + 1):
        theirs = rendered(tokens, with_instruction(template, INSTRUCTION, TALK[:end]), prompt=end % 2 == 1)
        ours = renderer.text(TALK[:end])
        if end % 2:  # the last reply is opened exactly so
            assert ours.endswith(template.after_student) and (theirs + template.opened).endswith(template.after_student)
        if template.thought:  # what it says of earlier replies
            assert template.thought in ("<think>\n\n</think>\n\n",)
            ours, theirs = ours.replace(template.thought, ""), theirs.replace(template.thought, "")
        assert (theirs + template.opened if end % 2 else theirs).startswith(ours)
        ids = renderer.encode(TALK[:end])[0]
        assert ids == tokens(renderer.text(TALK[:end]), add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("name", USED)
def test_the_reply_and_its_end_token_are_trained_and_nothing_before_it(name: str) -> None:
    renderer = own(name)
    ids, trained = renderer.encode(TALK[:4])
    text = renderer.tokenizer.decode([token for token, one in zip(ids, trained, strict=True) if one])
    end = renderer.template.end
    assert text == TALK[1]["content"] + end + TALK[3]["content"] + end
    assert renderer.encode(TALK[:3])[0] == ids[: len(renderer.encode(TALK[:3])[0])]  # a prompt is a prefix


@pytest.mark.parametrize("name", USED)
def test_the_template_that_a_checkpoint_gets_renders_the_same_and_is_taken_apart_into_the_same_pieces(name) -> None:
    renderer = own(name)
    saved = tokenizer(TEMPLATES[name])
    saved.chat_template = renderer.jinja()
    for end in (1, 3, 5):
        text = saved.apply_chat_template(TALK[:end], tokenize=False, add_generation_prompt=True)
        assert text == renderer.text(TALK[:end])
    again = Renderer(saved, "auto", INSTRUCTION)
    assert again.template == renderer.template
    assert again.encode(TALK) == renderer.encode(TALK)


TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"], include_characters="\n\t"), max_size=12)


@settings(deadline=None)
@given(st.sampled_from(["qwen2_5", "gemma3", "llama3_1", "phi3", "qwen3"]), st.lists(TEXT, min_size=1, max_size=5))
def test_any_student_turn_is_rendered_as_the_template_does(name: str, texts: list[str]) -> None:
    renderer = own(name)
    turns = [text for pair in zip(texts, ["{}"] * len(texts), strict=True) for text in pair][: 2 * len(texts) - 1]
    template = renderer.template
    theirs = rendered(renderer.tokenizer, with_instruction(template, INSTRUCTION, messages(*turns)), prompt=True)
    ours = renderer.text(messages(*turns))
    if template.thought:
        ours, theirs = ours.replace(template.thought, ""), theirs.replace(template.thought, "")
    assert ours == theirs


def test_what_a_reader_has_to_know_of_a_template_is_said() -> None:
    assert own("qwen2_5").template.notes() == []
    assert "no system role" in own("gemma").template.notes()[0]
    assert own("llama3_2").template.notes()[0] == "today's date is always 26 Jul 2024"
    assert own("qwen3").template.notes() == ["earlier replies keep the empty thinking block, which it would drop"]
    assert "white space around texts is dropped (assistant, user)" in own("gemma3").template.notes()
    assert own("muse_glimmer").template.notes()[-1] == "a prompt ends in ' to=user<|message|>' too"


@pytest.mark.parametrize("form", ["%Y-%m-%d", "%d %b %Y"])
def test_no_prompt_says_which_day_it_is(form: str) -> None:
    assert "Today Date: 26 Jul 2024" in own("llama3_2").text(TALK)
    first = f"{{{{ message['role'] ~ (' ' ~ strftime_now('{form}') if loop.first else '') }}}}"
    dated = chatml(("{{ message['role'] }}", first))
    text = Renderer(tokenizer(dated), "auto", INSTRUCTION).text(TALK)
    assert str(datetime.now().year) not in text and ("2024-07-26" if "m" in form else "26 Jul 2024") in text


CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


PLAIN = (
    "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}</s>{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


def chatml(*changes: tuple[str, str]) -> str:
    text = CHATML
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    return text


def test_pieces_are_what_stands_around_the_turns() -> None:
    assert own_template(tokenizer(CHATML)) == Template(
        before_system="<|im_start|>system\n",
        after_system="<|im_end|>\n<|im_start|>user\n",
        after_student="<|im_end|>\n<|im_start|>assistant\n",
        end="<|im_end|>",
        after_tutor="\n<|im_start|>user\n",
    )


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("", "the tokenizer has no chat template"),
        (chatml(("{{ message['content'] }}", "{{ message['content'] | upper }}")), "does not keep the turns"),
        (chatml(("{% for message in messages %}", "{% for message in messages[-2:] %}")), "does not keep the turns"),
        (chatml(("<|im_end|>\n", "\n")), "ends no reply with a token of its own"),
        (chatml(("<|im_start|>assistant\n{% endif %}", "<|im_start|>tutor\n{% endif %}")), "opens a reply in a prompt"),
        (chatml(("{{ message['content'] }}", "{{ message['content'].lstrip() }}")), "depends on what is said"),
        (chatml(("{{ message['content'] }}", "{{ message['content'].replace('why', 'WHY') }}")), None),
        (
            chatml(("{{ message['content'] }}", "{{ message['content'].replace('[4]', '') }}")),
            "depends on what is said",
        ),
        (PLAIN, "joins texts and marks"),
        ("{{ raise_exception('No.') }}", "can't render a conversation (TemplateError: No.)"),
    ],
)
def test_a_template_that_renders_what_its_pieces_do_not_is_refused(refused, template: str, words: str | None) -> None:
    tokens = tokenizer(template)
    if words is None:  # what no conversation of ours shows can't be known
        Renderer(tokens, "auto", INSTRUCTION)
        return
    with refused(words, "template"):
        Renderer(tokens, "auto", INSTRUCTION)


def test_a_checkpoint_without_a_chat_template_is_refused_by_its_name() -> None:
    tokens = tokenizer(CHATML)
    tokens.chat_template = None
    with pytest.raises(UserError, match="set another template"):
        Renderer(tokens, "auto", INSTRUCTION)
