"""The benchmark measures what it says, and its baselines do the same work as we do."""

import math
from functools import partial

import pytest
import small
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from pedalign.benchmarks import commands, workloads
from pedalign.benchmarks.commands import waits
from pedalign.benchmarks.comparison import OURS, Comparison, Way, benchmark_report, machine, measure
from pedalign.benchmarks.workloads import Data, Size, WorkloadSettings, alignment, generation, sft
from pedalign.data.conversations import formatted_rows
from pedalign.models.checkpoints import load_model, save_checkpoint
from pedalign.workflow.calls import read_config
from pedalign.workflow.policies import runs

TRAINING = {**vars(small.settings(global_batch_size=4, device_batch_size=2)), "scheduler": "constant"}
GENERATION = {"max_new_tokens": 12, "min_new_tokens": 0, "temperature": 0.0, "repetition_penalty": 1.0}
SETTINGS = WorkloadSettings(
    size="quick",
    model="small",
    template="tutor",
    instruction="compact",
    dtype="float32",
    sft=TRAINING,
    alignment=TRAINING,
    generation={**GENERATION, "max_batch_tokens": 2000, "seed": 1},
)


def test_the_ways_take_turns_and_ratios_are_those_of_a_round(monkeypatch):
    times, calls = iter([0, 8, 10, 12, 20, 24, 30, 31]), []
    monkeypatch.setattr("pedalign.benchmarks.comparison.time.perf_counter", lambda: next(times))

    def way(name: str) -> Way:
        return Way(name, lambda: partial(calls.append, name))

    found = measure(Comparison("rows", 16, {"theirs": way("theirs"), OURS: way(OURS)}), 2, say=lambda line: None)
    assert calls == ["theirs", OURS] * 2
    assert found["ways"]["theirs"]["seconds"] == {"median": 6, "least": 4, "most": 8}
    assert found["ways"][OURS]["rate"] == {"median": 12, "least": 8, "most": 16}
    assert found["ours_is_faster"] == {"theirs": {"median": 4, "least": 4, "most": 4}}


def test_the_operations_of_a_training_are_those_of_its_matrix_products():
    """Forward, of one row: each weight of a matrix once per token; scores and values of half of all pairs of tokens."""
    config = LlamaConfig(**{**small.ARCHITECTURE, "vocab_size": 50})
    model = LlamaForCausalLM(config)
    matrices = sum(weight.numel() for weight in model.parameters() if weight.dim() == 2)
    norms = model.num_parameters() - matrices
    tokens, heads, layers = 10, 2 * 16, 2
    forward = 2 * matrices * tokens + layers * 2 * (2 * heads * tokens**2 / 2)
    assert workloads.training_operations(model, [tokens]) == 3 * forward + 6 * norms * tokens


def test_whole_runs_are_of_a_config_of_today(root):
    assert read_config(dict(workloads.WHOLE), root / "config.yaml").split.sft == workloads.WHOLE["split"]["sft"]


@pytest.fixture
def data(mathdial):
    rows = list(formatted_rows(small.TALKS))
    replies = [[{"role": "assistant", "content": '{"Move": "generic", "Tutorbot": "Well."}'}] for _ in rows]
    columns = {
        "prompt": [row["prompt"] for row in rows],
        "chosen": [row["chosen"] for row in rows],
        "rejected": replies,
    }
    return Data(small.TALKS, rows, columns, mathdial)


@pytest.fixture
def subject(tmp_path, monkeypatch):
    monkeypatch.setattr(workloads, "SIZES", {"quick": Size(answered=4, dialogues=8, pairs=8, rounds=1)})
    monkeypatch.setattr(workloads, "BATCHES", {"cpu": (2, 4), "cuda": (2, 4)})
    model, tokenizer, rendering = small.small_model()
    save_checkpoint(model, rendering, tokenizer, tmp_path / "model")
    return workloads.subjects(str(tmp_path / "model"), str(tmp_path / "model"), SETTINGS)[0]


def silently(line: str) -> None:
    pass


@pytest.mark.slow
def test_the_ways_of_generating_give_the_same_replies_and_another_one_is_counted(subject, data):
    comparison = generation(subject, data, SETTINGS, "compact", silently)
    made = {name: way.prepare()() for name, way in comparison.ways.items()}
    assert made["one at a time"] == made["padded batches"] == made[OURS]
    assert len(made[OURS]) == comparison.amount == 8
    made[OURS] = [[token + 1 for token in made[OURS][0]], *made[OURS][1:]]
    differences = comparison.check(made)["differences"]
    assert differences["padded batches"] == {"other_replies": 0, "largest_gap": 0.0}
    assert differences[OURS]["other_replies"] == 1 and differences[OURS]["largest_gap"] > 0


@pytest.mark.slow
@pytest.mark.parametrize(("prepare", "amount"), [(sft, "tokens"), (alignment, "pairs")])
def test_every_way_of_training_trains_and_begins_anew_each_time(subject, data, prepare, amount, monkeypatch):
    given = []

    def load(source: str, dtype: str):
        given.append(load_model(source, dtype))
        return given[-1]

    monkeypatch.setattr(workloads, "load_model", load)
    fresh = workloads.subjects(*[subject.base.args[0]] * 2, SETTINGS)[0]
    comparison = prepare(fresh, data, SETTINGS, silently)
    found = measure(comparison, 1, silently)
    assert found["unit"] == amount and len(found["ways"]) == 3
    before = subject.base("float32").state_dict()
    for model in given[:3]:
        after = model.state_dict()
        assert any(not torch.equal(after[name], before[name].to(after[name].device)) for name in before)
    report = "\n".join(
        benchmark_report(
            {
                "size": "quick",
                "machine": machine(),
                "comparisons": [{"name": "x", "model": "small", **found}],
            }
        )
    )
    assert report.count(" times |") == 2
    if prepare is sft:
        assert math.isfinite(found["operations"]) and "of what a matrix product does here" in report.replace("\n", " ")


@pytest.mark.slow
@pytest.mark.parametrize("prepare", [generation, sft, alignment])
def test_a_random_model_of_no_file_goes_every_way_as_well(subject, data, prepare, monkeypatch):
    shape = {**small.ARCHITECTURE, "vocab_size": len(subject.tokenizer)}
    monkeypatch.setattr(workloads, "RANDOM", {"small": shape})
    random = workloads.random_subjects(subject.tokenizer, torch.device("cpu"), 10**9)[0]
    kinds = {generation: {"instruction": "compact"}}
    comparison = prepare(random, data, SETTINGS, **kinds.get(prepare, {}), say=silently)
    assert len(measure(comparison, 1, silently)["ways"]) == 3


def test_a_random_model_is_trained_where_memory_allows_and_aligned_where_the_reference_fits_as_well(subject):
    h100, h200 = 80 * 10**9, 150 * 10**9
    found = {}
    for memory in (h100, h200):
        for random in workloads.random_subjects(subject.tokenizer, torch.device("meta"), memory):
            assert random.training == {"gradient_checkpointing": True}
            fitting = filter(random.fits, ("generation, full instruction", "fine-tuning", "alignment"))
            found[memory, random.name] = [name.split(",")[0] for name in fitting]
    every = ["generation", "fine-tuning", "alignment"]
    assert found == {(h100, "1B"): every, (h100, "7B"): every[:1], (h200, "1B"): every, (h200, "7B"): every[:2]}


def test_random_models_have_the_sizes_that_they_are_named_for():
    for name, architecture in workloads.RANDOM.items():
        model = workloads.random_model(architecture, torch.device("meta"), "bfloat16")
        assert model.num_parameters() == pytest.approx(float(name.replace("B", "e9")), rel=0.15)
        assert model.dtype == torch.bfloat16


@pytest.mark.slow
def test_waits_are_told_of_plans_and_of_every_stage(monkeypatch, root):
    assert len(set(runs(read_config({"runs": [commands.SWEEP]}, root / "config.yaml")))) == 500
    rules = "".join(path.read_text() for path in (root / "rules").glob("*.smk"))
    assert all(f"rule {name}:" in rules and (root / f"scripts/{name}.py").is_file() for name in commands.STAGES)
    monkeypatch.setattr(commands, "STAGES", ("split",))
    found = {"size": "quick", "machine": machine(), "comparisons": [], "waits": waits(1, silently)}
    assert found["waits"]["snakemake -n, 500 runs"]["median"] > found["waits"]["snakemake -n"]["median"] > 0
    for name in ("snakemake -n", "snakemake -n, 500 runs", "scripts/split.py"):
        assert any(line.startswith(f"| `{name}` | ") for line in benchmark_report(found))
