"""Base models from scratch are the same everywhere, and what cannot be used is refused in two lines."""

import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from local_server import COMMIT, Hub, serving
from transformers import AutoModelForCausalLM, AutoTokenizer

from pedalign.data.conversations import Conversation
from pedalign.models.checkpoints import batch_tokens, load_model, load_tokenizer, save_checkpoint
from pedalign.models.prompt_format import Renderer
from pedalign.models.scratch import scratch_model, scratch_tokenizer

TALK = (
    {"role": "user", "content": "Q. Why is the sky blue? Größe, 空."},
    {"role": "assistant", "content": '{"Move": "focus", "Tutorbot": "What do you know?"}'},
)
ARCHITECTURE = {
    "model_type": "llama",
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
}
FILES = ("config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja")


def make(folder: Path, seed: int = 1) -> Renderer:
    tokenizer = scratch_tokenizer([Conversation("1", TALK)], "tutor", "Teach.", 320)
    rendering = Renderer(tokenizer, "tutor", "Teach.")
    save_checkpoint(scratch_model(ARCHITECTURE, tokenizer, seed), rendering, tokenizer, folder)
    return rendering


def test_a_sentence_is_the_same_tokens_wherever_it_stands() -> None:
    sentence = "What do you know"
    talks = [({"role": "user", "content": text}, TALK[1]) for text in (f"I ask. {sentence}?", f"{sentence}, please.")]
    conversations = [Conversation(str(number), talk) for number, talk in enumerate(talks)]
    tokenizer = scratch_tokenizer(conversations, "tutor", "Teach.", 400)
    alone = tokenizer(sentence)["input_ids"]
    for text in (f"{sentence}.", f"I ask. {sentence}?", f"Well: {sentence}, then.", f'{{"Tutorbot": "{sentence}"}}'):
        ids = tokenizer(text)["input_ids"]
        assert any(ids[at : at + len(alone)] == alone for at in range(len(ids))), text


def test_equal_texts_and_seeds_make_equal_files_in_another_process_too(tmp_path) -> None:
    make(tmp_path / "here")
    make(tmp_path / "other seed", seed=2)
    code = f"from test_models import make; from pathlib import Path; make(Path({str(tmp_path / 'there')!r}))"
    environment = {**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True)
    here, there, other = (
        [(tmp_path / folder / name).read_bytes() for name in FILES] for folder in ("here", "there", "other seed")
    )
    assert here == there
    assert [one == two for one, two in zip(here, other, strict=True)] == [True, False, True, True]


def test_plain_transformers_loads_a_checkpoint_and_renders_its_chats(tmp_path) -> None:
    rendering = make(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    ids = torch.tensor([rendering.encode(TALK)[0]])
    assert tokenizer.apply_chat_template(list(TALK), tokenize=False) == rendering.text(TALK)
    plain, ours = AutoModelForCausalLM.from_pretrained(tmp_path), load_model(tmp_path, "float32").cpu()
    assert torch.equal(plain(ids).logits, ours(ids).logits)


def test_every_file_of_a_checkpoint_can_be_read_by_those_whom_the_umask_allows(tmp_path) -> None:
    before = os.umask(0o027)
    try:
        make(tmp_path / "checkpoint")
    finally:
        os.umask(before)
    assert {oct(file.stat().st_mode & 0o777) for file in (tmp_path / "checkpoint").iterdir()} == {"0o640"}


def test_a_checkpoint_that_was_trained_without_a_cache_generates_with_one(tmp_path) -> None:
    tokenizer = scratch_tokenizer([Conversation("1", TALK)], "tutor", "Teach.", 320)
    model = scratch_model(ARCHITECTURE, tokenizer, 1)
    model.config.use_cache = False
    save_checkpoint(model, Renderer(tokenizer, "tutor", "Teach."), tokenizer, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["use_cache"] is True


def cut_in_half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    ("name", "spoil"),
    [
        ("model.safetensors", Path.unlink),
        ("model.safetensors", cut_in_half),
        ("config.json", Path.unlink),
        ("config.json", cut_in_half),
        ("config.json", lambda path: path.write_text(path.read_text().replace(": 32", ": 48"))),
    ],
)
def test_a_checkpoint_that_is_not_whole_is_refused(tmp_path, refused, name, spoil) -> None:
    make(tmp_path)
    spoil(tmp_path / name)
    with refused(str(tmp_path), "no usable checkpoint"):
        load_model(tmp_path, "float32")


@pytest.mark.parametrize("spoil", [Path.unlink, cut_in_half])
def test_a_checkpoint_without_a_tokenizer_is_refused(tmp_path, refused, spoil) -> None:
    make(tmp_path)
    spoil(tmp_path / "tokenizer.json")
    with refused(str(tmp_path), "no usable checkpoint"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize(
    "changed",
    [
        {"model_type": "lama"},
        {"model_type": "t5"},
        {"hidden_size": "big"},
        {"num_attention_heads": 3},
        {"hiden_size": 16},
        {"hidden_act": "gelo"},
        {"vocab_size": 5},
    ],
    ids=str,
)
def test_an_architecture_that_cannot_be_built_is_refused(refused, changed: dict) -> None:
    tokenizer = scratch_tokenizer([Conversation("1", TALK)], "tutor", "Teach.", 320)
    with refused("architecture"):
        scratch_model({**ARCHITECTURE, **changed}, tokenizer, 1)


def test_as_many_tokens_at_a_time_as_a_quarter_of_the_memory_holds_and_no_more_than_are_faster(monkeypatch):
    tokenizer = scratch_tokenizer([Conversation("1", TALK)], "tutor", "Teach.", 320)
    model = scratch_model(ARCHITECTURE, tokenizer, 1)
    assert batch_tokens(model, 77) == 77
    assert batch_tokens(model, None) == 131072
    # Keys and values: 2 layers, 1 head of 8 numbers, twice; 17 numbers for each of 16 units.
    monkeypatch.setattr(os, "sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 25}.__getitem__)
    assert batch_tokens(model, None) == 4096 * 25 // 4 // ((32 + 17 * 16) * 4)
    monkeypatch.setattr(os, "sysconf", {"SC_PAGE_SIZE": 1, "SC_PHYS_PAGES": 1}.__getitem__)
    assert batch_tokens(model, None) == 1


class OneModel(Hub):
    """Of one model, whose files lie in `folder`."""

    folder: Path
    asked: list[str]

    def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        name = path.rpartition("/")[2]
        if path.startswith("/api/models/some/model/tree/"):
            files = [(file.name, file.stat().st_size) for file in self.folder.iterdir()]
            rows = [{"type": "file", "path": file, "size": size, "oid": "0" * 40} for file, size in files]
            return 200, {}, json.dumps(rows).encode()
        if path.startswith("/api/models/some/model/revision/"):
            return 200, {}, json.dumps({"id": "some/model", "sha": COMMIT, "siblings": []}).encode()
        if not (self.folder / name).is_file():
            return 404, {"X-Error-Code": "EntryNotFound"}, b""
        content = (self.folder / name).read_bytes()
        if self.command == "GET":
            self.asked.append(name)
        return 200, {"ETag": f'"{hashlib.sha256(content).hexdigest()}"'}, content


LOAD = """
import pedalign.core.progress
pedalign.core.progress.EVERY = 0
from pedalign.models.checkpoints import load_model
print(sum(float(one.double().sum()) for one in load_model("some/model", "float32").state_dict().values()))
"""


def test_the_hubs_weights_are_downloaded_once_and_said_how_far_in_each_log(tmp_path) -> None:
    make(tmp_path / "model")
    (tmp_path / "model/consolidated.safetensors").write_bytes(b"the weights once more")
    asked: list[str] = []
    said = []
    with serving(type("Served", (OneModel,), {"folder": tmp_path / "model", "asked": asked})) as hub:
        named = {"HF_ENDPOINT": hub, "HF_TOKEN": "", "TQDM_DISABLE": "1"}
        for rank in ("0", "1"):
            environment = {**os.environ, **named, "HF_HOME": str(tmp_path / f"hub{rank}"), "LOCAL_RANK": rank}
            answer = subprocess.run([sys.executable, "-c", LOAD], env=environment, capture_output=True, text=True)
            assert answer.returncode == 0, answer.stderr
            said.append(answer.stdout.splitlines())
    *lines, weights = said[0]
    rate = r"(, [\d.]+[kM]? per second, 00:\d\d left)?"  # told after some seconds
    known = r"download some/model: [\d.]+k? of [\d.]+k? bytes \(\d+%\)" + rate
    assert lines and all(re.fullmatch(known, line) for line in lines), lines
    assert said[1] == [weights]  # one process of a node tells
    assert asked.count("model.safetensors") == 2 and "consolidated.safetensors" not in asked
    ours = load_model(tmp_path / "model", "float32").state_dict()
    assert float(weights) == sum(float(one.double().sum()) for one in ours.values())
