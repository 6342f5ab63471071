"""Talking to tutors in the terminal: they answer as in the workflow, and what was said is data for it."""

import csv
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from checkouts import ROOT
from small import TALKS
from tutors import RENDERING, RUBRIC, script, trained

from pedalign.chat.dialogue import Talk, Tutor, asked, tutor_names
from pedalign.chat.problems import known_problems
from pedalign.cluster.launching import free_port
from pedalign.core.artifacts import write_records
from pedalign.core.provenance import verified, write_manifest
from pedalign.data.conversations import Reader, clean, read_conversations
from pedalign.data.rubric import load_rubric

pytestmark = pytest.mark.slow

QUESTION = TALKS[3].messages[0]["content"]


@pytest.fixture(scope="module")
def checkpoints(shared_folder: Path) -> list[Path]:
    return trained(shared_folder)


def said(*lines: object) -> str:
    return "".join(f"{line}\n" for line in lines)


def test_a_reply_is_shown_as_the_student_reads_it_and_one_that_cannot_be_read_as_such(checkpoints):
    answer = script("chat", *checkpoints, given=said(QUESTION))
    assert answer.returncode == 0 and answer.stderr == ""
    assert "1: tiny/sft (can't be read: " in answer.stdout
    assert "2: tiny/dpo-b0.1> Look.\n  Move: focus, " in answer.stdout


def test_the_chat_shows_problems_that_the_tutor_was_trained_on(checkpoints, tmp_path):
    openings = {talk.messages[0]["content"] for talk in TALKS}
    found = known_problems(checkpoints[1], 2)
    assert len(set(found)) == 2 and set(found) <= openings
    answer = script("chat", checkpoints[1], given=said(":help"))
    assert answer.stdout.count(found[0]) == 2  # at the start, and again
    alone = tmp_path / "elsewhere/tutor/checkpoint"
    shutil.copytree(checkpoints[1], alone)
    shutil.copy(f"{checkpoints[1]}.json", f"{alone}.json")
    assert known_problems(alone) == []
    moved = tmp_path / "moved"
    shutil.copytree(checkpoints[1].parents[2], moved)
    elsewhere = moved / "tiny/dpo-b0.1/checkpoint"
    assert known_problems(elsewhere, 2) == found
    with (moved / "data/sft.json").open("a") as file:  # it is not the split any more that the tutor was trained on
        file.write("\n")
    assert known_problems(elsewhere) == []


LOADED = """
import sys
from pathlib import Path
import chat
chat._load([Path(sys.argv[1])])
print("there:", sorted({"scipy", "sklearn"} & set(sys.modules)))
from sklearn.metrics import accuracy_score
print("importable:", accuracy_score([1], [1]))
"""


def test_what_only_losses_need_is_not_waited_for_and_can_be_imported_later(checkpoints):
    command = [sys.executable, "-c", LOADED, str(checkpoints[1])]
    told = subprocess.run(command, cwd=ROOT / "scripts", capture_output=True, text=True, check=True).stdout
    assert "there: []\nimportable: 1.0\n" in told


def test_what_is_saved_is_a_conversation_file_that_goes_on_with_the_reply_that_was_taken(checkpoints, tmp_path):
    saved, again = tmp_path / "talk.json", tmp_path / "new.json"
    lines = (QUESTION, "Hm.", f":save {saved}", f":save {saved}", ":new", f":save {again}", ":what", ":quit", "ignored")
    answer = script("chat", *checkpoints, given=said(*lines)).stdout
    assert f"{saved}: 4 turns" in answer
    assert (
        f"{saved}: is there already" in answer and "nothing was said yet" in answer and "':what' is not known" in answer
    )
    (raw,) = read_conversations(saved)
    talk, cut = clean(raw, Reader(load_rubric(RUBRIC)))
    assert cut is None and [one["content"] for one in talk.messages] == [one["content"] for one in TALKS[3].messages]

    other = tmp_path / "other.json"
    script("chat", *checkpoints, given=said(":take 1", QUESTION, "Hm.", f":save {other}"))
    (raw,) = read_conversations(other)
    assert clean(raw, Reader(load_rubric(RUBRIC)))[1].turn == 0  # the reply of the other, which can't be read


def test_a_conversation_that_cannot_be_saved_goes_on(checkpoints, tmp_path, monkeypatch):
    taken, home = tmp_path / "taken", tmp_path / "home"
    taken.write_text("mine")
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    names = (taken / "talk.json", "/proc/talk.json", "x" * 300, "~/talk.json")
    lines = (QUESTION, ":save", *(f":save {name}" for name in names), "  :quit ")
    answer = script("chat", checkpoints[1], given=said(*lines))
    assert answer.returncode == 0 and answer.stderr == ""
    assert answer.stdout.count(": not saved: ") == 3 and "':save' needs the name of a file" in answer.stdout
    assert f"{home}/talk.json: 2 turns" in answer.stdout and (home / "talk.json").is_file()


def test_what_can_not_be_asked_is_said_and_the_conversation_goes_on(checkpoints):
    """A byte that is no UTF-8, and more than the model takes."""
    given = b"Gr\xfc\xdfe?\n" + b"why " * 9000 + b"\n" + QUESTION.encode() + b"\n"
    command = [sys.executable, "scripts/chat.py", checkpoints[1]]
    answer = subprocess.run(command, cwd=ROOT, input=given, capture_output=True)
    assert answer.returncode == 0 and answer.stderr == b""
    assert answer.stdout.count(b"tiny/dpo-b0.1") == 3 and b"begin a new conversation" in answer.stdout


def talking(checkpoint):
    return subprocess.Popen(
        [sys.executable, "scripts/chat.py", checkpoint], cwd=ROOT, text=True, bufsize=1,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def test_an_answer_that_is_interrupted_is_forgotten_and_the_conversation_goes_on(checkpoints):
    with talking(checkpoints[1]) as chat:
        print("Q. Never mind?", file=chat.stdin)
        chat.stdout.readline()
        chat.stdout.readline()  # it listens, and is loading
        time.sleep(1)
        chat.send_signal(signal.SIGINT)
        told, errors = chat.communicate(said(QUESTION, ":quit"))
    assert chat.returncode == 0 and errors == ""
    assert "stopped; what you wrote last is forgotten" in told and told.count("tiny/dpo-b0.1> ") == 1


def test_a_tutor_that_cannot_be_loaded_is_told_before_a_question_is_asked(checkpoints, tmp_path):
    shutil.copytree(checkpoints[1].parent, tmp_path / "spoiled")
    weights = tmp_path / "spoiled/checkpoint/config.json"
    weights.write_bytes(weights.read_bytes().replace(b"silu", b"relu"))
    with talking(weights.parent) as chat:
        assert chat.wait(60) == 1  # its input is still open
        assert "is not as it was made" in chat.stderr.read()


def test_two_tutors_of_one_name_are_told_apart(checkpoints, tmp_path):
    assert tutor_names(checkpoints) == ["tiny/sft", "tiny/dpo-b0.1"]
    same = [tmp_path / folder / "tiny/sft/checkpoint" for folder in ("results", "results-7")]
    assert tutor_names(same) == ["results/tiny/sft", "results-7/tiny/sft"]
    assert "named twice" in script("chat", checkpoints[0], checkpoints[0]).stderr


def test_a_reply_that_was_broken_off_is_told_to_be(checkpoints):
    tutor = Tutor(checkpoints[1])
    tutor.settings = replace(tutor.settings, max_new_tokens=3)
    (reply,) = Talk([tutor]).ask(QUESTION)
    assert reply["defect"].startswith("broken off after 3 tokens; ")


def test_a_tutor_says_what_it_says_in_the_workflow(checkpoints, tmp_path):
    row = {
        "conversation_id": "3",
        "turn": 0,
        "prompt": [TALKS[3].messages[0]],
        "chosen": [TALKS[3].messages[1]],
    }
    write_records(tmp_path / "rows.json", [row])
    decoding = {"max_new_tokens": 12, "min_new_tokens": 2, "temperature": 0, "repetition_penalty": 1.3, "seed": 1}
    decoding["max_batch_tokens"] = None
    how = json.dumps({"rendering": RENDERING, "dtype": "float32", "generation": decoding, "samples": 1})
    shutil.copytree(checkpoints[0].parent, tmp_path / "tiny/sft")
    checkpoint, responses = tmp_path / "tiny/sft/checkpoint", tmp_path / "tiny/sft/test/responses.csv"
    given = ("--model", checkpoint, "--rubric", RUBRIC, "--output", responses, "--settings", how)
    assert script("generate", tmp_path / "rows.json", *given).returncode == 0
    with responses.open(newline="") as file:
        (wanted,) = [row["response"] for row in csv.DictReader(file)]
    shown = script("chat", checkpoint, given=said(QUESTION)).stdout
    assert wanted.encode("unicode_escape").decode() in shown or wanted in shown


def test_where_the_terminal_of_the_page_is_closed_nothing_that_was_said_stays(checkpoints, tmp_path):
    command = [sys.executable, "scripts/chat.py", checkpoints[0], "--web", "--port", str(free_port())]
    with subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, "TMPDIR": str(tmp_path)}, stdout=subprocess.PIPE
    ) as page:
        assert page.stdout.readline().startswith(b"loading ")
        assert b": open it in a browser on this machine" in page.stdout.readline()
        (tmp_path / os.listdir(tmp_path)[0] / "talk.json").write_text("Q. Why?")
        page.send_signal(signal.SIGHUP)
    assert page.returncode == 128 + signal.SIGHUP
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_checkpoint_is_refused_with_the_command_that_makes_one(checkpoints, tmp_path):
    answer = script("chat", tmp_path / "checkpoint")
    assert answer.returncode == 1
    assert answer.stderr.splitlines() == [
        f"error: {tmp_path}/checkpoint: no checkpoint",
        f"  fix: snakemake --cores all {tmp_path}/checkpoint.json makes it",
    ]
    near = script("chat", checkpoints[0].parents[1]).stderr
    assert f"did you mean {checkpoints[1]} or {checkpoints[0]}?" in near
    assert f"did you mean {checkpoints[0]}?" in script("chat", checkpoints[0].with_name("checkpoint.json")).stderr
    assert "name the folder of a tutor" in script("chat", "nobody/model").stderr
    for port in (-1, 70_000):
        assert (
            f"--port {port}: not between 1 and 65535" in script("chat", checkpoints[0], "--web", "--port", port).stderr
        )
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert f"--port {port}: Address already" in script("chat", checkpoints[0], "--web", "--port", port).stderr
    assert "name one or two" in script("chat", *checkpoints, checkpoints[0]).stderr
    shutil.copytree(checkpoints[1].parent, tmp_path / "spoiled")
    spoiled = tmp_path / "spoiled/checkpoint/config.json"
    spoiled.write_bytes(spoiled.read_bytes().replace(b"silu", b"relu"))
    assert "is not as it was made" in script("chat", spoiled.parent, given=said(QUESTION)).stderr


def test_a_tutor_is_asked_from_another_folder_too(checkpoints, tmp_path, monkeypatch, refused):
    shutil.copytree(checkpoints[1].parent, tmp_path / "tiny/dpo-b0.1")
    checkpoint = tmp_path / "tiny/dpo-b0.1/checkpoint"
    settings = json.loads(checkpoint.with_name("checkpoint.json").read_text())["settings"]
    monkeypatch.chdir(ROOT)
    write_manifest(
        checkpoint.with_name("checkpoint.json"), checkpoint, verified("datasets/rubrics/class.yaml"), settings
    )
    monkeypatch.chdir(tmp_path)
    assert asked(checkpoint)[1].name == "CLASS"
    (tmp_path / "own.yaml").write_text(RUBRIC.read_text())
    write_manifest(checkpoint.with_name("checkpoint.json"), checkpoint, verified("own.yaml"), settings)
    (tmp_path / "own.yaml").unlink()
    with refused("is missing", "restore it"):
        asked(checkpoint)


def test_the_model_that_a_training_begins_with_is_no_tutor(checkpoints, tmp_path, refused):
    shutil.copytree(checkpoints[1], tmp_path / "base")
    write_manifest(tmp_path / "base.json", tmp_path / "base", {}, {})
    with refused("it was not trained", "name a tutor's checkpoint"):
        asked(tmp_path / "base")


def test_a_tutor_whose_rubric_has_changed_since_is_not_asked_by_the_new_one(checkpoints, tmp_path, refused):
    own = tmp_path / "rubric.yaml"
    own.write_text(RUBRIC.read_text())
    shutil.copytree(checkpoints[1].parent, tmp_path / "tiny/dpo-b0.1")
    checkpoint = tmp_path / "tiny/dpo-b0.1/checkpoint"
    settings = json.loads(checkpoint.with_name("checkpoint.json").read_text())["settings"]
    write_manifest(checkpoint.with_name("checkpoint.json"), checkpoint, verified(own), settings)
    assert asked(checkpoint)[1].name == load_rubric(RUBRIC).name
    own.write_text(own.read_text().replace("probing", "asking"))
    with refused("the rubric has changed since", "restore it"):
        asked(checkpoint)
