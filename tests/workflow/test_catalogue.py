"""What is planned: the paper's models on any machine, as jobs for a cluster; the benchmark."""

import re

import forked
import pytest

pytestmark = pytest.mark.slow


def requests(plan):
    """Rule → what its jobs ask for, by the words of a dry run."""
    asked = {}
    for job in re.split(r"\n(?=rule \w+:)", plan):
        rule, resources = re.match(r"rule (\w+):", job), re.search(r"^ +resources: (.*)$", job, re.MULTILINE)
        if rule and resources:
            asked[rule[1]] = dict(one.split("=", 1) for one in re.split(r", (?=\w+=)", resources[1]))
    return asked


@pytest.mark.parametrize("model", ["mistral-7b", "zephyr-7b", "vicuna-7b", "mistral-7b-v3", "llama-3.1-8b"])
def test_a_model_of_the_paper_is_planned_without_the_net(model, checkout, monkeypatch):
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    wanted = f"results/{model}/dpo-b0.1/test/metrics.json"
    answer = forked.snakemake(checkout.path, "--dry-run", "--verbose", "--cores", "16", wanted)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    asked = requests(answer.stdout + answer.stderr)
    assert "base" not in asked  # a pretrained model
    for rule, gpus in (("sft", "4"), ("align", "4"), ("generate", "1"), ("reference", "1")):
        assert (asked[rule]["gpu"], asked[rule]["nodes"]) == (gpus, "1"), rule
        assert int(asked[rule]["mem_mb"]) >= 64000 and int(asked[rule]["runtime"]) >= 120


def test_the_benchmark_needs_what_a_run_has_made_and_its_size_is_no_setting_of_anything_else(finished):
    full = ("--config", "benchmark=full")
    assert finished.planned(*full) == {}
    assert finished.planned(*full, "--", "benchmark") == {"benchmark": 1}
