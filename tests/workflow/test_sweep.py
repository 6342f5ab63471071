"""Beyond the paper's single run: leak-safe splits, several answers per prompt, and sweeps that share what they can."""

import csv
import json

import pytest
import yaml

pytestmark = pytest.mark.slow


@pytest.fixture
def changed(finished, tmp_path):
    """A copy of the finished quick run with other settings on top."""

    def change(**settings):
        checkout = finished.copy(tmp_path / "checkout")
        file = checkout.path / "tests/config/quick.yaml"
        file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | settings))
        return checkout

    return change


def leaking(checkout) -> int:
    report = json.loads((checkout.path / "results/data/splits.json").read_text())
    return sum(one["conversations"] for one in report["leaks"].values())


def test_leak_free_splits_share_no_problem(finished, changed):
    checkout = changed(split={"sft": 30, "dpo": 15, "test": 15, "method": "leak_free"})
    answer = checkout.forked("--cores", "2", "split")
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert leaking(checkout) == 0 < leaking(finished)


def test_several_answers_to_a_prompt_become_several_pairs(changed):
    checkout = changed(pair={"samples": 3, "temperature": 1.0, "per_prompt": 2})
    answer = checkout.forked("--cores", "2", "--until", "pair")
    assert answer.returncode == 0, answer.stdout + answer.stderr
    model = checkout.path / "results/tiny"
    rows = json.loads((checkout.path / "results/data/bio-dpo_formatted.json").read_text())
    with (model / "sft/dpo/responses.csv").open(newline="") as file:
        responses = list(csv.DictReader(file))
    wanted = [(row["conversation_id"], str(row["turn"]), sample) for row in rows for sample in "012"]
    assert [(one["conversation_id"], one["turn"], one["sample"]) for one in responses] == wanted
    texts = [one["response"] for one in responses]
    assert sum(len({*texts[at : at + 3]}) == 3 for at in range(0, len(texts), 3)) > len(rows) / 2
    counts = json.loads((model / "preferences_counts.json").read_text())
    pairs = json.loads((model / "preferences.json").read_text())
    assert counts["responses"] == 3 * len(rows)
    assert counts["pairs"][-1] == {"choice": "per_prompt: 2", "pairs": len(pairs["prompt"])}
    assert len(rows) < len(pairs["prompt"]) <= 2 * len(rows)


def test_a_sweep_trains_the_tutor_once_and_asks_the_reference_once(checkout):
    file = checkout.path / "tests/config/quick.yaml"
    runs = [{"model": "tiny", "algorithm": ["dpo", "ipo", "kto", "rso", "cdpo"], "beta": [0.1, 0.5]}]
    file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | {"runs": runs}))
    jobs = checkout.planned("--cores", "2")
    assert {rule: jobs[rule] for rule in ("sft", "pair", "reference")} == {
        "sft": 1,
        "pair": 1,
        "reference": 1,
    }
    assert jobs["align"] == jobs["compare"] == 10
    assert jobs["generate"] == 12 and jobs["score"] == jobs["perplexity"] == 11


ADAPTER = {"rank": 4, "alpha": 8, "dropout": 0, "targets": "all-linear", "four_bit": False}


def test_a_sweep_of_rates_and_ranks_fine_tunes_once(checkout):
    file = checkout.path / "tests/config/quick.yaml"
    config = yaml.safe_load(file.read_text())
    run = {"model": "tiny", "algorithm": "dpo", "beta": 0.1, "learning_rate": [1e-5, 1e-4], "adapter": {"rank": [4, 8]}}
    config["models"]["tiny"]["adapter"] = ADAPTER
    file.write_text(yaml.safe_dump(config | {"runs": [run]}))
    jobs = checkout.planned("--cores", "2")
    assert {rule: jobs[rule] for rule in ("sft", "pair", "reference", "align")} == {
        **dict.fromkeys(("sft", "pair", "reference"), 1),
        "align": 4,
    }


def test_a_sweep_trains_at_each_rate_and_rank_and_leaves_the_fine_tuned_tutor_as_it_is(changed):
    """The finished run's tutor, one at another rate, four with adapters, one without a reference model."""
    run = {"model": "tiny", "algorithm": "dpo", "beta": 0.1}
    ranks = {"learning_rate": [1.0e-4, 1.0e-3], "adapter": {**ADAPTER, "rank": [4, 8]}}
    checkout = changed(runs=[{**run, "learning_rate": [2.0e-5, 1.0e-3]}, {**run, **ranks}])
    wanted = ("--cores", "2", "results/summary.csv", "results/tiny/simpo-b2/checkpoint.json")
    jobs = checkout.planned(*wanted)
    assert jobs["align"] == 6 and not {"sft", "reference", "pair"} & jobs.keys()
    answer = checkout.forked(*wanted)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    results = checkout.path / "results"
    with (results / "summary.csv").open(newline="") as file:
        rows = {row["policy"]: row["settings"] for row in csv.DictReader(file)}
    with_adapters = {name: rows.pop(name) for name in [*rows] if "-ar" in name}
    assert rows == {"sft": "", "dpo-b0.1": "", "dpo-b0.1-lr0.001": "learning_rate 0.001"}
    assert sorted(settings.partition("; adapter.alpha")[0] for settings in with_adapters.values()) == [
        f"learning_rate {rate}; adapter.rank {rank}" for rate in ("0.0001", "0.001") for rank in (4, 8)
    ]
    trained = [json.loads((results / "tiny" / name / "checkpoint.json").read_text()) for name in with_adapters]
    assert len({one["history"][-1]["loss"] for one in trained}) == 4
    told = [checkout.provenance(f"results/tiny/{name}/checkpoint.json") for name in ("dpo-b0.1-lr0.001", "simpo-b2")]
    assert ["results/tiny/sft/reference.json" in one for one in told] == [True, False]
    target = "results/tiny/dpo-b0.1-e2/checkpoint.json"  # the name alone says the settings
    assert checkout.planned("--cores", "2", target) == {"align": 1}
