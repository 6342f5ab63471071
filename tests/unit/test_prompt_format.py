"""The one renderer: what is trained, what is prompted, what is saved are the same text."""

import pytest
from fastchat.conversation import conv_templates
from hypothesis import given, settings
from hypothesis import strategies as st

from pedalign.core.errors import UserError
from pedalign.data.conversations import Conversation
from pedalign.models.prompt_format import Renderer
from pedalign.models.scratch import scratch_tokenizer
from pedalign.models.templates import END_TOKENS, load_template

INSTRUCTION = "You are a tutor. Reply with one JSON object."
SAMPLE = Conversation(
    "1",
    (
        {"role": "user", "content": "Q. What is a cell?"},
        {"role": "assistant", "content": '{"Move": "focus", "Tutorbot": "What do you know?"}'},
        {"role": "user", "content": "It is small."},
        {"role": "assistant", "content": '{"Move": "telling", "Tutorbot": "It is the unit of life."}'},
    ),
)


@pytest.fixture(scope="session", params=sorted(END_TOKENS))
def renderer(request) -> Renderer:
    tokenizer = scratch_tokenizer([SAMPLE], request.param, INSTRUCTION, 400)
    rendering = Renderer(tokenizer, request.param, INSTRUCTION)
    tokenizer.chat_template = rendering.jinja()
    return rendering


def messages(texts: list[str]) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[at % 2], "content": text} for at, text in enumerate(texts)]


CONTROL = ["</s>", "<|end|>", "<|eot_id|>", "[INST]", "<|tutor|>", "<|assistant|>", "<|pad|>", "USER:", "ASSISTANT:"]
WORDS = st.text(st.characters(codec="utf-8"), max_size=60) | st.sampled_from([*CONTROL, "", " ", "\n", "x" * 20_000])
REPLIES = WORDS.filter(bool)
TALKS = st.integers(1, 6).flatmap(lambda turns: st.tuples(*[WORDS, REPLIES] * turns)).map(list)


def check_trained(rendering: Renderer, talk: list[dict[str, str]], encode) -> None:
    """The trained tokens are exactly the replies, each with its end token; a prompt's ids are a prefix."""
    ids, trained = encode(talk)
    runs, run = [], []
    for token, wanted in zip(ids, trained, strict=True):
        if wanted:
            run.append(token)
            if token == rendering.end_id:
                runs.append(run)
                run = []
    assert not run
    replies = [message["content"] for message in talk[1::2]]
    assert [rendering.tokenizer.decode(one) for one in runs] == [reply + rendering.template.end for reply in replies]
    assert sum(trained) == sum(len(rendering.reply_ids(reply)) for reply in replies)
    for turn in range(0, len(talk), 2):
        prompt, _ = encode(talk[: turn + 1])
        assert ids[: len(prompt)] == prompt
        assert ids[len(prompt) :][: len(rendering.reply_ids(replies[turn // 2]))] == rendering.reply_ids(
            replies[turn // 2]
        )


@settings(deadline=None, max_examples=60)
@given(texts=TALKS)
def test_prompts_are_prefixes_and_exactly_the_replies_are_trained(renderer, texts):
    talk = messages(texts)
    check_trained(renderer, talk, renderer.encode)


def test_a_renderer_that_trains_the_students_words_is_caught(renderer):
    def wrong(talk):
        ids, _ = renderer.encode(talk)
        return ids, [True] * len(ids)

    with pytest.raises(AssertionError):
        check_trained(renderer, list(SAMPLE.messages), wrong)


def test_a_renderer_that_tokenizes_the_text_as_a_whole_is_caught(renderer):
    def wrong(talk):
        ids = renderer.tokenizer(renderer.text(talk), add_special_tokens=False)["input_ids"]
        return ids, [token in renderer.encode(talk)[0] for token in ids]

    with pytest.raises(AssertionError):
        check_trained(renderer, messages(["</s>", "<|end|>{<|eot_id|>"]), wrong)


@settings(deadline=None, max_examples=60)
@given(texts=TALKS)
def test_no_one_can_speak_in_control_tokens(renderer, texts):
    ids, _ = renderer.encode(messages(texts))
    plain, _ = renderer.encode(messages(["x"] * len(texts)))
    for mark in renderer.template.markers():
        token = renderer.tokenizer.convert_tokens_to_ids(mark)
        assert ids.count(token) == plain.count(token)


@settings(deadline=None, max_examples=60)
@given(texts=TALKS)
def test_the_saved_chat_template_renders_the_same_text(renderer, texts):
    talk = messages(texts)
    apply = renderer.tokenizer.apply_chat_template
    assert apply(talk, tokenize=False) == renderer.text(talk)
    assert apply(talk[:-1], tokenize=False, add_generation_prompt=True) == renderer.text(talk[:-1])
    system = [{"role": "system", "content": INSTRUCTION}]
    assert apply(system + talk, tokenize=False) == renderer.text(talk)


def test_the_saved_chat_template_marks_the_trained_tokens(renderer):
    ids, trained = renderer.encode(SAMPLE.messages)
    answer = renderer.tokenizer.apply_chat_template(
        list(SAMPLE.messages), return_dict=True, return_assistant_tokens_mask=True
    )
    tokens = zip(answer["input_ids"], answer["assistant_masks"], strict=True)
    marked = renderer.tokenizer.decode([token for token, wanted in tokens if wanted])
    assert marked == renderer.tokenizer.decode([token for token, wanted in zip(ids, trained, strict=True) if wanted])


def test_the_wording_is_fastchats(renderer):
    for name in END_TOKENS:
        if load_template(name) == renderer.template:
            theirs = conv_templates[name].copy()
    theirs.system_message = INSTRUCTION
    for at, message in enumerate(SAMPLE.messages):
        theirs.append_message(theirs.roles[at % 2], message["content"])
    ours = renderer.text(SAMPLE.messages)
    assert theirs.get_prompt().rstrip() == ours.rstrip()
    theirs.messages[-1][1] = None
    # FastChat leaves the space before the reply to the reply; ours belongs to the prompt.
    assert renderer.text(SAMPLE.messages[:-1]).rstrip(" ") == theirs.get_prompt().rstrip(" ")


def test_a_template_that_the_tokenizer_does_not_know_is_refused():
    tokenizer = scratch_tokenizer([SAMPLE], "tutor", INSTRUCTION, 400)
    with pytest.raises(UserError, match="end token '</s>' of template 'mistral'"):
        Renderer(tokenizer, "mistral", INSTRUCTION)
    with pytest.raises(UserError, match="did you mean 'mistral'"):
        load_template("mistrl")
