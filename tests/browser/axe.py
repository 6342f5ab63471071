"""What keeps people out of a page, by axe-core."""

from checkouts import ROOT
from playwright.sync_api import Page

AXE = ROOT / ".venv/axe/node_modules/axe-core/axe.min.js"


def serious(page: Page) -> list[str]:
    page.evaluate(AXE.read_text(encoding="utf-8"))
    found = page.evaluate("axe.run()")["violations"]
    return [
        f"{one['id']}: {one['nodes'][0]['html'][:200]}" for one in found if one["impact"] in ("serious", "critical")
    ]
