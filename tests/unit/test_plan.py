"""What the config means for each job: artifacts, settings and resources, asked without Snakemake."""

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pedalign.core.paths import Paths, tutor_of
from pedalign.workflow.calls import Told, read_config
from pedalign.workflow.job_settings import JobSettings
from pedalign.workflow.plan import Plan

JOB = SimpleNamespace(model="tiny", policy="dpo-b0.1", split="test")


@pytest.fixture
def planned(root: Path, monkeypatch: pytest.MonkeyPatch):
    """A plan, and the settings of its jobs, of config.yaml with changes."""
    monkeypatch.chdir(root)

    def make(machine: int | None = None, **changes: Any) -> tuple[Plan, JobSettings]:
        plan = Plan(read_config(changes, root / "config.yaml"), root, True, lambda: machine)
        return plan, JobSettings(plan)

    return make


def tiny(**changes: Any) -> dict[str, Any]:
    return {"models": {"tiny": changes}}


def test_every_artifact_has_a_path_of_its_own_below_the_results(planned):
    found = planned(results="out/")[0].artifacts()
    assert len(found) == len(set(found)) and all(path.startswith("out/") for path in found)
    assert {"out/data/bio-sft.json", "out/tiny/base", "out/tiny/sft/audit.json", "out/summary.csv"} <= set(found)
    assert {"out/tiny/dpo-b0.1/test/comparison.json", "out/tiny/dpo-b0.1/README.md", "out/report.html"} <= set(found)
    assert "out/tiny/sft/test/comparison.json" not in found


@pytest.mark.parametrize("name", ["metrics", "perplexity", "comparison", "manifest", "card", "checkpoint"])
def test_the_path_of_a_tutors_artifact_says_which_tutor_it_is_of(name):
    assert tutor_of(Path(getattr(Paths("a/b").tutor("tiny/dpo-b0.1"), name))) == ("tiny", "dpo-b0.1")


def test_logs_and_benchmark_files_lie_as_the_artifacts_do():
    paths = Paths("results", "bio")
    tutor = paths.tutor("tiny/sft")
    assert paths.log(tutor.responses("dpo")) == "results/logs/tiny/sft/dpo/responses.log"
    assert paths.benchmark(tutor.card) == "results/benchmarks/tiny/sft/card.tsv"
    assert paths.log(paths.summary) == "results/logs/summary.log"
    assert paths.log(Paths("results").tutor("tiny/dpo-b0.1").manifest) == "results/logs/tiny/dpo-b0.1/checkpoint.log"


def test_what_is_adopted_is_not_made(planned):
    given = {"sft": "some/tutor", "aligned": {"dpo-b0.1": "some/other"}}
    plan, _ = planned(**tiny(**given))
    taken = {name: source for name, source in plan.adopted.items() if name.startswith("tiny/")}
    assert taken == {"tiny/sft": "some/tutor", "tiny/dpo-b0.1": "some/other"}
    assert (plan.fine_tuned, plan.aligned_here) == ([], [])
    found = plan.artifacts()
    assert not {path for path in found if "audit" in path or "base" in path or "preferences" in path}
    assert "results/tiny/dpo-b0.1/test/comparison.json" in found
    assert plan.origin(JOB) == "some/tutor" and "audit" not in plan.card_inputs(JOB)


def test_an_untrained_model_is_measured_with_the_full_instruction_and_stands_first(planned):
    run = {"model": "smollm2-135m", "algorithm": "dpo", "beta": 0.1}
    plan, settings = planned(runs=[run, {"model": "smollm2-135m", "policy": "base"}])
    assert plan.tutors == [f"smollm2-135m/{policy}" for policy in ("base", "sft", "dpo-b0.1")]
    assert plan.adopted["smollm2-135m/base"] == "HuggingFaceTB/SmolLM2-135M-Instruct"
    found = plan.artifacts()
    assert "results/smollm2-135m/base/test/metrics.json" in found
    assert not {path for path in found if "base/README" in path or "base/test/comparison" in path}
    for stage in (settings.generate, settings.perplexity):
        for policy, wording in (("base", "full"), ("sft", "compact")):
            job = SimpleNamespace(model="smollm2-135m", policy=policy, split="test")
            assert json.loads(stage(job))["rendering"]["instruction"] == wording


def test_layers_of_an_adapter_in_another_order_are_the_same_tutor(planned):
    orders = [["v_proj", "q_proj"], ["q_proj", "v_proj"]]
    run = {"model": "smollm2-135m", "algorithm": "dpo", "beta": 0.1, "adapter": {"targets": orders}}
    entry = {"smollm2-135m": {"adapter": {"targets": orders[0]}}}
    assert planned(runs=[run], models=entry)[0].runs == [("smollm2-135m", "dpo-b0.1")]


def test_a_run_of_an_untrained_model_may_be_the_only_one(planned):
    plan, settings = planned(runs=[{"model": "smollm2-135m", "policy": "base"}])
    assert plan.tutors == ["smollm2-135m/base", "smollm2-135m/sft"] and not plan.aligned_here
    asked = json.loads(settings.preflight(lambda *_, **__: {}, True, None))
    assert list(asked["models"]) == ["smollm2-135m"]


def test_a_card_tells_of_what_is_there(planned):
    plan, _ = planned()
    assert list(plan.card_inputs(JOB)) == ["comparison", "perplexity", "before", "audit"]
    assert list(plan.card_inputs(SimpleNamespace(model="tiny", policy="sft"))) == ["perplexity", "audit"]
    tutors = (SimpleNamespace(model="tiny", policy=policy) for policy in ("sft", "dpo-b0.1", "kto-b0.1"))
    assert [plan.rows(tutor) for tutor in tutors] == ["conversations", "pairs", "replies"]


SETTINGS_OF = {
    "split": {"split": {"test": 9}},
    "base": tiny(vocab_size=500),
    "sft": tiny(sft={"epochs": 2}),
    "generate": tiny(generate={"max_new_tokens": 20}),
    "pair": {"pair": {"per_prompt": 2}},
    "align": tiny(align={"learning_rate": 1e-3}),
    "score": {"score": {"resamples": 300}},
}


@pytest.mark.parametrize("changed", SETTINGS_OF)
def test_a_setting_is_part_of_its_stage_and_of_no_other(planned, changed):
    """`perplexity` resamples too, and the report shows every setting."""

    def texts(settings: JobSettings) -> dict[str, str]:
        asked = {name: getattr(settings, name) for name in SETTINGS_OF}
        return {name: ask() if name in ("split", "pair", "score") else ask(JOB) for name, ask in asked.items()}

    before, after = texts(planned()[1]), texts(planned(**SETTINGS_OF[changed])[1])
    assert [name for name in before if before[name] != after[name]] == [changed]


@pytest.mark.parametrize(
    "change",
    [
        tiny(resources={"sft": {"threads": 9, "runtime": 5}}),
        {"trackers": []},
        {"training_state": {"minutes": 1}},
        {"benchmark": "full"},
        tiny(max_length=2048),  # cuts nothing, as allow_truncation is false
    ],
)
def test_what_decides_no_result_is_part_of_no_training(planned, change):
    for stage in ("sft", "align", "generate"):
        assert getattr(planned()[1], stage)(JOB) == getattr(planned(**change)[1], stage)(JOB)


def test_a_conversation_is_cut_where_truncation_is_allowed_and_its_audit_says_that_it_is_too_long(planned, tmp_path):
    changes = {**tiny(allow_truncation=True, max_length=100), "results": str(tmp_path)}
    plan, settings = planned(**changes)
    audit = Path(plan.paths.model("tiny").audit)

    def cut() -> Any:
        return json.loads(settings.sft(JOB))["training"]["max_length"]

    assert cut() == 100
    audit.parent.mkdir(parents=True)
    for longest, wanted in ((99, None), (100, None), (101, 100)):
        audit.write_text(json.dumps({"tokens": {"max": longest}}))
        assert cut() == wanted


def test_only_cdpo_looks_at_the_noise_of_labels(planned):
    for policy, noise in (("cdpo-b0.1", 0.3), ("dpo-b0.1", 0.0)):
        settings = planned(pair={"label_noise": 0.3})[1]
        found = json.loads(settings.align(SimpleNamespace(model="tiny", policy=policy)))["alignment"]
        assert found == {"algorithm": policy.partition("-")[0], "beta": 0.1, "label_noise": noise}


def test_the_dpo_split_is_answered_as_often_as_pairs_want_and_the_test_split_once(planned):
    settings = planned(pair={"samples": 3, "temperature": 0.7})[1]
    for split, samples, temperature in (("dpo", 3, 0.7), ("test", 1, 0)):
        found = json.loads(settings.generate(SimpleNamespace(model="tiny", policy="sft", split=split)))
        assert (found["samples"], found["generation"]["temperature"]) == (samples, temperature)


def test_resources_are_those_of_the_models_entry(planned):
    nodes = {"gpu": "up to 4", "nodes": 2, "threads": 3, "mem_mb": 5, "runtime": 10, "max_runtime": 25}
    here = planned(machine=2, **tiny(resources={"sft": nodes}))[0]
    assert (here.gpus("sft")(JOB), here.gpus("generate")(JOB)) == (1, 0)  # the batch of 2 over one device at a time
    assert (here.nodes("sft")(JOB), here.mpi("sft")(JOB), here.tasks("sft")(JOB)) == (2, "srun", 2)
    assert (here.nodes("align")(JOB), here.mpi("align")(JOB), here.tasks("align")(JOB)) == (1, None, None)
    assert here.resource("sft", "threads")(JOB) == 3
    assert [here.minutes("sft")(JOB, attempt=attempt) for attempt in (1, 2, 3)] == [10, 20, 25]
    assert planned(**tiny(resources={"sft": nodes}))[0].gpus("sft")(JOB) == 4  # elsewhere


def test_an_import_takes_the_place_of_the_source_and_gives_no_pairs_but_for_a_bank(planned, tmp_path, refused):
    raw = [str(tmp_path / name) for name in ("a.jsonl", "b.json")]
    for file in raw:
        Path(file).touch()
    plan, settings = planned(results="out", **{"import": {"format": "sharegpt", "files": raw}})
    made = ["out/data/imported/bio-dataset-1.json", "out/data/imported/bio-dataset-2.json"]
    assert plan.conversation_files() == plan.imported_files() == made and plan.raw_files() == raw
    assert (plan.bank_files(), plan.import_report(of_bank=True)) == ([], []) and not plan.perplexities()
    shown = json.loads(settings.report())
    assert shown["import"] == {"format": "sharegpt", "files": raw} and "source" not in shown
    turned = planned(**{"import": {"format": "sharegpt", "files": raw[::-1]}})[0]
    assert turned.raw_state() != plan.raw_state()
    before = plan.raw_state()
    Path(raw[0]).write_text("[]")
    os.utime(raw[0], (0, 0))  # an older file in its place
    assert plan.raw_state() != before
    (tmp_path / "BANK.CSV").touch()  # as a problem bank is called on other systems
    bank = planned(**{"import": {"format": "class", "files": str(tmp_path / "BANK.CSV")}})[0]
    assert bank.import_report(of_bank=True) and not bank.import_report(of_bank=False)
    with refused("import.files", "name each file once"):
        planned(**{"import": {"format": "sharegpt", "files": [raw[0], f"{tmp_path}/./a.jsonl"]}})
    assert plan.source_in_words() == "imported (sharegpt)" and plan.split_flags() == "--imported=out/data/imported.json"
    with refused("import: imports no pairs of replies"):
        plan.perplexity_pairs()

    bank = {"format": "class", "files": "datasets/bio-problems.yaml"}
    plan, _ = planned(results="out", simulation={"files": 1}, **{"import": bank})
    assert (
        plan.bank_files() == [made[0], plan.perplexity_pairs()] == [made[0], "out/data/imported/bio-dataset-ppl.json"]
    )
    assert plan.conversation_files() == made[:1] and plan.imported_files() == [] and plan.perplexities()
    plan, settings = planned()
    assert (plan.imported_files(), plan.bank_files(), plan.import_report(), plan.split_flags()) == ([], [], [], "")
    assert "import" not in json.loads(settings.report())


def test_a_config_that_does_not_fit_the_rubric_or_the_disk_is_refused(planned, refused, tmp_path):
    with refused("pair.balance.field", "no label field 'acton'", "did you mean 'action'"):
        planned(pair={"balance": {"field": "acton", "most": 2}})
    (tmp_path / "file").write_text("")
    with refused("results: ", "is a file", "name a folder"):
        planned(results=str(tmp_path / "file"))


def test_whole_numbers_are_written_without_a_warning(planned, recwarn):
    settings = planned(runs=[{"model": "tiny", "algorithm": "dpo", "beta": [1, 2]}])[1]
    assert json.loads(settings.report())["runs"][0]["beta"] == [1, 2] and not recwarn.list


def test_a_model_outside_the_catalogue_and_a_strange_policy_are_refused(planned, refused):
    plan, settings = planned()
    with refused("target: model 'tinny' is not in the catalogue", "did you mean 'tiny'"):
        plan.entry("tinny")
    with refused("policy 'dpo' is not known", "dpo-b0.1"):
        settings.align(SimpleNamespace(model="tiny", policy="dpo"))


def test_a_mistake_ends_a_call_with_two_lines_also_in_a_function_that_is_called_later(planned):
    told = Told(planned()[0])
    assert told.tutors == ["tiny/sft", "tiny/dpo-b0.1"]
    wrong = SimpleNamespace(model="tinny")
    for ask in (lambda: told.entry("tinny"), lambda: told.gpus("sft")(wrong)):
        with pytest.raises(SystemExit) as ended:
            ask()
        assert len(str(ended.value).splitlines()) == 2 and "tinny" in str(ended.value)
