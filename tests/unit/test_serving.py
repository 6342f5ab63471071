"""A tutor behind an OpenAI-compatible server: asked by OpenAI's own client, it is asked as it was trained."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import openai
import pytest
import requests
from checkouts import ROOT
from small import TALKS
from tutors import RUBRIC, script, trained
from waiting import until

from pedalign.chat.dialogue import Tutor
from pedalign.cluster.launching import free_port
from pedalign.core.artifacts import read_json, write_json
from pedalign.core.provenance import verified, write_manifest

pytestmark = pytest.mark.slow

QUESTION = list(TALKS[3].messages[:1])
FOLLOWED = list(TALKS[3].messages[:3])


@pytest.fixture(scope="module")
def checkpoint(shared_folder: Path) -> Path:
    return trained(shared_folder)[1]


@contextmanager
def running(folder: Path, *command: object) -> Iterator[None]:
    environment = {**os.environ, "LOGDIR": str(folder), "HF_HUB_OFFLINE": "1"}
    with (folder / "said").open("ab") as said:
        process = subprocess.Popen(
            [sys.executable, *map(str, command)], cwd=ROOT, env=environment, stdout=said, stderr=said
        )
    try:
        yield
    finally:
        process.kill()
        process.wait()


def answers(url: str, method: str = "GET", wanted: str = "{") -> bool:
    time.sleep(0.5)
    try:
        return wanted in requests.request(method, url, timeout=5).text
    except requests.RequestException:
        return False


def expect_its_own_replies(url: str, name: str, checkpoint: Path) -> None:
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none")
    tutor = Tutor(checkpoint)
    for messages in (QUESTION, FOLLOWED):
        answer = client.chat.completions.create(model=name, messages=messages, temperature=0, max_tokens=60)
        wanted = tutor.answer(messages).text
        assert not tutor.rubric.parse(wanted).defect
        assert answer.choices[0].message.content == wanted
        assert answer.choices[0].finish_reason == "stop"
        assert answer.usage.prompt_tokens == len(tutor.renderer.encode(messages)[0])


def expect_streamed_replies(url: str, name: str, checkpoint: Path) -> None:
    """As chat interfaces show them."""
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none")
    asked = {"model": name, "messages": QUESTION, "temperature": 0, "max_tokens": 60}
    parts = [part.choices[0] for part in client.chat.completions.create(**asked, stream=True) if part.choices]
    assert "".join(part.delta.content or "" for part in parts) == Tutor(checkpoint).answer(QUESTION).text
    assert parts[-1].finish_reason == "stop"


def test_transformers_serve_renders_as_the_checkpoint_says(checkpoint, tmp_path):
    port = free_port()
    url = f"http://localhost:{port}"
    with running(tmp_path, "-m", "transformers.cli.transformers", "serve", checkpoint, "--port", port):
        assert until(lambda: answers(f"{url}/health"), 120)
        expect_its_own_replies(url, str(checkpoint), checkpoint)
        expect_streamed_replies(url, str(checkpoint), checkpoint)


def test_fastchats_controller_worker_and_server_ask_with_the_tutors_template(checkpoint, tmp_path):
    ports = [free_port() for _ in range(3)]
    controller, worker, server = (f"http://localhost:{port}" for port in ports)
    with ExitStack() as stack:
        stack.enter_context(running(tmp_path, "-m", "fastchat.serve.controller", "--port", ports[0]))
        assert until(lambda: answers(f"{controller}/list_models", method="POST"), 120)
        own = ("--port", ports[1], "--worker-address", worker, "--controller-address", controller)
        stack.enter_context(running(tmp_path, "scripts/fastchat_worker.py", checkpoint, *own))
        given = ("--port", ports[2], "--controller-address", controller)
        stack.enter_context(running(tmp_path, "scripts/fastchat_server.py", *given))
        assert until(lambda: answers(f"{server}/v1/models", wanted="tiny/dpo-b0.1"), 120)
        expect_its_own_replies(server, "tiny/dpo-b0.1", checkpoint)
        expect_streamed_replies(server, "tiny/dpo-b0.1", checkpoint)


def test_fastchats_worker_refuses_code_of_a_checkpoint(checkpoint, tmp_path):
    """FastChat trusts code that a configuration names, wherever it lies."""
    copy, manifest = tmp_path / "tiny/dpo-b0.1/checkpoint", tmp_path / "tiny/dpo-b0.1/checkpoint.json"
    shutil.copytree(checkpoint, copy)
    config = copy / "config.json"
    write_json(config, {**read_json(config), "auto_map": {"AutoModelForCausalLM": "some--model.Code"}})
    settings = read_json(checkpoint.with_name("checkpoint.json"))["settings"]
    write_manifest(manifest, copy, verified(RUBRIC), settings)
    answer = script("fastchat_worker", copy)
    assert answer.returncode == 1
    assert answer.stderr.splitlines()[-2:] == [
        f"error: {copy}: its config.json names code of its own (auto_map)",
        "  fix: serve it by `transformers serve` (docs/how-to/talking.md)",
    ]
