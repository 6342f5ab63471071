"""The whole workflow with a real pretrained chat model, held against plain transformers."""

import json
import math
import subprocess
import sys
from itertools import islice
from pathlib import Path

import pytest
import torch
from checkouts import ROOT, Checkout
from transformers import AutoModelForCausalLM, AutoTokenizer

from pedalign.core.artifacts import read_csv
from pedalign.core.json_stream import read_records
from pedalign.data.conversations import Reader, clean, read_conversations
from pedalign.data.rubric import load_rubric
from pedalign.models.checkpoints import load_tokenizer
from pedalign.models.prompt_format import renderer

pytestmark = pytest.mark.pretrained

RUBRIC = load_rubric(ROOT / "datasets/rubrics/class.yaml")


def results(run: Checkout, *parts: str) -> Path:
    return run.path.joinpath("results", *parts)


def test_the_pieces_of_its_own_template_give_the_tokens_of_the_template(smollm2: Path) -> None:
    plain = AutoTokenizer.from_pretrained(smollm2)
    ours = renderer(load_tokenizer(smollm2), "auto", "compact", RUBRIC)
    system = [{"role": "system", "content": RUBRIC.instructions["compact"]}]
    raw = islice(read_conversations(ROOT / "datasets/simulated/bio-dataset-1.json"), 100)
    kept = [clean(one, Reader(RUBRIC))[0] for one in raw]
    assert sum(one.n_turns > 2 for one in kept) > 90
    for one in kept:
        messages = list(one.messages)
        if not messages:
            continue
        # The template also ends the last turn with a new line, after the token that ends the reply.
        whole = plain.apply_chat_template([*system, *messages], tokenize=False).removesuffix("\n")
        assert ours.text(messages) == whole
        assert ours.encode(messages)[0] == plain(whole, add_special_tokens=False).input_ids


def test_its_trainings_begin_with_the_losses_of_the_plain_model(run: Checkout, smollm2: Path) -> None:
    sft = json.loads(results(run, "smollm2/sft/checkpoint.json").read_text())
    assert (sft["steps"], sft["rows"]) == (10, 12)
    model = AutoModelForCausalLM.from_pretrained(smollm2, dtype=torch.float32)
    ours = renderer(load_tokenizer(smollm2), "auto", "compact", RUBRIC)
    losses = []
    for record in read_records(results(run, "data/bio-sft.json")):
        messages = [
            {"role": "assistant" if turn["from"] == "gpt" else "user", "content": turn["value"]}
            for turn in record["conversations"]
        ]
        ids, trained = ours.encode(messages)
        labels = torch.tensor([[token if wanted else -100 for token, wanted in zip(ids, trained, strict=True)]])
        with torch.no_grad():
            losses.append(float(model(input_ids=torch.tensor([ids]), labels=labels).loss))
    assert min(abs(loss - sft["history"][0]["loss"]) for loss in losses) < 1e-3  # of the row that came first
    aligned = json.loads(results(run, "smollm2/dpo-b0.1/checkpoint.json").read_text())
    assert aligned["steps"] == 5
    assert aligned["history"][0]["loss"] == pytest.approx(math.log(2), abs=1e-4)


def test_its_replies_are_those_of_plain_generate(run: Checkout) -> None:
    checkpoint = results(run, "smollm2/sft/checkpoint")
    rows = [row for split in ("test", "dpo") for row in read_records(results(run, f"data/bio-{split}_formatted.json"))]
    given = [row for split in ("test", "dpo") for row in read_csv(results(run, f"smollm2/sft/{split}/responses.csv"))]
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    assert len(rows) >= 20
    for row, answer in list(zip(rows, given, strict=True))[:20]:
        prompt = tokenizer.apply_chat_template(
            row["prompt"], add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        made = model.generate(**prompt, max_new_tokens=40, min_new_tokens=2, do_sample=False)
        reply = tokenizer.decode(made[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True)
        assert reply == answer["response"]


def test_its_chat_answers_as_in_the_workflow(run: Checkout) -> None:
    row = read_records(results(run, "data/bio-test_formatted.json"))[0]
    reply = read_csv(results(run, "smollm2/sft/test/responses.csv"))[0]["response"]
    question = row["prompt"][0]["content"]
    command = [sys.executable, ROOT / "scripts/chat.py", results(run, "smollm2/sft/checkpoint")]
    answer = subprocess.run(command, cwd=run.path, input=f"{question}\n", capture_output=True, text=True, timeout=120)
    assert answer.returncode == 0, answer.stderr
    parsed = RUBRIC.parse(reply)
    assert (reply if parsed.defect else parsed.values["tutorbot"]) in answer.stdout
