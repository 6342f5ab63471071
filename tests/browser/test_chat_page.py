"""Talking to two tutors in a real browser, side by side."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from axe import serious
from checkouts import ROOT
from playwright.sync_api import Browser, Page, expect
from small import TALKS
from tutors import RUBRIC, trained
from waiting import until

from pedalign.cluster.launching import free_port
from pedalign.data.conversations import Reader, clean, read_conversations
from pedalign.data.rubric import load_rubric

pytestmark = pytest.mark.browser
ONE_SIZE = pytest.mark.parametrize("page", [("dark", 900)], indirect=True)  # of what does not depend on it

QUESTION = TALKS[3].messages[0]["content"]
HOSTILE = (
    "<script>window.hostile = true</script><img src=x onerror='window.hostile = true'> ${window.hostile = 1} {{x}}"
)


@pytest.fixture(scope="module")
def address(shared_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    port = free_port()
    url = f"http://127.0.0.1:{port}/"
    command = [sys.executable, "scripts/chat.py", *trained(shared_folder), "--web", "--port", str(port)]
    temporary = tmp_path_factory.mktemp("temporary")
    environment = {**os.environ, "TMPDIR": str(temporary)}
    with (tmp_path_factory.mktemp("chat") / "said").open("w+") as said:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdout=said,
            stderr=said,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        assert until(lambda: listens(url), 120), said.read()
        yield url
        assert list(temporary.glob("pedalign-*")) and not list(temporary.glob("gradio"))
        process.send_signal(signal.SIGINT)
        process.wait(30)
        assert not list(temporary.iterdir())  # nothing that was said stays


def listens(url: str) -> bool:
    try:
        return requests.get(url, timeout=5).ok
    except requests.RequestException:
        return False


@pytest.fixture(params=[("light", 400), ("dark", 900), ("light", 1600)], ids=lambda how: f"{how[0]}-{how[1]}")
def page(request: pytest.FixtureRequest, browser: Browser, address: str) -> Iterator[Page]:
    """The page, opened; when the test ends, it has asked nobody else for anything and complained of nothing."""
    scheme, width = request.param
    opened = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    said: list[str] = []
    opened.on("console", lambda message: said.append(message.text) if message.type in ("error", "warning") else None)
    opened.on("pageerror", lambda error: said.append(str(error)))
    opened.on(
        "request", lambda asked: None if asked.url.startswith((address, "data:", "blob:")) else said.append(asked.url)
    )
    opened.goto(address)
    expect(opened.get_by_label("You, as the student")).to_be_visible(timeout=20_000)
    yield opened
    opened.close()
    assert said == []


def ask(page: Page, text: str) -> None:
    page.get_by_label("You, as the student").fill(text)
    page.get_by_role("button", name="Ask", exact=True).click()
    expect(page.locator("#talk .student .said").last).to_have_text(text, timeout=30_000)
    expect(page.get_by_label("You, as the student")).to_have_value("")


def test_both_tutors_answer_and_their_labels_stand_beside(page: Page) -> None:
    ask(page, QUESTION)
    learned = page.locator("#talk .tutor", has_text="tiny/dpo-b0.1")
    expect(learned.locator(".said")).to_have_text("Look.")
    expect(learned.locator(".labels")).to_contain_text("Move: focus")
    expect(page.locator("#talk .tutor", has_text="tiny/sft").locator(".labels")).to_contain_text("can't be read: ")
    assert page.evaluate("document.documentElement.scrollWidth") <= page.viewport_size["width"]
    assert serious(page) == []


@ONE_SIZE
def test_the_conversation_goes_on_with_the_reply_that_is_taken_and_is_data_for_the_workflow(
    page: Page, tmp_path: Path
) -> None:
    ask(page, QUESTION)
    ask(page, "Hm.")
    export = page.get_by_role("button", name="Export")
    expect(export).to_be_enabled()
    with page.expect_download() as download:
        export.click()
    download.value.save_as(tmp_path / "talk.json")
    (raw,) = read_conversations(tmp_path / "talk.json")
    talk, cut = clean(raw, Reader(load_rubric(RUBRIC)))
    assert cut is None and [one["content"] for one in talk.messages] == [one["content"] for one in TALKS[3].messages]

    page.get_by_label("tiny/sft").check()
    expect(page.locator("#talk .taken h3")).to_have_text("tiny/sft (the conversation goes on with this reply)")
    ask(page, "And?")
    earlier = page.locator("#talk .turn")
    expect(earlier.nth(1).locator("h3")).to_have_text("tiny/dpo-b0.1")
    expect(earlier.nth(3).locator("h3")).to_have_text("tiny/sft")
    expect(earlier.nth(3)).to_contain_text("can't be read")
    page.get_by_role("button", name="New conversation").click()
    expect(page.locator("#talk .turn")).to_have_count(0)
    expect(export).to_be_disabled()


@ONE_SIZE
def test_a_question_is_asked_once_and_the_next_can_be_written_at_once(page: Page) -> None:
    question = page.get_by_label("You, as the student")
    for text in ("Q. Why?", "Hm.", "And?"):
        question.fill(text)
        question.press("Enter")
        question.press("Enter")
        expect(page.locator("#talk .student .said").last).to_have_text(text, timeout=30_000)
        expect(question).to_be_focused()
        expect(question).to_be_in_viewport()
    expect(page.locator("#talk .student")).to_have_count(3)
    page.get_by_role("button", name="New conversation").click()
    expect(page.locator("#talk .turn")).to_have_count(0)
    question.fill("  ")
    question.press("Enter")
    expect(page.get_by_role("button", name="Ask", exact=True)).to_be_enabled()
    expect(page.locator("#talk .turn")).to_have_count(0)


@ONE_SIZE
def test_a_conversation_that_is_too_long_is_said_to_be(page: Page) -> None:
    ask(page, QUESTION)
    page.get_by_label("You, as the student").fill("why " * 9000)
    page.get_by_role("button", name="Ask", exact=True).click()
    expect(page.get_by_text("begin a new conversation")).to_be_visible()
    expect(page.get_by_label("You, as the student")).to_have_value("why " * 8999 + "why")
    expect(page.locator("#talk .student")).to_have_count(1)
    ask(page, "Hm.")


@ONE_SIZE
def test_what_is_said_is_text_whatever_it_spells(page: Page) -> None:
    ask(page, HOSTILE)
    assert page.evaluate("window.hostile") is None
