"""A policy's name says what its run says, and no more than what differs from the model's entry."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pedalign.training.algorithms import ALGORITHMS
from pedalign.workflow.calls import read_config
from pedalign.workflow.plan import Plan
from pedalign.workflow.policies import Policy, parse_policy, runs

ROOT = Path(__file__).parents[2]
ADAPTER = {"rank": 16, "alpha": 32, "dropout": 0, "targets": "all-linear", "four_bit": False}
WITH_ADAPTER = {"models": {"tiny": {"adapter": ADAPTER}}}


def named(*given: dict[str, Any], **more: Any) -> list[str]:
    """The policies of runs of the shipped model."""
    usual = {"model": "tiny", "algorithm": "dpo", "beta": 0.1}
    return [
        name for _, name in runs(read_config({"runs": [usual | one for one in given], **more}, ROOT / "config.yaml"))
    ]


SETTINGS = st.fixed_dictionaries(
    {},
    optional={
        "epochs": st.floats(0.01, 1e9) | st.integers(1, 10**9),
        "learning_rate": st.floats(1e-300, 10),
        "scheduler": st.sampled_from(["linear", "cosine_with_min_lr"]),
        "warmup": st.floats(0, 0.99),
        "weight_decay": st.floats(0, 1e18),
        "global_batch_size": st.integers(1, 10**9),
        "device_batch_size": st.integers(1, 10**9),
        "gradient_checkpointing": st.booleans(),
        "adapter.rank": st.integers(1, 10**9),
        "adapter.alpha": st.integers(1, 10**9),
        "adapter.dropout": st.floats(0, 0.99),
        "adapter.four_bit": st.booleans(),
    },
)


@settings(deadline=None)
@given(
    algorithm=st.sampled_from(sorted(ALGORITHMS)),
    beta=st.floats(1e-7, 1e7),
    seed=st.integers(0, 2**32 - 1),
    differing=SETTINGS,
)
def test_a_policys_name_says_its_settings_and_is_a_files_name(algorithm, beta, seed, differing) -> None:
    policy = Policy(algorithm, beta, seed, tuple(differing.items()))
    name = policy.name(42)
    said = parse_policy(name, 42)
    assert (said.algorithm, said.beta, said.seed, dict(said.settings)) == (algorithm, beta, seed, differing)
    assert len(name) < 255 and not set(name) - set("abcdefghijklmnopqrstuvwxyz0123456789-._")


def test_only_what_differs_from_the_entry_is_in_the_name_in_a_fixed_order() -> None:
    swept = {"adapter": {"rank": [8, 16]}, "learning_rate": [1e-6, 2e-5], "seed": 3, "epochs": 1.0}
    wanted = {"dpo-b0.1-lr1e-06-ar8-s3", "dpo-b0.1-ar8-s3", "dpo-b0.1-lr1e-06-s3", "dpo-b0.1-s3"}
    assert set(named(swept, **WITH_ADAPTER)) == wanted
    assert named({"warmup": 0.2, "epochs": 3}) == named({"epochs": 3, "warmup": 0.2}) == ["dpo-b0.1-e3-w0.2"]


def test_a_tutor_that_two_runs_ask_for_has_one_name() -> None:
    assert named({}, {"learning_rate": 2e-5, "scheduler": "cosine"}, {"global_batch_size": 32}) == ["dpo-b0.1"]
    (one,) = named({"trainer": {"max_grad_norm": 1}}, {"trainer": {"max_grad_norm": 1.0}})
    entry = {"models": {"tiny": {"align": {"trainer": {"max_grad_norm": 1.0, "adam_beta1": 0.8}}}}}
    assert named({"trainer": {"max_grad_norm": 1}}, **entry) == ["dpo-b0.1"] != [one]
    assert named({"algorithm": "dpo_sft"}, {"algorithm": "dpo_sft", "sft_weight": 1}) == ["dpo_sft-b0.1"]


def test_lists_of_a_trainers_arguments_are_swept_and_values_that_are_lists_are_not() -> None:
    assert len(set(named({"trainer": {"optim": ["sgd", "adafactor"], "adam_beta1": [0.8, 0.9]}}))) == 4
    assert len(named({"trainer": {"optim_target_modules": [["q_proj", "v_proj"]]}})) == 1
    targets = {"adapter": {"targets": ["q_proj", "v_proj"]}}
    assert len(named(targets, **WITH_ADAPTER)) == 1
    assert len(named({"adapter": {"targets": [["q_proj"], "all-linear"]}}, **WITH_ADAPTER)) == 2


def test_an_alignment_of_a_run_has_the_runs_settings_and_the_others_of_the_entry() -> None:
    run = {"model": "tiny", "algorithm": "dpo", "beta": 0.1, "adapter": {"rank": 8}, "trainer": {"optim": "sgd"}}
    entry = {"adapter": ADAPTER, "align": {"trainer": {"adam_beta1": 0.8}}}
    plan = Plan(read_config({"runs": [run], "models": {"tiny": entry}}, ROOT / "config.yaml"), ROOT, True, lambda: None)
    ((model, policy),) = plan.runs
    aligned = plan.aligned_entry(model, policy)
    assert aligned.adapter.values() == {**ADAPTER, "rank": 8} and plan.entry(model).adapter.rank == 16
    assert aligned.align.trainer == {"adam_beta1": 0.8, "optim": "sgd"}
    assert plan.settings_in_words() == '{"tiny/' + policy + '": "adapter.rank 8; trainer.optim sgd"}'


@pytest.mark.parametrize(
    ("run", "words"),
    [
        ({"learnin_rate": 1}, ["runs[0]: unknown key 'learnin_rate'", "did you mean 'learning_rate'?"]),
        ({"learning_rate": [1e-6, "x"]}, ["runs[0].learning_rate[1]: is 'x'", "a number"]),
        ({"learning_rate": None}, ["runs[0].learning_rate: is null", "peak learning rate"]),
        ({"adapter": {"rnk": 8}}, ["runs[0].adapter: unknown key 'rnk'", "did you mean 'rank'?"]),
        ({"adapter": {"rank": 8}}, ["tiny dpo-b0.1-ar8: adapter: key 'alpha' is missing"]),
        ({"trainer": {"optm": "sgd"}}, ["runs[0].trainer.optm: DPOConfig of TRL has no", "did you mean 'optim'?"]),
        ({"trainer": {"optim": "sdg"}}, ["runs[0].trainer.optim: is 'sdg'", "did you mean 'sgd'?"]),
        ({"trainer": {"optim": []}}, ["runs[0].trainer.optim: is []", "at least 1"]),
        ({"trainer": {"bf16": True}}, ["runs[0].trainer.bf16: the workflow sets this", "set 'dtype'"]),
        ({"trainer": {"label_smoothing": 0.1}}, ["the loss of dpo does not read it", "exo, aot"]),
        ({"sft_weight": 2}, ["runs[0]: sft_weight: the loss of dpo has no", "dpo_sft, cpo"]),
        ({"scheduler": "cosine_with_min_lr"}, ["cosine_with_min_lr needs min_lr or min_lr_rate", "min_lr_rate: 0.1"]),
    ],
)
def test_a_mistake_in_a_run_is_named(refused, run: dict[str, Any], words: list[str]) -> None:
    with refused("config: ", *words):
        plan = {"runs": [{"model": "tiny", "algorithm": "dpo", "beta": 0.1, **run}]}
        Plan(read_config(plan, ROOT / "config.yaml"), ROOT, True, lambda: None)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("dpo-b0.1-lr2e-05", "write dpo-b0.1"),  # the entry's
        ("dpo-b0.1-lr0.000001", "write dpo-b0.1-lr1e-06"),
        ("dpo-b0.1-lr1e-06-e2", "is not known"),  # another order
        ("dpo-b0.1-w1", "less than 1"),
        ("dpo-b0.1-sch_linaer", "did you mean 'linear'?"),
        ("dpo-b0.1-sft2", "has no fine-tuning term"),
        ("dpo-b0.1-xabc123", "no run gives them"),
    ],
)
def test_a_target_with_settings_that_no_run_has_is_refused(refused, name: str, words: str) -> None:
    entry = read_config({}, ROOT / "config.yaml").models["tiny"]
    with refused(f"'{name}'", words):
        parse_policy(name, 42, entry=entry)
