"""vLLM answers as the other engine does; where it is not installed, that is said before anything starts."""

import os
from pathlib import Path

import pytest
import small

from pedalign.generation import vllm_engine, vllm_environment
from pedalign.generation.common import GenerationSettings, History
from pedalign.generation.shared_prefix_engine import generate
from pedalign.generation.vllm_environment import vllm_python
from pedalign.models.checkpoints import load_model, save_checkpoint
from pedalign.models.scratch import scratch_model
from pedalign.training.sft import train_sft

GREEDY = {"max_new_tokens": 12, "min_new_tokens": 2, "temperature": 0.0, "repetition_penalty": 1.0}


def settings(**changed) -> GenerationSettings:
    return GenerationSettings(**{**GREEDY, "max_batch_tokens": None, "seed": 7, "engine": "vllm", **changed})


def test_where_it_is_not_installed_the_line_that_installs_it_is_said(monkeypatch, tmp_path, refused):
    monkeypatch.setattr(vllm_environment, "__file__", str(tmp_path / "scripts/pedalign/generation/vllm_environment.py"))
    with refused("vllm is not installed", "make vllm"):
        vllm_python()
    made = tmp_path / ".venv-vllm/bin/python"
    made.parent.mkdir(parents=True)
    made.touch()
    assert vllm_python() == made


def test_a_worker_that_fails_ends_the_stage_in_two_lines(monkeypatch, refused):
    monkeypatch.setattr(vllm_engine, "vllm_python", lambda: Path("/bin/false"))
    with refused("vLLM failed (exit status 1) with there", "engine: auto"):
        vllm_engine.generate("there", "float32", [History("1", [1, 2, 3], [2, 3])], 0, settings())


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A small tutor, its conversations and its end token."""
    folder = tmp_path_factory.mktemp("tutor")
    _, tokenizer, rendering = small.small_model()
    model = scratch_model({**small.ARCHITECTURE, "head_dim": 32}, tokenizer, seed=1)  # vLLM knows no smaller heads
    train_sft(model, tokenizer, rendering, small.TALKS, small.settings(epochs=40))
    save_checkpoint(model, rendering, tokenizer, folder)
    ids = [rendering.encode(talk.messages[:3])[0] for talk in small.TALKS]
    firsts = [len(rendering.encode(talk.messages[:1])[0]) for talk in small.TALKS]
    histories = [
        History(talk.id, one, [first, len(one)]) for talk, one, first in zip(small.TALKS, ids, firsts, strict=True)
    ]
    os.environ["VLLM_CPU_KVCACHE_SPACE"] = "1"
    return folder, histories, rendering.end_id


@pytest.mark.vllm
@pytest.mark.slow
@pytest.mark.parametrize(("penalty", "longest", "reason"), [(1.0, 40, "stop"), (1.2, 5, "length")])
def test_greedy_replies_are_those_of_the_other_engine(checkpoint, penalty, longest, reason):
    folder, histories, end = checkpoint
    wanted = settings(repetition_penalty=penalty, max_new_tokens=longest)
    ours = generate(load_model(folder, "float32"), histories, end, wanted)
    theirs = vllm_engine.generate(str(folder), "float32", histories, end, wanted)
    assert theirs == ours
    found = [completion for answers in ours for completion in answers]
    assert any(completion.finish_reason == reason for completion in found)
    assert len({tuple(completion.ids) for completion in found}) > 1


@pytest.mark.vllm
@pytest.mark.slow
def test_sampled_replies_are_the_same_again_and_in_other_company(checkpoint):
    folder, histories, end = checkpoint
    wanted = settings(temperature=2.0)
    first = vllm_engine.generate(str(folder), "float32", histories, end, wanted)
    assert vllm_engine.generate(str(folder), "float32", histories, end, wanted) == first
    part = vllm_engine.generate(str(folder), "float32", histories, end, wanted, [[1, 4], [9]])
    assert part == [answers if at in (1, 4, 9) else [] for at, answers in enumerate(first)]
    other = vllm_engine.generate(str(folder), "float32", histories, end, settings(temperature=2.0, seed=8))
    assert other != first
