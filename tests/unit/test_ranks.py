"""The result of a training does not depend on the number of ranks: real ones, over gloo."""

import json
import runpy
from pathlib import Path

import pytest
from launched import Inputs, Launched, weights

from pedalign.core.artifacts import read_json

pytestmark = pytest.mark.slow

# Sums are taken in another order, and float32 has a relative precision of 6e-8. PyTorch adds up the squares of a whole
# tensor in float32, DeepSpeed those of each rank's part, so with tensors of a million weights norms differ by up to
# 1e-3, and with these by 1e-5.
LOSS = {"rel": 1e-6, "abs": 1e-6}  # a small loss of a pair is a difference of large log-probabilities
NORM = {"rel": 1e-5}
# AdamW divides a gradient by its mean square, and so makes much of what rounding left of small ones. Six steps of a
# learning rate of 1e-4 move weights by some 5e-4.
WEIGHT = 1e-6
PAIRWISE = ("dpo", "ipo", "cdpo", "simpo")
BATCHED = ("orpo", {"device_batch_size": 2})  # a mean over the tokens that a device computes at a time
LORA = {"rank": 4, "alpha": 8, "dropout": 0.0, "targets": ["q_proj", "v_proj"], "four_bit": False}
BATCH = {"global_batch_size": 4, "epochs": 1.5, "learning_rate": 1e-4}
# Several trainings in one start, each as in a start of its own.
EACH = """
import json, runpy, sys
from transformers.integrations.deepspeed import unset_hf_deepspeed_config
for script in json.loads(sys.argv.pop()):
    sys.argv = script
    runpy.run_path(script[0], run_name="__main__")
    unset_hf_deepspeed_config()
"""


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Inputs:
    return Inputs(tmp_path_factory.mktemp("inputs"), wide=True)


@pytest.fixture
def train(inputs, tmp_path, monkeypatch):
    """Trains by the algorithms, one after the other, in so many ranks; the checkpoints, and what the launcher said."""

    def trainer(ranks: int, *algorithms: str | tuple[str, dict], **how) -> tuple[list[Path], str]:
        asked = [(one, {}) if isinstance(one, str) else one for one in algorithms]
        checkpoints = [tmp_path / f"{algorithm}-{ranks}" for algorithm, _ in asked]
        scripts = [
            inputs.script(algorithm, checkpoint, **BATCH | how | own)
            for (algorithm, own), checkpoint in zip(asked, checkpoints, strict=True)
        ]
        if ranks == 1:
            for script in scripts:
                monkeypatch.setattr("sys.argv", script)
                runpy.run_path(script[0], run_name="__main__")
            return checkpoints, ""
        (tmp_path / "each.py").write_text(EACH)
        settings = scripts[0][scripts[0].index("--settings") + 1]
        job = Launched(tmp_path, tmp_path / "each.py", "--settings", settings, json.dumps(scripts), gpu=ranks)
        assert job.ends() == 0, job.said[-3000:]
        return checkpoints, job.said

    return trainer


def history(checkpoint: Path, figure: str) -> list[float]:
    return [step[figure] for step in read_json(Path(f"{checkpoint}.json"))["history"]]


def check_equal(one: Path, other: Path, base: Path) -> None:
    assert len(history(one, "loss")) >= 6
    assert history(other, "loss") == pytest.approx(history(one, "loss"), **LOSS)
    assert history(other, "grad_norm") == pytest.approx(history(one, "grad_norm"), **NORM)
    before, ones, others = weights(base), weights(one), weights(other)
    assert ones.keys() == others.keys() == before.keys()
    assert max(float((ones[name] - others[name]).abs().max()) for name in ones) < WEIGHT
    assert max(float((ones[name] - before[name]).abs().max()) for name in ones) > 100 * WEIGHT


def test_training_all_weights_in_two_ranks_is_training_them_in_one(train, inputs, tmp_path, monkeypatch):
    """KTO with as many replies at a time: its estimate of how far the policy has moved is that of the replies that all
    ranks compute at a time. No rank waits for a compilation that was killed, DeepSpeed's for shared memory: it leaves a
    lock that is waited for without end."""
    faster = {"learning_rate": 1e-3}
    ones, _ = train(1, "sft", *PAIRWISE, BATCHED, ("kto", {"device_batch_size": 4, **faster}), device_batch_size=2)
    lock = tmp_path / "extensions/deepspeed_shm_comm/lock"
    lock.parent.mkdir(parents=True)
    lock.touch()
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "extensions"))
    checkpointing = ("sft", {"gradient_checkpointing": True})
    others, said = train(
        2, checkpointing, *PAIRWISE, BATCHED, ("kto", {"device_batch_size": 2, **faster}), device_batch_size=1
    )
    for one, other in zip(ones, others, strict=True):
        check_equal(one, other, inputs.folder / "base")
        assert [read_json(Path(f"{made}.json"))["processes"] for made in (one, other)] == [1, 2]
    assert said.count("\n") < 30 * len(others) and "FutureWarning" not in said and "pin_memory" not in said
    assert history(others[-1], "kl") == pytest.approx(history(ones[-1], "kl"), rel=1e-3, abs=1e-5)


def test_an_adapter_is_trained_in_two_ranks_as_in_one_and_they_say_little(train, inputs):
    (one,), _ = train(1, "sft", device_batch_size=1, adapter=LORA, learning_rate=1e-3)
    (other,), said = train(2, "sft", device_batch_size=1, adapter=LORA, learning_rate=1e-3, gradient_checkpointing=True)
    check_equal(one, other, inputs.folder / "base")
    assert said.count("\n") < 30 and "FutureWarning: `torch" not in said
