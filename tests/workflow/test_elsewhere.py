"""A call from another folder, a path with spaces and umlauts, and the workflow as a module of another one."""

import re
import subprocess
from pathlib import Path

import forked
import pytest
import yaml
from checkouts import QUICK, Checkout, fresh_checkout

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def workflow(tmp_path_factory) -> Checkout:
    """In a path that shells split and ASCII lacks; none writes into it."""
    return fresh_checkout(tmp_path_factory.mktemp("in") / "schöne Tutoren")


def call(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    folder.mkdir(exist_ok=True)
    answer = forked.snakemake(folder, "--cores", "1", *arguments)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    return answer


def same_data(folder: Path, finished: Checkout) -> None:
    names = {path.name for path in (finished.path / "results/data").glob("*.json")}
    assert len(names) == 6
    for name in names:
        assert (folder / "results/data" / name).read_bytes() == (finished.path / "results/data" / name).read_bytes()


def test_a_call_from_another_folder_writes_there_what_a_call_in_the_checkout_writes(workflow, finished, tmp_path):
    folder = tmp_path / "mein Ordner"
    snakefile = ("--snakefile", str(workflow.path / "Snakefile"))
    call(folder, "split", *snakefile, "--configfile", str(workflow.path / QUICK))
    same_data(folder, finished)
    assert not (workflow.path / "results").exists() and not (workflow.path / ".snakemake").exists()


def test_the_settings_of_that_folder_are_read_and_the_others_are_the_workflows(workflow, tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "config.yaml").write_text("results: elsewhere\nsplit: {sft: 4}\n")
    call(folder, "split", "--snakefile", str(workflow.path / "Snakefile"))
    told = (folder / "elsewhere/logs/data/splits.log").read_text()
    assert "sft: 12 conversations" in told and re.search(
        r"^- test: 1\d{3} (of 1200 wanted )?conversations", told, re.MULTILINE
    )


def test_as_a_module_of_another_workflow_it_makes_the_same(workflow, finished, tmp_path):
    folder = tmp_path / "other workflow"
    folder.mkdir()
    config = yaml.safe_load((workflow.path / QUICK).read_text())
    (folder / "mine.yaml").write_text(yaml.safe_dump({"tutors": config}))
    (folder / "Snakefile").write_text(
        'configfile: "mine.yaml"\n\n\nmodule pedalign:\n'
        f'    snakefile:\n        "{workflow.path}/Snakefile"\n    config:\n        config["tutors"]\n\n\n'
        "use rule * from pedalign as tutor_*\n"
    )
    planned = call(folder, "--dry-run", "results/summary.csv")
    jobs = re.findall(r"^rule tutor_(\w+):|^localrule tutor_(\w+):", planned.stdout + planned.stderr, re.MULTILINE)
    assert {"sft", "align", "generate", "summarize"} <= {one or other for one, other in jobs}
    call(folder, "results/data/splits.json")
    same_data(folder, finished)
