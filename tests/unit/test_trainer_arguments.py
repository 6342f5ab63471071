"""Every argument of TRL's trainers reaches them, except for those that the workflow owns or TRL would ignore."""

import dataclasses
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from small import TALKS, pairs_of, settings, small_model
from transformers.trainer_utils import SchedulerType
from trl import SFTConfig

from pedalign.training.algorithms import ALGORITHMS, AlignmentSettings
from pedalign.training.alignment import align
from pedalign.training.preference_trainers import TRAINERS
from pedalign.training.sft import train_sft
from pedalign.training.trainer_arguments import check_schedule, check_trainer, config_fields, owned
from pedalign.workflow.calls import read_config
from pedalign.workflow.setting_types import Scheduler

ROOT = Path(__file__).parents[2]
CONFIGS = {"SFT": SFTConfig} | {name: config for name, (_, config) in TRAINERS.items()}


@pytest.mark.parametrize("trainer", CONFIGS)
def test_the_fields_that_are_read_from_trls_source_are_those_of_its_class(trainer):
    own = {field.name: field for field in dataclasses.fields(CONFIGS[trainer]) if not field.name.startswith("_")}
    fields = config_fields(trainer)
    assert fields.keys() == own.keys()
    passed = {name: one.default for name, one in own.items() if owned(name, trainer) is None}
    given = {name: value for name, value in passed.items() if value is not dataclasses.MISSING and name in fields}
    given = {name: getattr(value, "value", value) for name, value in given.items()}
    reads = {name for one in ALGORITHMS.values() for name in one.reads}
    check_trainer(trainer, {name: value for name, value in given.items() if name not in reads}, "trainer")


def test_what_a_training_sets_is_not_passed_through():
    for name in settings().trainer_arguments():
        assert owned(name, "SFT") and owned(name, "DPO"), name
    for name, algorithm in ALGORITHMS.items():
        loss = algorithm.loss(AlignmentSettings(name, 0.1, 0.1)).keys()
        assert not [one for one in loss - {*algorithm.reads} if owned(one, "DPO") is None and one != "label_smoothing"]
    assert not [name for name, one in ALGORITHMS.items() if one.uses_label_noise and "label_smoothing" in one.reads]


def test_the_schedules_are_those_of_transformers_that_need_no_evaluation():
    assert {*get_args(Scheduler)} == {one.value for one in SchedulerType} - {"reduce_lr_on_plateau", "greedy"}


@pytest.mark.slow
@pytest.mark.parametrize("scheduler", get_args(Scheduler))
def test_each_schedule_trains_or_says_what_it_needs(scheduler, refused):
    needed = {"cosine_with_min_lr": {"min_lr": 0.0}, "cosine_warmup_with_min_lr": {"min_lr_rate": 0.1}}
    needed["warmup_stable_decay"] = {"num_decay_steps": 2}
    trainer = {"lr_scheduler_kwargs": needed[scheduler]} if scheduler in needed else {}
    if trainer:
        with refused(f"{scheduler} needs"):
            check_schedule(scheduler, {}, "align")
    check_schedule(scheduler, trainer, "align")
    one = settings(scheduler=scheduler, trainer=trainer)
    fake = type("Trainer", (), {"args": one.config(SFTConfig), "model": None})()
    fake.get_optimizer_cls_and_kwargs = lambda args, model: None
    one.expect_optimizer(fake)


@pytest.mark.parametrize(
    ("stage", "trainer", "words"),
    [
        ("sft", {"optm": "sgd"}, ["sft.trainer.optm: SFTConfig of TRL has no such argument", "did you mean 'optim'?"]),
        ("sft", {"optim": "adamw"}, ["sft.trainer.optim: is 'adamw'", "adamw_torch"]),
        ("sft", {"adam_beta1": "high"}, ["sft.trainer.adam_beta1: is 'high'", "a number"]),
        ("sft", {"per_device_train_batch_size": 2}, ["the workflow sets this itself", "set 'device_batch_size'"]),
        ("sft", {"output_dir": "x"}, ["the workflow sets this itself", "'training_state'"]),
        ("sft", {"packing": True}, ["the workflow sets this itself", "the order of the rows is fixed"]),
        ("align", {"beta": 0.1}, ["align.trainer.beta: the workflow sets this itself", "set 'beta' in a run"]),
        ("align", {"rpo_alpha": 1}, ["align.trainer.rpo_alpha", "dpo_sft"]),
        ("align", {"ld_alpha": 0.5}, ["align.trainer.ld_alpha", "reference.json"]),
        ("align", {"simpo_gama": 0.5}, ["align.trainer.simpo_gama: DPOConfig of TRL has no such argument"]),
        ("align", {"f_divergence_type": "kl"}, ["align.trainer.f_divergence_type: is 'kl'", "reverse_kl"]),
        ("align", {"label_smoothing_factor": 0.1}, ["label_smoothing_factor", "ignore it"]),
        ("sft", {"use_liger_kernel": True}, ["the package liger-kernel is not installed", "pip install liger-kernel"]),
        ("align", {"use_liger_kernel": True}, ["the package liger-kernel is not installed", "pip install"]),
    ],
)
def test_an_argument_that_is_not_passed_through_is_named_in_two_lines(refused, stage, trainer: dict[str, Any], words):
    with refused("config: models.tiny.", *words):
        read_config({"models": {"tiny": {stage: {"trainer": trainer}}}}, ROOT / "config.yaml")


def test_an_argument_that_trl_reads_only_beside_another_is_refused_without_it(refused):
    given = {"f_alpha_divergence_coef": 0.5}
    with refused("runs[0].trainer.f_alpha_divergence_coef", "alpha_divergence, or leave it out"):
        check_trainer("DPO", given, "runs[0].trainer", "dpo")
    check_trainer("DPO", {**given, "f_divergence_type": "alpha_divergence"}, "runs[0].trainer", "dpo")


def test_flash_attention_needs_16_bits(refused):
    with refused("models.tiny.attn_implementation", "dtype is float32", "set dtype to bfloat16"):
        read_config({"models": {"tiny": {"attn_implementation": "flash_attention_2"}}}, ROOT / "config.yaml")


def test_a_config_is_checked_without_importing_trl_or_transformers():
    """They take seconds."""
    code = (
        "import sys; from pedalign.training.trainer_arguments import check_trainer\n"
        "check_trainer('SFT', {'optim': 'sgd'}, '')\n"
        "print(sorted({'trl', 'transformers', 'torch'} & {*sys.modules}))"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert told.stdout.strip() == "[]", told.stdout + told.stderr


@pytest.mark.slow
def test_a_value_that_trl_or_torch_refuses_ends_a_training_before_its_first_step(refused):
    model, tokenizer, renderer = small_model()
    for trainer, words in (
        ({"optim": "adamw_torch_8bit"}, "torchao"),
        ({"lr_scheduler_kwargs": {"cycles": 2}}, "cycles"),
        ({"router_aux_loss_coef": 0.1}, "router_aux_loss_coef"),
    ):
        with refused("TRL refuses the settings", words):
            given = pairs_of(model, renderer, "hm")
            align(model, tokenizer, renderer, given, AlignmentSettings("dpo", 0.1, 0), settings(trainer=trainer))
    with refused("bitsandbytes"):
        train_sft(model, tokenizer, renderer, TALKS, settings(trainer={"optim": "adamw_bnb_8bit"}))


@pytest.mark.slow
def test_noise_in_the_embeddings_is_drawn_for_each_reply_of_a_pair():
    """Its scale depends on the length of a row."""
    model, tokenizer, renderer = small_model()
    given = pairs_of(model, renderer, "hm")
    once = settings(epochs=0.25)
    facts = align(model, tokenizer, renderer, given, AlignmentSettings("dpo", 0.1, 0), once)
    assert facts["prompt_computed_once"]
    noisy = dataclasses.replace(once, trainer={"neftune_noise_alpha": 5.0})
    torch.manual_seed(1)
    facts = align(small_model()[0], tokenizer, renderer, given, AlignmentSettings("dpo", 0.1, 0), noisy)
    assert not facts["prompt_computed_once"]


def test_the_table_of_algorithms_has_each_with_its_source():
    page = (ROOT / "docs/explanation/algorithms.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \| \[(.+?)\]\(https://.+?\).*? \| (.*?) \| (.*?) \| (.*?) \|$", page, re.M)
    assert sorted(name for name, *_ in rows) == sorted(ALGORITHMS)
    for name, *_, told, _, _ in rows:
        for key, value in ALGORITHMS[name].loss(AlignmentSettings(name, 0.1, 0.25)).items():
            assert key in told, (name, key)
            if key == "loss_type":
                assert str(value).replace("'", '"') in told.replace("`", ""), name
