"""What is checked before anything starts: GPUs, checkpoints, templates, batches, disk."""

import dataclasses
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from local_server import Hub, serving
from safetensors.torch import load_file, save_file
from small import small_model
from transformers import AutoTokenizer, MistralConfig

from pedalign.cluster.estimates import Memory, model_size, stage_memory
from pedalign.cluster.findings import Finding, report
from pedalign.cluster.gpu_locks import Card, read_cards
from pedalign.cluster.preflight import Machine, PreflightSettings, gpu_findings, memory_findings, preflight
from pedalign.cluster.preset_choice import preset_finding
from pedalign.models.checkpoints import save_checkpoint
from pedalign.models.locations import find
from pedalign.workflow.catalogue import filled_in

ROOT = Path(__file__).parents[2]
CONFIG = yaml.safe_load((ROOT / "config.yaml").read_text())
MODELS = filled_in(CONFIG)["models"]
PRESETS = [(name, {"path": "some/model", **preset}) for name, preset in CONFIG["presets"].items()]
MISTRAL = MistralConfig(num_key_value_heads=8)  # of 7B, as its defaults are

# GPUs.

SMI = """0, GPU-aa, NVIDIA A100-SXM4-80GB, 81920
1, GPU-bb, NVIDIA A100-SXM4-40GB, 40960
2, GPU-cc, NVIDIA A100-SXM4-80GB, 81920
"""


def test_the_cards_and_their_memory_are_read_from_nvidia_smis_lines():
    assert [card.memory / 2**30 for card in read_cards(SMI)] == [80, 40, 80]
    assert [card.index for card in read_cards(SMI)] == ["0", "1", "2"]
    assert read_cards("") == read_cards("No devices were found\n") == []
    assert read_cards("0, MIG-a, H100 MIG, [N/A]") == [Card("0", "MIG-a", "H100 MIG", None)]


def test_a_job_that_asks_for_more_gpus_than_are_visible_is_a_problem():
    jobs = [("one", {"gpu": 1, "nodes": 1}), ("four", {"gpu": 4, "nodes": 1}), ("two nodes", {"gpu": 2, "nodes": 2})]
    found = list(gpu_findings(jobs, ["0", "2"], read_cards(SMI)[::2]))
    assert [(finding.status, finding.about) for finding in found] == [
        ("ok", "GPUs"),
        ("problem", "four"),
        ("problem", "two nodes"),
    ]
    assert found[0].words == "2 visible: 2 x NVIDIA A100-SXM4-80GB (85.9 GB)"
    assert "4 GPUs, this machine has 2" in found[1].words


def test_what_does_not_fit_is_a_problem_and_what_may_not_fit_a_warning():
    entry, size = MODELS["mistral-7b"], model_size(MODELS["mistral-7b"], MISTRAL)
    memory = stage_memory(size, entry, "align", 4)  # 33.1 GB are held, with the longest batch 41.8
    job = {"gpu": 4, "mem_mb": 256000}
    for gpu, status in ((24e9, "problem"), (40e9, "warning"), (80e9, "ok"), (None, "ok")):
        per_gpu, per_node = memory_findings("x", memory, job, Machine(gpu=gpu, memory=None))
        assert (per_gpu.status, per_node.status) == (status, "ok"), gpu
        assert "4 x 48 GB will do" in per_gpu.words
    _, per_node = memory_findings("x", memory, {**job, "mem_mb": 100000}, Machine())
    assert per_node.status == "warning" and "mem_mb is 100 GB" in per_node.words and "mem_mb" in per_node.remedy


# Checkpoints.


class SomeModels(Hub):
    FILES = ("config.json", "tokenizer.json", "model.safetensors")

    def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        name = "/".join(path.replace("/api/models", "").split("/")[1:3])
        if name == "some/gated" and not path.startswith("/api"):
            return 403, {"X-Error-Code": "GatedRepo"}, b"{}"
        if name == "some/nothing":
            return 404, {"X-Error-Code": "RepoNotFound"}, b"{}"
        if path.startswith("/api"):
            files = [{"rfilename": file, "size": 7} for file in self.FILES if name == "some/model" or file[0] != "m"]
            return 200, {"ETag": '"e"'}, json.dumps({"id": name, "siblings": files}).encode()
        return 200, {"ETag": '"e"'}, b"{}"


@pytest.fixture
def hub() -> Iterator[str]:
    with serving(SomeModels) as address:
        yield address


def look(tmp_path: Path, *sources: str, **environment: str) -> dict[str, str]:
    """What `find` says of sources, in a process whose hub and cache are ours."""
    code = """
import sys
from pedalign.core.errors import UserError
from pedalign.models.locations import find
for source in sys.argv[1:]:
    try:
        found = find(source)
        print(source, found.where, found.download, found.lacks, sep="|")
    except UserError as error:
        print(source, error.problem, error.remedy, sep="|")
"""
    names = {"HF_HOME": str(tmp_path / "hf"), "HF_TOKEN": "", **environment}
    answer = subprocess.run(
        [sys.executable, "-c", code, *sources], env=os.environ | names, capture_output=True, text=True, check=True
    )
    return dict(line.split("|", 1) for line in answer.stdout.splitlines())


def test_a_model_of_the_hub_is_looked_for_and_what_is_wrong_with_it_is_told_apart(hub, tmp_path):
    said = look(tmp_path, "some/model", "some/pickles", "some/gated", "some/nothing", HF_ENDPOINT=hub)
    assert said["some/model"] == "on the hub|7|[]"
    assert said["some/pickles"] == "on the hub|0|['weights (model*.safetensors)']"
    assert "gated, and this user has no access" in said["some/gated"] and "hf auth login" in said["some/gated"]
    assert "neither a folder nor a model of the hub" in said["some/nothing"]


def test_a_model_that_is_nowhere_is_told_apart_from_a_hub_that_does_not_answer(tmp_path):
    for environment in ({"HF_ENDPOINT": "http://127.0.0.1:9"}, {"HF_HUB_OFFLINE": "1"}):
        said = look(tmp_path, "some/model", "/no/such/model", "models/of/mine", **environment)
        assert "not in this machine's cache" in said["some/model"] and "does not answer" in said["some/model"]
        assert "hf download some/model" in said["some/model"]
        assert "no such folder" in said["/no/such/model"] and "no such folder" in said["models/of/mine"]


def test_a_model_in_the_cache_needs_no_hub_unless_a_part_of_it_is_missing(tmp_path):
    snapshot = tmp_path / "hf/hub/models--some--model/snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    (tmp_path / "hf/hub/models--some--model/refs").mkdir()
    (tmp_path / "hf/hub/models--some--model/refs/main").write_text("a" * 40)
    index = {"weight_map": {"x": "model-1-of-2.safetensors", "y": "model-2-of-2.safetensors"}}
    (snapshot / "model.safetensors.index.json").write_text(json.dumps(index))
    for name in ("config.json", "tokenizer.json", "model-1-of-2.safetensors"):
        (snapshot / name).write_text("{}")
    assert "does not answer" in look(tmp_path, "some/model", HF_HUB_OFFLINE="1")["some/model"]
    (snapshot / "model-2-of-2.safetensors").write_text("")
    assert look(tmp_path, "some/model", HF_HUB_OFFLINE="1")["some/model"] == "in this machine's cache|0|[]"


def test_a_folder_that_lacks_a_part_is_a_problem_and_what_it_has_is_checked(tmp_path, rubric, checkpoint):
    given = settings(tmp_path, "zephyr-7b", path=str(checkpoint), template="tutor")
    assert find(str(checkpoint)).is_whole()
    for name, words, checked in (
        ("model.safetensors", "weights (model*.safetensors)", {"zephyr-7b template", "zephyr-7b model"}),
        ("tokenizer.json", "a tokenizer", {"zephyr-7b model"}),
        ("config.json", "a configuration (config.json)", {"zephyr-7b template"}),
    ):
        (checkpoint / name).rename(tmp_path / "away")
        found = list(preflight(given, rubric))
        problems = of(found, "problem")
        assert problems.pop("zephyr-7b base") == f"{checkpoint} a folder, without {words}"
        assert problems == {} and checked <= of(found, "ok").keys(), name
        (tmp_path / "away").rename(checkpoint / name)


# A whole preflight.


SPLITS = {"sft": 5, "dpo": 3, "test": 3, "seed": 1, "method": "random", "paper_rules": False}


@pytest.fixture(scope="module")
def conversations(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A conversation file and one of perplexity pairs: the first records of the simulated ones."""
    folder = tmp_path_factory.mktemp("conversations")
    for part in ("1", "ppl"):
        records = json.loads((ROOT / f"datasets/simulated/bio-dataset-{part}.json").read_text())[:24]
        (folder / f"bio-dataset-{part}.json").write_text(json.dumps(records))
    return sorted(folder.iterdir())


@pytest.fixture
def data(conversations: list[Path]) -> dict[str, Any]:
    return {"files": [str(conversations[0])], "perplexity": str(conversations[1]), "splits": SPLITS}


NO_DATA = {"files": ["/not/there/yet"], "perplexity": None, "splits": SPLITS}


def settings(
    tmp_path: Path, model: str = "tiny", gpu: int = 0, data: dict[str, Any] = NO_DATA, **changed: object
) -> PreflightSettings:
    entry = {**MODELS[model], **changed}
    job = {"gpu": gpu, "nodes": 1, "threads": 1, "mem_mb": 4000, "runtime": 60}
    jobs = {model: {stage: job for stage in ("generate", "sft", "align") if isinstance(entry.get(stage), dict)}}
    lengths = {
        "max_length": entry["max_length"],
        "allow_truncation": False,
        "max_new_tokens": entry["generate"]["max_new_tokens"],
        "trained_share": [0, 1],
        "fine_tuned": isinstance(entry["sft"], dict),
        "pairs": True,
    }
    results, runs = str(tmp_path / "results"), [[model, "dpo-b0.1"]]
    return PreflightSettings(results, True, None, {model: entry}, runs, jobs, job, data, {model: lengths}, 1)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    model, tokenizer, rendering = small_model()
    save_checkpoint(model, rendering, tokenizer, tmp_path / "model")
    return tmp_path / "model"


def of(findings: list[Finding], status: str) -> dict[str, str]:
    return {finding.about: finding.words for finding in findings if finding.status == status}


def test_nothing_is_wrong_with_the_default_entry_and_nothing_is_written(tmp_path, rubric, data):
    found = list(preflight(settings(tmp_path, data=data), rubric))
    assert {finding.status for finding in found} == {"ok"}
    assert "1,803,392 parameters" in of(found, "ok")["tiny model"]
    assert {"splits", "tiny lengths", "tiny perplexity", "tiny forward pass"} <= of(found, "ok").keys()
    assert of(found, "ok")["tiny engine"] == "shared_prefix"
    assert list(tmp_path.iterdir()) == []


def test_data_that_the_splits_refuse_is_a_problem(tmp_path, rubric, data):
    few = {**data, "splits": {**SPLITS, "sft": 40}}
    problems = of(list(preflight(settings(tmp_path, data=few), rubric)), "problem")
    assert problems.keys() == {"splits"} and "46 conversations wanted" in problems["splits"]
    found = list(preflight(settings(tmp_path), rubric))
    assert "/not/there/yet" in of(found, "unknown")["splits"] and of(found, "problem") == {}


LEARNED = {"model_type": "gpt2", "n_embd": 32, "n_layer": 1, "n_head": 2}


@pytest.mark.parametrize(
    "architecture",
    [
        {**LEARNED, "n_positions": 512},
        {"model_type": "opt", "hidden_size": 32, "ffn_dim": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
        | {"max_position_embeddings": 512, "word_embed_proj_dim": 32},
    ],
)
def test_a_model_with_too_few_positions_for_the_data_is_a_problem(architecture, tmp_path, rubric, data):
    found = list(preflight(settings(tmp_path, data=data, architecture=architecture), rubric))
    assert "4096 is more than the model's 512 positions" in of(found, "warning")["tiny max_length"]
    problems = [one for one in found if one.status == "problem"]
    assert [one.about for one in problems] == ["tiny lengths", "tiny perplexity"]
    assert all("more tokens than the model has positions, 512" in one.words for one in problems[:1])
    number = max(int(re.findall(r"with (\d+) positions", one.remedy)[0]) for one in problems)
    enough = {**LEARNED, "n_positions": number}
    found = list(preflight(settings(tmp_path, data=data, architecture=enough, max_length=number), rubric))
    assert of(found, "problem") == {}


def test_a_max_length_that_a_conversation_exceeds_is_a_problem(tmp_path, rubric, data):
    found = list(preflight(settings(tmp_path, data=data, max_length=300), rubric))
    assert "than max_length 300" in of(found, "problem")["tiny lengths"]


def roomy(tmp_path: Path, checkpoint: Path, data: dict[str, Any]) -> PreflightSettings:
    """Of the checkpoint, whose few tokens make long texts, with positions for all of them."""
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 20_000}))
    return settings(tmp_path, "zephyr-7b", data=data, path=str(checkpoint), template="tutor", max_length=20_000)


def test_a_padding_token_beyond_the_embeddings_is_a_problem(tmp_path, rubric, data, checkpoint):
    given = roomy(tmp_path, checkpoint, data)
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    tokenizer.add_special_tokens({"pad_token": "<pad>"})
    tokenizer.save_pretrained(checkpoint)
    problems = of(list(preflight(given, rubric)), "problem")
    assert problems.keys() == {"zephyr-7b lengths"} and "the padding token '<pad>'" in problems["zephyr-7b lengths"]


def test_a_window_is_told_and_no_problem(tmp_path, rubric, data):
    architecture = {**MODELS["tiny"]["architecture"], "model_type": "mistral", "sliding_window": 64}
    found = list(preflight(settings(tmp_path, data=data, architecture=architecture), rubric))
    assert {finding.status for finding in found} == {"ok"}
    assert "looks 64 back in layers with a window" in of(found, "ok")["tiny lengths"]


def test_gold_replies_that_would_be_cut_off_are_a_warning_with_the_number(tmp_path, rubric, data):
    decoding = {**MODELS["tiny"]["generate"], "max_new_tokens": 20}
    found = list(preflight(settings(tmp_path, data=data, generate=decoding), rubric))
    assert "max_new_tokens 20, so a tutor that says them is cut off" in of(found, "warning")["tiny lengths"]


def test_four_bits_without_what_they_need_are_a_problem(tmp_path, rubric):
    adapter = {"rank": 4, "alpha": 8, "dropout": 0.0, "targets": "all-linear", "four_bit": True}
    problems = of(list(preflight(settings(tmp_path, adapter=adapter), rubric)), "problem")
    if importlib.util.find_spec("bitsandbytes") is None or not torch.cuda.is_available():
        assert "four_bit needs" in problems["tiny adapter"]
    else:
        assert problems == {}


def test_weights_that_compute_no_numbers_or_do_not_fit_their_configuration_are_a_problem(
    tmp_path, rubric, data, checkpoint
):
    given = roomy(tmp_path, checkpoint, data)
    whole = load_file(checkpoint / "model.safetensors")
    norm = {**whole, "model.norm.weight": whole["model.norm.weight"] * float("nan")}
    save_file(norm, checkpoint / "model.safetensors", metadata={"format": "pt"})
    problems = of(list(preflight(given, rubric)), "problem")
    assert (
        problems.keys() == {"zephyr-7b forward pass"}
        and "nan or infinite numbers" in problems["zephyr-7b forward pass"]
    )
    narrow = {**whole, "model.norm.weight": whole["model.norm.weight"][:8].clone()}
    save_file(narrow, checkpoint / "model.safetensors", metadata={"format": "pt"})
    assert "has the shape [8]" in of(list(preflight(given, rubric)), "problem")["zephyr-7b base"]


def test_a_gpus_own_memory_is_counted():
    entry, size = MODELS["mistral-7b"], model_size(MODELS["mistral-7b"], MISTRAL)
    memory = stage_memory(size, entry, "generate", 1)
    for gpu, status in ((memory.total, "problem"), (memory.held + 3e9, "warning"), (memory.total + 3e9, "ok")):
        per_gpu, _ = memory_findings("x", memory, {"gpu": 1, "mem_mb": 64000}, Machine(gpu=gpu + 1))
        assert per_gpu.status == status and "3 GB that the GPU takes itself" in per_gpu.words
    assert Memory(15e9, 15.6e9, 0).card() == 24 and Memory(12e9, 13e9, 0).card() == 16


def test_a_batch_that_does_not_divide_is_a_problem(tmp_path, rubric):
    batch = {**MODELS["tiny"]["sft"], "global_batch_size": 5}
    problems = of(list(preflight(settings(tmp_path, sft=batch), rubric)), "problem")
    assert list(problems) == ["tiny fine-tuning batch"]
    assert "5 is not a multiple of device_batch_size 2" in problems["tiny fine-tuning batch"]


def test_a_template_whose_end_token_the_tokenizer_does_not_know_is_a_problem(tmp_path, rubric, checkpoint):
    found = list(preflight(settings(tmp_path, "zephyr-7b", path=str(checkpoint)), rubric))
    assert "'</s>' of template 'zephyr' is not one token" in of(found, "problem")["zephyr-7b template"]
    found = list(preflight(settings(tmp_path, "zephyr-7b", path=str(checkpoint), template="tutor"), rubric))
    assert of(found, "problem") == {} and "tutor" in of(found, "ok")["zephyr-7b template"]


def test_an_instruction_that_the_rubric_does_not_have_is_a_problem(tmp_path, rubric):
    problems = of(list(preflight(settings(tmp_path, instruction="brief"), rubric)), "problem")
    assert "no instruction 'brief'" in problems["tiny template"]


def test_a_checkpoint_that_is_not_there_is_a_problem_and_what_depends_on_it_unknown(tmp_path, rubric):
    found = list(preflight(settings(tmp_path, "mistral-7b", path="/no/model"), rubric))
    assert of(found, "problem") == {"mistral-7b base": "/no/model: no such folder"}
    assert {"splits", "mistral-7b template", "mistral-7b memory"} == of(found, "unknown").keys()


def test_tutors_that_are_given_are_looked_for_where_a_run_wants_them(tmp_path, rubric, checkpoint):
    given = {"dpo-b0.1": "/no/tutor", "kto-b0.1": "/not/wanted"}
    wanted = settings(tmp_path, "mistral-7b", path="/not/needed", sft=str(checkpoint), aligned=given, template="tutor")
    problems = of(list(preflight(wanted, rubric)), "problem")
    assert problems == {"mistral-7b dpo-b0.1": "/no/tutor: no such folder"}


def test_a_tutor_that_is_only_evaluated_takes_no_disk_and_needs_no_length(tmp_path, rubric, checkpoint):
    entry = {"sft": str(checkpoint), "aligned": {"dpo-b0.1": str(checkpoint)}, "template": "tutor"}
    wanted = settings(tmp_path, "mistral-7b", path=str(checkpoint), **entry)
    del wanted.models["mistral-7b"]["max_length"]
    wanted.lengths["mistral-7b"] |= {"max_length": None, "fine_tuned": False}
    wanted.jobs["mistral-7b"] = {"generate": wanted.jobs["mistral-7b"]["generate"]}
    found = list(preflight(wanted, rubric))
    assert of(found, "problem") == {} and "mistral-7b generation memory" in of(found, "ok")
    assert "0 GB for checkpoints" in of(found, "ok")[f"disk of {tmp_path / 'results'}"]


def test_a_disk_without_room_is_a_problem(tmp_path, rubric, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=80_000_000))
    # Three times 7.2 MB for base, fine-tuned and aligned model; three states of 21.6 MB.
    assert of(list(preflight(settings(tmp_path), rubric)), "problem").keys() == {f"disk of {tmp_path / 'results'}"}
    (tmp_path / "results/tiny/sft/checkpoint").mkdir(parents=True)
    assert of(list(preflight(settings(tmp_path), rubric)), "problem") == {}


def test_an_alignment_with_settings_of_its_own_is_checked_too(tmp_path, rubric):
    align = MODELS["tiny"]["align"]
    uneven, large = ({**align, name: value} for name, value in (("global_batch_size", 33), ("device_batch_size", 32)))
    variants = {"dpo-b0.1-gb33": {"align": uneven, "gpu": 0}, "dpo-b0.1-db32": {"align": large, "gpu": 0}}
    found = list(preflight(dataclasses.replace(settings(tmp_path), variants={"tiny": variants}), rubric))
    assert "33" in of(found, "problem")["tiny dpo-b0.1-gb33 batch"]
    needs = {about: words for about, words in of(found, "ok").items() if about.endswith("memory")}
    assert needs["tiny dpo-b0.1-db32 memory"] != needs["tiny alignment memory"]


def test_on_a_cluster_the_trainings_of_a_stage_have_their_states_at_once(tmp_path, rubric):
    here = dataclasses.replace(settings(tmp_path), runs=[["tiny", "dpo-b0.1"], ["tiny", "ipo-b0.1"]])
    about = f"disk of {tmp_path / 'results'}"
    assert "0.0649 GB for training states" in of(list(preflight(here, rubric)), "ok")[about]
    there = dataclasses.replace(here, here=False)
    assert "0.13 GB for training states" in of(list(preflight(there, rubric)), "ok")[about]


@pytest.mark.parametrize(
    "gpus, card, preset",
    [(4, 80e9, "full"), (1, 80e9, "lora"), (1, 24e9, "lora"), (0, None, None)],
)
def test_the_preset_that_is_proposed_for_a_7b_model_fits_the_machine(gpus, card, preset):
    memory = 64e9 if gpus == 0 else 512e9
    found = preset_finding("mine", dict(PRESETS), MISTRAL, gpus, card, memory)
    assert f"'{preset}' fits" in found.words if preset else "none of full, small, lora, laptop" in found.words


def test_a_small_model_is_trained_whole_where_it_fits_and_on_a_laptop_else():
    config = MistralConfig(vocab_size=32000, hidden_size=512, intermediate_size=1024, num_hidden_layers=8)
    assert "'small' fits" in preset_finding("mine", dict(PRESETS), config, 1, 40e9, 64e9).words
    assert "'laptop' fits" in preset_finding("mine", dict(PRESETS), config, 0, None, 16e9).words


def test_the_report_has_the_problems_once_more_at_its_end():
    findings = [
        Finding("problem", "a", "is wrong", "fix it"),
        Finding("ok", "b", "is well"),
        Finding("warning", "c", "d", "e"),
    ]
    lines = report(findings).splitlines()
    assert lines[-5:] == [
        "warning: c: d",
        "  fix: e",
        "problem: a: is wrong",
        "  fix: fix it",
        "1 problem: a job would fail",
    ]
    assert report(findings[1:2]).endswith("no problem found")
