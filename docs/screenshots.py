"""Take the pictures that the pages show: three replies in the report of the last run of examples/smollm2.yaml; of the
last default run, a transcript in its report, and two tutors. What has not been run is left out.

python docs/screenshots.py
"""

import shutil
import subprocess
import sys
import time
from pathlib import Path

import requests
from playwright.sync_api import Page, sync_playwright

from pedalign.core.artifacts import read_json

ROOT = Path(__file__).parents[1]
PICTURES = ROOT / "docs/pictures"
PORT = 7867
TURNS = 3  # of a test conversation, asked of the tutors


def report(page: Page, results: Path) -> None:
    """The part with three telling replies of each tutor."""
    page.goto((results / "report.html").resolve().as_uri())
    tops = page.locator("h2").evaluate_all("all => all.map(one => [one.id, one.offsetTop])")
    at = [name for name, _ in tops].index("examples")
    top, bottom = tops[at][1], tops[at + 1][1]
    clip = {"x": 0, "y": top - 20, "width": 1200, "height": bottom - top - 20}
    page.screenshot(path=PICTURES / "report.png", full_page=True, clip=clip)


def transcript(page: Page, results: Path) -> None:
    page.goto((results / "report.html").resolve().as_uri())
    page.select_option("#outcome", "gained")
    page.locator("#list a").first.click()
    page.locator("#transcripts").scroll_into_view_if_needed()
    page.evaluate("document.getElementById('transcripts').scrollIntoView()")
    page.screenshot(path=PICTURES / "transcripts.png")


def chat(page: Page, results: Path) -> None:
    tutors = [results / "tiny" / policy / "checkpoint" for policy in ("sft", "dpo-b0.1")]
    command = [sys.executable, ROOT / "scripts/chat.py", *tutors, "--web", "--port", str(PORT)]
    server = subprocess.Popen(command)
    try:
        address = f"http://127.0.0.1:{PORT}/"
        for _ in range(120):
            time.sleep(1)
            try:
                if requests.get(address, timeout=5).ok:
                    break
            except requests.RequestException:
                continue
        page.set_viewport_size({"width": 1200, "height": 1010})
        page.goto(address)
        talk = read_json(results / "data/bio-test.json")[4]["conversations"]
        for number, turn in enumerate(talk[: 2 * TURNS : 2]):
            page.get_by_label("You, as the student").fill(turn["value"])
            page.get_by_role("button", name="Ask", exact=True).click()
            page.locator("#talk .student").nth(number).wait_for()
            page.wait_for_timeout(3000)
        page.screenshot(path=PICTURES / "chat.png")
    finally:
        server.kill()


def main() -> None:
    default, pretrained = ROOT / "results", ROOT / "results-smollm2"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1200, "height": 860}, color_scheme="light")
        if (pretrained / "report.html").is_file():
            report(page, pretrained)
        if (default / "report.html").is_file():
            transcript(page, default)
            chat(page, default)
        browser.close()


if __name__ == "__main__":
    main()
