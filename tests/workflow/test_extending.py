"""The recipes of docs/how-to/extending.md, done on a copy of the project, and one run with all of them."""

import csv
import json
import re
from pathlib import Path

import pytest
import yaml
from checkouts import QUICK, ROOT, Checkout, fresh_checkout
from snakemake.utils import update_config

from pedalign.core.section import read
from pedalign.data.rubric import load_rubric
from pedalign.workflow.config import Config

pytestmark = pytest.mark.slow

PAGE = (ROOT / "docs/how-to/extending.md").read_text(encoding="utf-8")
RECIPES = dict(re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))
CHANGES = ("model", "algorithm", "label field", "metric", "summary column", "data source", "chart", "stage")
CHANGES += ("cluster setting", "engine")
HINTS = ("1", "4", "8")  # actions that are a hint


def blocks(recipe: str, kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```$", recipe, re.MULTILINE | re.DOTALL)


def change(folder: Path, block: str) -> None:
    """Do what a diff of the page says; every place must be there, and once."""
    head, _, rest = block.partition("\n")
    file = folder / head.removeprefix("--- ")
    for place in rest.split("@@\n"):
        lines = place.splitlines(keepends=True)
        old, new = ("".join(line[1:] for line in lines if line[0] in marks) for marks in (" -", " +"))
        text = file.read_text(encoding="utf-8")
        assert text.count(old) == 1, f"{file}: not once:\n{old}"
        file.write_text(text.replace(old, new), encoding="utf-8")


def follow(folder: Path, recipe: str) -> None:
    for block in blocks(recipe, "python"):
        name, _, _ = block.partition("\n")
        (folder / name.removeprefix("# ")).write_text(block.partition("\n")[2], encoding="utf-8")
    for block in blocks(recipe, "diff"):
        change(folder, block)


def turns(checkout: Path) -> str:
    """Simulated conversations in the format of the page's data source, with its label field."""
    rubric = load_rubric(checkout / "datasets/rubrics/class.yaml")
    lines = []
    for record in json.loads((checkout / "datasets/simulated/bio-dataset-1.json").read_text())[:40]:
        texts = [one["value"] for one in record["conversations"]]
        replies = [rubric.parse(text) for text in texts[1::2]]
        if any(reply.defect for reply in replies):
            continue
        hints = ("yes" if reply.values["action"] in HINTS else "no" for reply in replies)
        pairs = zip(texts[::2], hints, replies, strict=False)
        told = [{"student": student, "hint": hint, **reply.values} for student, hint, reply in pairs]
        lines.append(json.dumps({"id": record["id"], "turns": told}))
    return "\n".join([*lines, "no JSON"])


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A run with everything that the page adds."""
    checkout = fresh_checkout(tmp_path_factory.mktemp("extending") / "checkout")
    data = checkout.path / "my-data"
    data.mkdir()
    (data / "rubric.yaml").write_bytes((checkout.path / "datasets/rubrics/class.yaml").read_bytes())
    for recipe in RECIPES.values():
        follow(checkout.path, recipe)
    (data / "talks.jsonl").write_text(turns(checkout.path))
    config = yaml.safe_load((checkout.path / QUICK).read_text())
    config |= {"import": {"format": "turns", "files": "my-data/talks.jsonl"}}
    config |= {"dataset": "talks", "rubric": "my-data/rubric.yaml"}
    config["runs"] = [{"model": "tiny", "algorithm": "mpo", "beta": 0.1}]
    config["split"] = {"sft": 6, "dpo": 3, "test": 3}
    config["models"]["tiny"]["generate"] |= {"engine": "by_conversation", "max_new_tokens": 8}
    (checkout.path / "extended.yaml").write_text(yaml.safe_dump(config))
    targets = ("results/report.html", "results/tiny/mpo-b0.1/test/diversity.json")
    answer = checkout.forked("--cores", "2", *targets, config="extended.yaml")
    assert answer.returncode == 0, answer.stdout + answer.stderr
    return checkout


def test_every_change_has_a_recipe_that_touches_two_files_at_most_and_says_how_to_test_it() -> None:
    assert [name.split(" ", 1)[1] for name in RECIPES] == list(CHANGES)
    for name, recipe in RECIPES.items():
        touched = {block.partition("\n")[0].removeprefix("--- ") for block in blocks(recipe, "diff")}
        assert len(touched) <= 2, name
        assert "**Touches** " in recipe and "\nTest it: " in recipe, name
        assert blocks(recipe, "(?:diff|yaml|python)"), name
        for file in touched - {"my-data/rubric.yaml", "rules/score.smk"}:
            assert f"`{file}`" in recipe.partition("```")[0], name


def test_the_model_of_the_page_is_a_model_that_the_config_takes() -> None:
    config = yaml.safe_load((ROOT / "config.yaml").read_text())
    update_config(config, yaml.safe_load(blocks(RECIPES["A model"], "yaml")[0]))
    assert read(Config, config, "config").models["smollm2"].resources.sft.gpu == 1


def test_the_profile_of_the_page_is_one(extended: Checkout) -> None:
    profile = yaml.safe_load((extended.path / "profiles/slurm/profile.yaml").read_text())
    assert "qos=normal" in profile["default-resources"] and profile["set-resources"]["sft"]["slurm_partition"] == "long"


def test_what_was_added_is_in_the_results(extended: Checkout) -> None:
    results = extended.path / "results"
    with (results / "summary.csv").open(newline="") as file:
        rows = {row["policy"]: row for row in csv.DictReader(file)}
    assert list(rows) == ["sft", "mpo-b0.1"]  # the algorithm
    for policy, row in rows.items():
        metrics = json.loads((results / f"tiny/{policy}/test/metrics.json").read_text())
        manifest = json.loads((results / f"tiny/{policy}/checkpoint.json").read_text())
        assert float(row["final_loss"]) == pytest.approx(manifest["final_loss"])  # the column
        for field in ("evaluation", "action", "state", "hint"):  # the metric, and the label field
            assert float(row[f"{field}_kappa"]) == metrics[field]["kappa"]
            low, high = metrics[field]["kappa_ci95"]
            assert [float(row[f"{field}_kappa_{end}"]) for end in ("low", "high")] == [low, high]
    compared = json.loads((results / "tiny/mpo-b0.1/test/comparison.json").read_text())
    assert compared["hint"]["kappa_difference"] is not None
    page = (results / "report.html").read_text()
    assert '<h2 id="lengths">Length of the replies</h2>' in page and "<td>kappa</td>" in page  # the chart
    assert (results / "charts/lengths/words-of-a-reply.svg").is_file()
    (file,) = json.loads((results / "data/splits.json").read_text())["imported"]["files"]
    assert file["conversations"] >= 12 and file["rejected"] == {"not JSON": 1}  # the data source
    (table,) = (results / "charts/data").glob("import*.csv")
    assert "rejected: not JSON" in table.read_text()
    record = extended.provenance("results/tiny/mpo-b0.1/test/responses.csv")
    assert "by_conversation" in record  # the engine
    assert json.loads((results / "tiny/mpo-b0.1/test/diversity.json").read_text())["replies"] > 0  # the stage
