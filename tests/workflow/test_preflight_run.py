"""`snakemake preflight` says in seconds what would fail, and starts nothing."""

import resource
import subprocess
from pathlib import Path

import pytest
import yaml

pytestmark = pytest.mark.slow


def preflight(checkout, config: dict | None = None) -> subprocess.CompletedProcess:
    (checkout.path / "more.yaml").write_text(yaml.safe_dump(config or {}))
    call = checkout.forked if config else checkout.snakemake  # of the default run, the time counts
    return call("--cores", "1", "--", "preflight", config="more.yaml")


def written(folder: Path) -> list[str]:
    return [str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()]


def seconds_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_the_default_run_passes_in_seconds_and_nothing_but_a_log_is_written(checkout):
    before = seconds_of_children()  # whatever else the machine does
    answer = preflight(checkout)
    assert seconds_of_children() - before < 40
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert answer.stdout.splitlines()[-1] == "no problem found"
    for about in ("GPUs", "tiny template", "tiny fine-tuning memory", "tiny alignment batch", "disk of results"):
        assert f"\nok  {about} " in answer.stdout
    assert "1 job: preflight\n" in answer.stderr
    assert written(checkout.path / "results") == ["logs/preflight.log"]


def test_what_would_fail_is_told_last_with_what_mends_it(checkout):
    entry = {"like": "zephyr-7b", "path": "/no/such/model", "sft": {"global_batch_size": 15}}
    runs = [{"model": "mine", "algorithm": "dpo", "beta": 0.1}]
    answer = preflight(checkout, {"runs": runs, "models": {"mine": entry}})
    assert answer.returncode != 0
    assert "Traceback" not in answer.stdout + answer.stderr
    closing = answer.stdout.rstrip().rpartition("\n\n")[2].splitlines()
    assert closing[-1] == "5 problems: jobs would fail"
    assert answer.stdout.count("\n5 problems: ") == 2  # below Snakemake's account of the failed job too
    assert "problem: mine base: /no/such/model: no such folder" in closing
    assert "problem: mine fine-tuning: the job asks for 4 GPUs, this machine has 0" in closing
    batch = next(at for at, line in enumerate(closing) if line.startswith("problem: mine fine-tuning batch"))
    assert "15 is not a multiple of device_batch_size 1 x 4 processes" in closing[batch]
    assert closing[batch + 1].startswith("  fix: ")
    assert written(checkout.path / "results") == ["logs/preflight.log"]
