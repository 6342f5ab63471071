"""Where the time of a run went, from Snakemake's benchmark files and the jobs' logs."""

import os
import subprocess
import sys
import xml.etree.ElementTree as xml

import pytest

from pedalign.core.paths import Paths
from pedalign.reporting import timing


@pytest.fixture
def results(tmp_path):
    """Jobs in the order in which they ended, of two tutors aligned; (seconds, log)."""
    jobs = {
        "data/splits": (3.0, "done\n"),
        "tiny/sft/checkpoint": (
            131.0,
            "time: 9.00 s loading\nended by SIGTERM\ntime: 1.00 s loading, 120.00 s training, 0.50 s saving\n",
        ),
        "tiny/sft/test/shards/1-of-2": (9.0, "time: 1.00 s loading, 5.00 s generating\n"),
        "tiny/sft/test/shards/2-of-2": (10.0, "time: 1.50 s loading, 6.00 s generating\n"),
        "tiny/sft/test/responses": (0.5, ""),
        "tiny/dpo-b0.1/checkpoint": (40.0, "time: 30.00 s training\n"),
        "tiny/kto-b0.5-s7/checkpoint": (
            50.0,
            "launch: waited 6.5 s for GPUs\ntime: 41.00 s training\nlaunch: the largest process held 2.250 GB\n",
        ),
        "summary": (1.0, None),
    }
    for moment, (name, (seconds, log)) in enumerate(jobs.items()):
        table = tmp_path / "benchmarks" / f"{name}.tsv"
        table.parent.mkdir(parents=True, exist_ok=True)
        table.write_text(f"s\th:m:s\tmax_rss\n{seconds}\t0:00:00\t-\n")
        os.utime(table, (moment, moment))
        if log is not None:
            path = tmp_path / "logs" / f"{name}.log"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(log)
    return tmp_path


def test_seconds_are_those_of_the_last_try_and_what_no_phase_has_is_starting(results):
    spent = timing.spent(Paths(str(results)))
    checkpoint = {phase: seconds for (stage, phase), seconds in spent.items() if stage == "sft/checkpoint"}
    assert checkpoint == {"starting": 9.5, "loading": 1.0, "training": 120.0, "saving": 0.5}


def test_jobs_of_a_stage_are_added_up_over_shards_and_tutors_and_stages_stand_in_the_order_of_the_run(results):
    spent = timing.spent(Paths(str(results)))
    stages = ["data/splits", "sft/checkpoint", "sft/test/responses", "aligned/checkpoint", "summary"]
    assert list(dict.fromkeys(stage for stage, _ in spent)) == stages
    assert spent["sft/test/responses", "generating"] == 11.0
    assert spent["aligned/checkpoint", "training"] == 71.0
    assert spent["aligned/checkpoint", "starting"] == 40 - 30 + 50 - 41 - 6.5  # and the rest waited for GPUs
    assert spent["aligned/checkpoint", "waiting"] == 6.5
    assert spent["data/splits", "working"] == 3.0  # a script without phases
    assert sum(spent.values()) == pytest.approx(244.5)
    seconds = timing.by_stage(spent)
    assert list(seconds) == stages and sum(seconds.values()) == pytest.approx(244.5 - 6.5)


def test_memory_is_that_of_the_largest_job_also_where_it_was_over_before_snakemake_looked(results):
    table = results / "benchmarks/tiny/dpo-b0.1/checkpoint.tsv"
    table.write_text("s\th:m:s\tmax_rss\n40.0\t0:00:40\t18.5\n")
    assert timing.memory(Paths(str(results)))["aligned/checkpoint"] == 2.25
    table.write_text("s\th:m:s\tmax_rss\n40.0\t0:00:40\t3500\n")
    assert timing.memory(Paths(str(results)))["aligned/checkpoint"] == 3.5
    assert timing.memory(Paths(str(results)))["summary"] == 0


def test_the_picture_names_every_stage_and_its_bars_are_as_long_as_the_times(results, root):
    answer = subprocess.run(
        [sys.executable, str(root / "scripts/timing.py"), str(results)], capture_output=True, text=True, check=True
    )
    assert "time.svg: 4 min 4 s of jobs: training 78%, " in answer.stdout
    picture = xml.fromstring((results / "time.svg").read_text())
    texts = [element.text for element in picture.iter() if element.tag.endswith("text")]
    for (stage, phase), seconds in timing.spent(Paths(str(results))).items():
        assert stage in texts and phase in texts
        labels = [element.get("aria-label", "") for element in picture.iter()]
        assert any(f"seconds: {seconds:g}" in one and stage in one and f"phase: {phase}" in one for one in labels)


def test_a_folder_without_a_run_is_told(tmp_path, root):
    answer = subprocess.run(
        [sys.executable, str(root / "scripts/timing.py"), str(tmp_path)], capture_output=True, text=True
    )
    assert answer.returncode == 1 and answer.stderr.splitlines()[0].startswith("error: ")
    assert "fix: " in answer.stderr and not (tmp_path / "time.svg").exists()
