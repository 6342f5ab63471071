"""The whole workflow, cut down but real."""

import csv
import hashlib
import json
import math
import shutil
import subprocess
import sys

import paper_scripts
import pytest
import yaml
from checkouts import QUICK

from pedalign.core.paths import Paths
from pedalign.data.rubric import load_rubric
from pedalign.models.checkpoints import load_tokenizer
from pedalign.models.prompt_format import renderer
from pedalign.reporting import timing

pytestmark = pytest.mark.slow

DETERMINED = [
    "data/bio-sft.json",
    "data/bio-dpo.json",
    "data/bio-test.json",
    "data/bio-dpo_formatted.json",
    "data/bio-test_formatted.json",
    "data/splits.json",
    "tiny/sft/audit.json",
    "tiny/sft/dpo/responses.csv",
    "tiny/sft/test/responses.csv",
    "tiny/preferences.json",
    "tiny/preferences_counts.json",
    "tiny/sft/test/perplexity.json",
    "tiny/dpo-b0.1/test/perplexity.json",
    "tiny/dpo-b0.1/test/responses.csv",
    "tiny/sft/test/metrics.json",
    "tiny/dpo-b0.1/test/metrics.json",
    "tiny/dpo-b0.1/test/comparison.json",
    "summary.csv",
]


def test_two_runs_from_clean_give_the_same_bytes_whatever_their_folders_are_called(finished, checkout, monkeypatch):
    """Names that a shell would act on are names, and no secret is written."""
    monkeypatch.setenv("HF_TOKEN", "hf_secret0123456789")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    results, source = """re sults; touch run; $(touch run) `touch run` 'a" & > run *""", "my 'data' $(touch run)"
    shutil.copytree(checkout.path / "datasets/simulated", checkout.path / source)
    config = yaml.safe_load((checkout.path / QUICK).read_text())
    (checkout.path / "names.yaml").write_text(yaml.safe_dump({**config, "results": results, "source": source}))
    answer = checkout.snakemake("--cores", "2", config="names.yaml")
    assert answer.returncode == 0, answer.stdout + answer.stderr
    ends = answer.stdout[answer.stdout.rindex("accuracy on ") :]
    assert "  both valid (" in ends and f"{results}/report.html: open it in a browser" in ends
    for artifact in (*DETERMINED, "tiny/dpo-b0.1/checkpoint/model.safetensors"):
        one, other = (
            (finished.path / "results" / artifact).read_bytes(),
            (checkout.path / results / artifact).read_bytes(),
        )
        for name, plain in ((results, "results"), (source, "datasets/simulated")):  # in what it was computed from
            other = other.replace(json.dumps(name)[1:-1].encode(), plain.encode())
        assert one == other, artifact
    assert not list(checkout.path.rglob("run"))
    for file in checkout.path.rglob("*"):
        assert not file.is_file() or b"hf_secret" not in file.read_bytes(), file


def test_responses_stand_in_the_order_of_the_split(finished):
    results = finished.path / "results"
    rows = json.loads((results / "data/bio-test_formatted.json").read_text())
    with (results / "tiny/sft/test/responses.csv").open(newline="") as file:
        responses = list(csv.DictReader(file))
    assert list(responses[0])[:3] == ["prompt", "response", "gpt"]
    for row, response in zip(rows, responses, strict=True):
        assert (row["conversation_id"], str(row["turn"])) == (response["conversation_id"], response["turn"])
        assert row["chosen"][0]["content"] == response["gpt"]


def test_the_published_evaluation_of_the_responses_gives_the_papers_figures(finished):
    """Read as evaluate_responses.py reads the file, which finds first turns by the prompt."""
    for policy in ("sft", "dpo-b0.1"):
        folder = finished.path / f"results/tiny/{policy}/test"
        metrics = json.loads((folder / "metrics.json").read_text())
        published = paper_scripts.scores(folder / "responses.csv")
        assert set(published) == {"evaluation", "action", "state"}
        for key, found in published.items():
            assert not isinstance(found, str), found
            right, macro_f1, support = found
            assert metrics[key]["paper_accuracy"] == pytest.approx(right, abs=1e-6)
            if math.isnan(macro_f1):
                assert metrics[key]["paper_macro_f1"] is None
            else:
                assert metrics[key]["paper_macro_f1"] == pytest.approx(macro_f1, abs=1e-6)
            assert metrics[key]["paper_support"] == support > 0
        with (folder / "responses.csv").open(newline="") as file:
            for row in csv.DictReader(file):
                assert row["prompt"].count("Student:") == int(row["turn"]) + 1


def test_a_manifest_names_every_file_of_its_checkpoint(finished):
    for policy in ("sft", "dpo-b0.1"):
        folder = finished.path / "results/tiny" / policy
        manifest = json.loads((folder / "checkpoint.json").read_text())
        files = {file.name: file for file in (folder / "checkpoint").iterdir()}
        files.pop(".snakemake_timestamp", None)  # Snakemake's own, put there when the job is done
        assert files.pop("README.md").read_bytes() == (folder / "README.md").read_bytes()
        assert set(manifest["files"]) == set(files)
        for name, facts in manifest["files"].items():
            assert facts["sha256"] == hashlib.sha256(files[name].read_bytes()).hexdigest()
        assert manifest["settings"]["training"]["global_batch_size"] == {"sft": 2, "dpo-b0.1": 32}[policy]
        assert manifest["final_loss"] > 0
        assert manifest["versions"]["trl"]


def test_a_checkpoint_loads_with_plain_transformers_and_renders_as_the_workflow_does(finished):
    results = finished.path / "results"
    row = json.loads((results / "data/bio-test_formatted.json").read_text())[0]
    code = (
        "import sys, json; from transformers import AutoModelForCausalLM, AutoTokenizer\n"
        "model = AutoModelForCausalLM.from_pretrained(sys.argv[1])\n"
        "tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])\n"
        "messages = json.loads(sys.argv[2])\n"
        "print(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True), end='')"
    )
    checkpoint = results / "tiny/dpo-b0.1/checkpoint"
    command = [sys.executable, "-c", code, str(checkpoint), json.dumps(row["prompt"])]
    answer = subprocess.run(command, cwd=results, capture_output=True, text=True)
    tokenizer = load_tokenizer(str(checkpoint))
    rendering = renderer(tokenizer, "tutor", "compact", load_rubric(finished.path / "datasets/rubrics/class.yaml"))
    assert answer.stdout == rendering.text(row["prompt"]), answer.stderr


def test_a_run_ends_with_where_its_time_went(finished):
    results = finished.path / "results"
    spent = timing.spent(Paths(str(results)))
    did = {phase: {stage for stage, one in spent if one == phase} for phase in ("training", "generating")}
    assert did["training"] == {"sft/checkpoint", "aligned/checkpoint"}
    assert did["generating"] == {"sft/dpo/responses", "sft/test/responses", "aligned/test/responses"}
    assert all(seconds >= 0 for seconds in spent.values())
    picture = (results / "time.svg").read_text()
    assert all(f">{stage}</text>" in picture for stage, _ in spent)


def test_snakemakes_own_report_has_the_page_and_each_chart_and_table(finished, tmp_path):
    page = tmp_path / "report.html"
    answer = finished.forked("--report", str(page))
    assert answer.returncode == 0, answer.stdout + answer.stderr
    said = answer.stdout + answer.stderr
    drawn = sorted(path.name for path in (finished.path / "results/charts").rglob("[!.]*.*"))
    assert len(drawn) > 20 and {"tutor.csv", "split.csv", "leaks.csv"} < set(drawn)
    for name in ("summary.csv", "report.html", *drawn):
        assert f"Adding {name}" in said
    assert "Charts and tables" in page.read_text()


def test_one_artifact_can_be_named_and_made(finished, tmp_path):
    checkout = finished.copy(tmp_path / "checkout")
    artifact = checkout.path / "results/tiny/sft/test/metrics.json"
    before = artifact.read_bytes()
    artifact.unlink()
    answer = checkout.forked("--cores", "2", "results/tiny/sft/test/metrics.json")
    assert answer.returncode == 0, answer.stderr
    assert artifact.read_bytes() == before


def test_every_named_target_is_listed_with_its_meaning(checkout):
    answer = checkout.forked("--list-target-rules")
    for target in ("all", "published_datasets", "split", "report"):
        line = next(line for line in answer.stdout.splitlines() if line.split()[:1] == [target])
        assert len(line.split()) > 3, f"no meaning: {line}"
