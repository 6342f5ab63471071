"""The pages: their links lead somewhere, the index reaches all of them, and what is generated is up to date."""

import re
import sys
from collections import Counter
from pathlib import Path

import pytest
import yaml
from snakemake.utils import update_config

from pedalign.core.section import read
from pedalign.data.rubric import load_rubric
from pedalign.reporting.summary import summary_rows
from pedalign.workflow.config import Config

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
LINKED = [*(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "datasets/README.md")), *PAGES]
INDEX = DOCS / "README.md"


def prose(page: Path) -> str:
    """A page without its blocks of code."""
    return re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def links(page: Path) -> list[str]:
    """Where a page links to within the project."""
    return [link for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)) if not re.match(r"\w+:", link)]


def anchors(page: Path) -> set[str]:
    """What GitHub lets a link to a page end in."""
    found: Counter[str] = Counter()
    names = set()
    for heading in re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE):
        name = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        names.add(f"{name}-{found[name]}" if found[name] else name)
        found[name] += 1
    return names


def named(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", LINKED, ids=named)
def test_every_link_leads_to_a_file_and_a_heading_that_exist(page):
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target), link


def test_the_index_reaches_every_page():
    reached = {(INDEX.parent / link).resolve() for link in links(INDEX)}
    assert [named(page) for page in PAGES if page != INDEX and page not in reached] == []
    assert INDEX in {(ROOT / link).resolve() for link in links(ROOT / "README.md")}


def test_every_path_of_docs_that_the_code_names_exists():
    files = [ROOT / name for name in ("config.yaml", "Makefile", "Snakefile")]
    for folder in ("scripts", "rules", "profiles", "examples", "tests", "docs"):
        files += [path for kind in ("py", "md", "yaml", "smk", "html") for path in (ROOT / folder).rglob(f"*.{kind}")]
    found = {
        (name, path)
        for path in files
        for name in re.findall(r"(?<![\w/.])docs/[\w/.-]+\.(?:md|png|svg|py)\b", path.read_text(encoding="utf-8"))
    }
    assert len(found) > 30
    assert sorted((named(path), name) for name, path in found if not (ROOT / name).exists()) == []


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


def test_every_make_target_is_told_and_every_one_that_is_told_exists():
    targets = set(re.findall(r"^([a-z][a-z0-9-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    told = {
        name
        for page in LINKED
        for name in re.findall(r"(?:^ {4}|`)make ([a-z][a-z0-9-]*)", page.read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert told == targets


def blocks() -> list[tuple[str, dict]]:
    """Settings in YAML that a page shows."""
    found = []
    for page in [ROOT / "README.md", *PAGES]:
        for text in re.findall(r"^```yaml\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE):
            values = yaml.safe_load(text)
            if set(values) <= set(Config.model_fields):  # else a rubric
                found.append((named(page), values))
    return found


@pytest.mark.parametrize(("page", "values"), blocks(), ids=[page for page, _ in blocks()])
def test_settings_that_a_page_shows_are_valid(page, values):
    config = yaml.safe_load((ROOT / "config.yaml").read_text(encoding="utf-8"))
    update_config(config, values)
    read(Config, config, page)


def test_every_column_of_the_summary_is_told():
    header, _ = summary_rows({}, {}, {}, {}, load_rubric(ROOT / "datasets/rubrics/class.yaml"), "", {}, 0.9)
    told: set[str] = set()
    for cell in re.findall(r"^\| (`.*?) \|", (DOCS / "reference/summary.md").read_text(encoding="utf-8"), re.MULTILINE):
        first = ""
        for name in re.findall(r"`([\w…]+)`", cell):  # `action_accuracy`, `…_low`
            told.add(name.replace("…", first))
            first = name.removesuffix("_low") if "…" not in name else first
    others = ("evaluation_", "state_")
    assert {name for name in header if not name.startswith(others)} == told


@pytest.fixture(scope="module")
def made():
    """docs/make_pages.py"""
    sys.path.insert(0, str(DOCS))
    try:
        import make_pages
    finally:
        sys.path.remove(str(DOCS))
    return make_pages


def test_the_reference_of_all_settings_is_what_the_declaration_gives(made):
    page = (DOCS / "reference/config.md").read_text(encoding="utf-8")
    assert page == made.config_reference.page(), "run `make readme`"
    for name in ("dataset", "per_prompt", "four_bit", "max_runtime", "model_type"):
        assert f"\n| `{name}` | " in page
    assert "| `label_noise` | number | `0.1` | at least 0, less than 0.5 | " in page


@pytest.mark.parametrize(
    ("page", "part"),
    [
        ("explanation/architecture.md", "dag"),
        ("reference/commands.md", "targets"),
        ("reference/commands.md", "scripts"),
    ],
)
def test_what_is_generated_is_what_the_workflow_gives(page, part, made):
    text = (DOCS / page).read_text(encoding="utf-8")
    assert made.replaced(text, part, getattr(made, part)()) == text, "run `make readme`"
    assert f"<!-- {part}: " in text


@pytest.mark.parametrize(
    ("page", "folder", "tutors"),
    [
        ("README.md", "results-smollm2", ["smollm2-135m base", "smollm2-135m sft", "smollm2-135m dpo-b0.1"]),
        ("docs/explanation/real-models.md", "results-smollm2", ["smollm2-135m base"]),
        ("docs/tutorials/first-run.md", "results", ["tiny sft", "tiny dpo-b0.1"]),
    ],
)
def test_a_page_shows_the_table_of_a_run(page: str, folder: str, tutors: list[str], made) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    (table,) = re.findall(rf"<!-- {folder}: [^>]*-->\n```\n(.*?)\n```\n<!-- /{folder} -->", text, re.DOTALL)
    assert [name for name in tutors if f"\n{name} " not in table] == []
    assert page in made.TABLES[folder]
