"""A real pretrained model, and one small run of the whole workflow with it."""

import os
from pathlib import Path

import pytest
import yaml
from checkouts import Checkout, fresh_checkout, made_once
from smollm2 import NotAtHand, make

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def smollm2(shared_folder: Path) -> Path:
    """SmolLM2-135M-Instruct; the folder that SMOLLM2 names, if it does, or .smollm2 in the checkout, made once."""
    given = os.environ.get("SMOLLM2")
    if given:
        return Path(given)
    try:
        return made_once(ROOT / ".smollm2", make).path
    except NotAtHand as error:
        pytest.skip(f"SmolLM2 can't be had from this index: {error}")


@pytest.fixture(scope="session")
def run(smollm2: Path, shared_folder: Path) -> Checkout:
    """Ten steps of fine-tuning, five of alignment, and all that follows, in float32 on the CPU."""
    config = {
        "runs": [{"model": "smollm2", "algorithm": "dpo", "beta": 0.1}],
        "import": {"format": "class", "files": "datasets/bio-problems.yaml"},
        "simulation": {"files": 1, "conversations": 100, "pairs": 2},
        "split": {"sft": 12, "dpo": 2, "test": 2},
        "score": {"resamples": 200},
        "pair": {"most": 10},
        "models": {
            "smollm2": {
                **{"path": str(smollm2), "preset": "laptop"},
                "sft": {"global_batch_size": 1, "device_batch_size": 1, "epochs": 10 / 12},
                "align": {"global_batch_size": 2, "device_batch_size": 2},
                "generate": {"max_new_tokens": 40},
            }
        },
    }

    def made(folder: Path) -> None:
        checkout = fresh_checkout(folder)
        (folder / "real.yaml").write_text(yaml.safe_dump(config))
        answer = checkout.snakemake("--cores", "2", config="real.yaml")
        assert answer.returncode == 0, answer.stdout + answer.stderr

    return made_once(shared_folder / "smollm2-run", made)
