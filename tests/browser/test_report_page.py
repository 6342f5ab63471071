"""The report page in a real browser: what it draws, what its filters list, and that nothing gets in or out."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from axe import serious
from playwright.sync_api import Browser, Page, expect
from reported import HOSTILE, reported

pytestmark = pytest.mark.browser
ONE_SIZE = pytest.mark.parametrize("page", [("dark", 900)], indirect=True)  # of what does not depend on it


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    return reported(tmp_path_factory.mktemp("report") / "results").as_uri()


@pytest.fixture(params=[("light", 400), ("dark", 900), ("light", 1600)], ids=lambda how: f"{how[0]}-{how[1]}")
def page(request: pytest.FixtureRequest, browser: Browser, address: str) -> Iterator[Page]:
    """The page, opened; when the test ends, it has asked for nothing and complained of nothing."""
    scheme, width = request.param
    opened = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    said: list[str] = []
    opened.on("console", lambda message: said.append(message.text))
    opened.on("pageerror", lambda error: said.append(str(error)))
    opened.on("request", lambda asked: said.append(asked.url) if asked.url.partition("#")[0] != address else None)
    opened.goto(address)
    expect(opened.locator("#count")).to_contain_text("replies")
    yield opened
    opened.close()
    assert [one for one in said if not one.startswith("data:")] == []


# Pixels of a chart's smallest text in the page.
SMALLEST_TEXT = """chart => chart.getBoundingClientRect().width / chart.viewBox.baseVal.width
    * Math.min(...[...chart.querySelectorAll('text')].map(one => parseFloat(one.getAttribute('font-size'))))"""


def test_every_chart_has_marks_in_the_page_and_says_what_it_shows(page: Page) -> None:
    charts = page.locator("figure")
    assert charts.count() > 20
    for at in range(charts.count()):
        drawn = charts.nth(at).locator("svg")
        assert drawn.locator(".mark-rect path, .mark-symbol path, .mark-line path, .mark-rule line").count()
        assert len(charts.nth(at).locator("[role=img]").get_attribute("aria-label") or "") > 20
        box = charts.nth(at).bounding_box()  # a wide chart is scrolled in it
        assert box and box["x"] >= 0 and box["x"] + box["width"] <= page.viewport_size["width"]
        assert drawn.evaluate(SMALLEST_TEXT) >= 12
    assert page.evaluate("document.documentElement.scrollWidth") <= page.viewport_size["width"]


@ONE_SIZE
def test_the_answer_is_the_first_that_one_reads(page: Page) -> None:
    answer = page.locator(".answer").first.inner_text()
    assert answer.startswith("The aligned tutor tiny dpo-b0.1 picks the right action more often than its fine-tuned")
    assert re.search(
        r"in \d+\.\d% of its replies, against \d+\.\d% \(\+\d+\.\d points, 95% interval \+.* to \+.*, p .*\)\. "
        r"The share in valid .* Measured on [\d,]+ scored test replies of \d+ conversations, bio \(simulated\)\.$",
        answer,
    )


@ONE_SIZE
def test_the_page_begins_with_what_tutors_said_and_with_replies_that_differ(page: Page) -> None:
    sections = page.locator("main h2")
    assert sections.all_inner_texts()[:3] == ["What the tutors said", "All tutors", "Transcripts"]
    expect(page.locator(".examples article h3")).to_have_text(
        ["Corrected by alignment", "Spoiled by alignment", "Right before and after"]
    )
    introduction = page.locator("section[aria-labelledby=examples] > p")
    expect(introduction).to_contain_text("by the label “Action Based on Evaluation” of tiny sft and tiny dpo-b0.1.")
    expect(page.locator("#outcome")).to_have_value("differ")
    expect(page.locator("#list a").first).to_contain_text("gold reply: ")
    page.locator(".examples article h3 a").last.click()  # both tutors are right there
    expect(page.locator("#list a[aria-current]")).to_have_count(1)
    expect(page.locator("#outcome")).to_have_value("all")


@ONE_SIZE
def test_filters_change_what_is_listed(page: Page) -> None:
    page.click("#all")
    every = count(page)
    found = {}
    for outcome in ("gained", "lost", "both", "neither"):
        page.select_option("#outcome", outcome)
        found[outcome] = count(page)
        assert page.locator("#list a").count() == min(found[outcome], 100)
    assert 0 < sum(found.values()) < every  # first replies are not scored
    assert f"of {sum(found.values()):,} replies that are scored" in page.locator("#count").inner_text()
    assert found["gained"] > found["lost"] > 0
    page.click("#all")
    assert count(page) == every
    page.select_option("#gold", "1")
    assert 0 < count(page) < every
    page.select_option("#gold", "")
    page.select_option("#outcome", "neither")
    page.select_option("#given", "none")
    assert 0 < count(page) < found["neither"]
    expect(page.locator("#talk .said", has_text="tiny dpo-b0.1")).to_contain_text("✗ Action Based on Evaluation none")
    page.select_option("#outcome", "gained")
    expect(page.locator("#list")).to_have_text("No reply is like that.")
    expect(page.locator("#talk")).to_be_empty()
    page.click("#all")
    page.select_option("#outcome", "defect")
    expect(page.locator("#talk")).to_contain_text("can't be read")
    assert page.locator("#talk mark").count() == 0


def count(page: Page) -> int:
    return int(page.locator("#count").inner_text().split()[0].replace(",", ""))


def test_a_link_opens_its_transcript_and_a_reply_is_text_whatever_it_holds(page: Page, address: str) -> None:
    page.select_option("#outcome", "gained")
    link = page.locator("#list a").nth(1)
    name = link.locator("span").inner_text()
    page.goto(f"{address}{link.get_attribute('href')}")
    page.reload()
    expect(page.locator("#talk h3")).to_have_text(name)
    expect(page.locator("#talk h3")).to_be_in_viewport()
    expect(page.locator("#list a[aria-current] span")).to_have_text(name)
    expect(page.locator("#talk")).to_contain_text(HOSTILE)
    assert page.evaluate("window.hostile") is None
    page.select_option("#outcome", "gained")
    action = page.locator("#talk .said", has_text="tiny dpo-b0.1").locator(".label").nth(1)
    expect(action).to_contain_text("✓ Action")
    expect(page.locator("#talk .said", has_text="tiny sft").locator(".label").nth(1)).to_contain_text("✗ Action")


@ONE_SIZE
def test_a_link_far_down_the_list_is_marked_there_and_a_wrong_one_says_so(page: Page, address: str) -> None:
    page.click("#all")
    page.click("#more")
    last = page.locator("#list a").last
    name, link = last.locator("span").inner_text(), last.get_attribute("href")
    page.goto("about:blank")
    page.goto(f"{address}{link}")
    expect(page.locator("#list a[aria-current] span")).to_have_text(name)
    for wrong, told in (("#reply=nobody:3", "There is no reply nobody, turn 3."), ("#reply=%E0%A4:1", "turn")):
        page.goto("about:blank")
        page.goto(f"{address}{wrong}")
        expect(page.locator("#talk")).to_contain_text(told)
        assert page.locator("#list a").count() == min(count(page), 100)


def test_the_keyboard_goes_through_the_replies_and_keeps_its_place(page: Page) -> None:
    page.locator("#all").focus()
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    third = page.locator("#list a").nth(2)
    expect(third).to_be_focused()
    page.keyboard.press("Enter")
    heading = page.locator("#talk h3")
    expect(heading).to_be_focused()
    expect(heading).to_be_in_viewport()
    expect(heading).to_have_text(third.locator("span").inner_text())
    page.locator("#talk summary").click()
    page.get_by_role("button", name="next reply").click()
    expect(heading).to_have_text(page.locator("#list a").nth(3).locator("span").inner_text())
    expect(page.locator("#talk details")).to_have_attribute("open", "")  # as with the reply before
    third.focus()
    page.keyboard.press("Shift+Tab")
    expect(page.locator("#all")).to_be_focused()


@ONE_SIZE
def test_on_paper_everything_is_unfolded(page: Page) -> None:
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.locator("details:not([open])").count() == 0


def test_nothing_keeps_people_out(page: Page) -> None:
    page.locator("#list a").first.click()
    assert serious(page) == []


def test_three_thousand_rows_open_in_two_seconds(browser: Browser, tmp_path: Path) -> None:
    big = reported(tmp_path / "results", files=3, tests=130)
    assert big.stat().st_size < 15e6
    opened = browser.new_page()
    opened.goto(big.as_uri())
    expect(opened.locator("#count")).to_contain_text("replies")
    assert opened.evaluate("performance.now()") < 2000
    opened.click("#all")
    assert count(opened) > 2500
    opened.close()
