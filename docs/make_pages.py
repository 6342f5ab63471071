"""Make the generated parts of the pages: tables of results, the rule graph in docs/explanation/architecture.md, the
settings in docs/reference/config.md, targets and scripts in docs/reference/commands.md, times in
docs/explanation/speed.md.

What comes from a run is left as it is where the run's folder is not there.

python docs/make_pages.py
"""

import ast
import re
import subprocess
from pathlib import Path
from typing import Any

import altair as alt
import config_reference
import vl_convert

from pedalign.benchmarks.comparison import benchmark_report
from pedalign.core.artifacts import read_csv, read_json, write_text
from pedalign.reporting.table import table

ROOT = Path(__file__).parents[1]
# Folder of a run's results → the pages with its table, between comments with the folder's name.
TABLES = {
    "results": ["docs/tutorials/first-run.md"],
    "results-mathdial": ["docs/explanation/real-models.md"],
    "results-smollm2": ["README.md", "docs/explanation/real-models.md"],
}


def dag() -> str:
    """The rule graph of the summary table as a Mermaid chart, without colours (a reader's theme chooses them)."""
    command = ["snakemake", "results/summary.csv", "--rulegraph", "mermaid-js"]
    chart = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    names = dict(re.findall(r"(id\d+)\[(\w+)\]", chart))
    edges = sorted(f"{names[one]} --> {names[other]}" for one, other in re.findall(r"(id\d+) --> (id\d+)", chart))
    return "\n".join(["```mermaid", "flowchart TB", *edges, "```"])


def targets() -> str:
    """The named targets of the workflow, with their meaning."""
    command = ["snakemake", "--list-target-rules"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    rows = [f"| `{name}` | {meaning} |" for name, meaning in re.findall(r"^(\w+) \((.*)\)$", listed, re.MULTILINE)]
    return "\n".join(["| target | what it is |", "|---|---|", *rows])


def scripts() -> str:
    """Every script, with the first line of what it says of itself."""
    rows = []
    for path in sorted((ROOT / "scripts").glob("*.py")):
        about = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        rows.append(f"| `scripts/{path.name}` | {about.splitlines()[0]} |")
    return "\n".join(["| script | what it does |", "|---|---|", *rows])


def results(summary: Path, page: str) -> str:
    """The table of a run; README.md has its first part, the accuracies."""
    shown = table(read_csv(summary))
    shown = shown.partition("\n\nperplexity")[0] if page == "README.md" else shown
    return f"```\n{shown}\n```"


def draw(measured: dict[str, Any], output: Path) -> None:
    """How many times faster ours is than each other way: a bar of the median, a line from the least to the most."""
    rows = [
        {"comparison": f"{one['name']} ({one['model']})", "way": way, **faster}
        for one in measured["comparisons"]
        for way, faster in one["ours_is_faster"].items()
    ]
    if "whole_runs" in measured:
        faster = measured["whole_runs"]["ours_is_faster"]
        rows.append({"comparison": "whole run (tiny)", "way": "shell script", **faster})
    scale = alt.Scale(type="log", domainMin=min(1, *(row["least"] for row in rows)), nice=False)
    base = alt.Chart(width=500).encode(y=alt.Y("way:N", sort=None, title=None))
    bars = base.mark_bar(color="#3b6fb6").encode(
        x=alt.X("median:Q", scale=scale, title="times faster than this way"), x2=alt.datum(1)
    )
    ranges = base.mark_rule(color="black").encode(x="least:Q", x2="most:Q")
    words = base.mark_text(align="left", dx=4).encode(x="most:Q", text=alt.Text("median:Q", format=".2~f"))
    chart = alt.layer(bars, ranges, words, data=alt.Data(values=rows)).facet(
        row=alt.Row("comparison:N", sort=None, title=None, header=alt.Header(labelOrient="top", labelAnchor="start"))
    )
    write_text(output, vl_convert.vegalite_to_svg(chart.resolve_scale(y="independent").to_dict()))


def replaced(text: str, name: str, content: str) -> str:
    pattern = rf"(<!-- {name}: [^>]*-->\n).*?\n?(<!-- /{name} -->)"
    return re.sub(pattern, lambda match: f"{match[1]}{content}\n{match[2]}", text, flags=re.DOTALL)


def put(page: str, name: str, content: str) -> None:
    """In place of what stands between the page's comments of this name."""
    path = ROOT / page
    write_text(path, replaced(path.read_text(encoding="utf-8"), name, content))


def main() -> None:
    put("docs/explanation/architecture.md", "dag", dag())
    put("docs/reference/commands.md", "targets", targets())
    put("docs/reference/commands.md", "scripts", scripts())
    write_text(ROOT / "docs/reference/config.md", config_reference.page())
    for folder, pages in TABLES.items():
        summary = ROOT / folder / "summary.csv"
        for page in pages if summary.is_file() else []:
            put(page, folder, results(summary, page))
    if (ROOT / "results/time.svg").is_file():
        (ROOT / "docs/pictures/time.svg").write_bytes((ROOT / "results/time.svg").read_bytes())
    measured = ROOT / "results/benchmark.json"
    if measured.is_file():
        found = read_json(measured)
        draw(found, ROOT / "docs/pictures/speed.svg")
        put("docs/explanation/speed.md", "speed", "\n".join(benchmark_report(found)))


if __name__ == "__main__":
    main()
