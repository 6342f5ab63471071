"""The paper's files are fetched through bad connections, and nothing but their bytes is believed."""

import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import forked
import pytest
import yaml

from pedalign.data.sources import published
from pedalign.data.sources.published import PUBLISHED, blob_id, check_published, fetch, published_blob

CONTENT = bytes(range(256)) * 2000
WANTED = "85ca3d5aeed19f818566b9244ef5ad7d1d11174a"  # by git hash-object
NAME = "bio-dataset-1.json"


class Server:
    """A local server; `answers` are used one per request, the last one for all that follow."""

    def __init__(self) -> None:
        self.answers: list[Callable] = [whole]
        self.ranges: list[str | None] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                number = len(server.ranges)
                server.ranges.append(self.headers["Range"])
                start = int((self.headers["Range"] or "bytes=0-")[6:-1])
                server.answers[min(number, len(server.answers) - 1)](self, start)

            def log_message(self, *_) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/datasets"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()


def send(handler, content: bytes, status: int = 200, length: int | None = None, start: int = 0) -> None:
    handler.send_response(status)
    handler.send_header("Content-Length", str(len(content) if length is None else length))
    if status == 206:
        handler.send_header("Content-Range", f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}")
    handler.end_headers()
    handler.wfile.write(content)


def whole(handler, start: int) -> None:
    send(handler, CONTENT[start:], 206 if start else 200, start=start)


def without_ranges(handler, start: int) -> None:
    send(handler, CONTENT)


def failing(status: int) -> Callable:
    return lambda handler, start: send(handler, b"sorry", status)


def truncated(handler, start: int) -> None:
    rest = CONTENT[start:]
    send(handler, rest[:100_000], 206 if start else 200, length=len(rest), start=start)


def stalling(handler, start: int) -> None:
    truncated(handler, start)
    handler.wfile.flush()
    time.sleep(3)


def another_part(handler, start: int) -> None:
    send(handler, CONTENT[:10], 206, start=0)


def lying(handler, start: int) -> None:
    content = bytearray(CONTENT)
    content[123_456] ^= 1
    send(handler, bytes(content[start:]), 206 if start else 200, start=start)


@pytest.fixture
def server():
    one = Server()
    yield one
    one.http.shutdown()


@pytest.fixture
def get(server, tmp_path):
    def getter(tries: int = 4):
        path = tmp_path / "published" / NAME
        fetch(f"{server.url}/{NAME}", path, WANTED, tries=tries, pause=0.01, timeout=1.0)
        return path

    return getter


def left(tmp_path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "published").iterdir())


@pytest.mark.parametrize(
    "answers",
    [
        [whole],
        [failing(503), failing(429), whole],
        [truncated, whole],
        [truncated, truncated, truncated, whole],
        [stalling, whole],
        [truncated, without_ranges],
        [truncated, another_part, whole],
        [truncated, failing(416), whole],
    ],
    ids=["at once", "after errors", "cut", "cut often", "stalled", "no ranges", "another part", "nothing behind"],
)
def test_a_bad_connection_only_takes_longer(server, get, tmp_path, answers):
    server.answers = answers
    path = get(tries=6)
    assert path.read_bytes() == CONTENT
    assert left(tmp_path) == [NAME]


def test_what_has_come_is_not_fetched_again_not_even_by_the_next_call(server, get, tmp_path, refused):
    server.answers = [truncated, failing(500)]
    with refused(NAME, "could not be fetched in 3 tries", "500", "bytes are kept, run again to go on"):
        get(tries=3)
    assert left(tmp_path) == [f".{NAME}.part"]
    kept = (tmp_path / "published" / f".{NAME}.part").stat().st_size
    server.answers = [whole]
    assert get().read_bytes() == CONTENT
    assert kept > 0 and server.ranges == [None, f"bytes={kept}-", f"bytes={kept}-", f"bytes={kept}-"]


def test_one_wrong_byte_is_refused_and_named_and_nothing_is_kept(server, get, tmp_path, refused):
    server.answers = [lying]
    with refused(NAME, server.url, "other bytes than those published", WANTED):
        get()
    assert left(tmp_path) == []


def test_a_part_that_is_wrong_is_thrown_away_and_fetched_anew(server, get, tmp_path):
    (tmp_path / "published").mkdir()
    (tmp_path / "published" / f".{NAME}.part").write_bytes(b"x" * 5000)
    assert get().read_bytes() == CONTENT
    assert server.ranges == ["bytes=5000-", None]


def test_a_file_that_is_not_there_is_not_asked_for_twice(server, get, refused):
    server.answers = [failing(404)]
    with refused(server.url, "404", "published_url"):
        get()
    assert len(server.ranges) == 1


def test_no_server_at_all_is_told_in_two_lines(get, server, refused):
    server.http.shutdown()
    server.http.server_close()
    with refused(NAME, "could not be fetched in 2 tries", "check the connection"):
        get(tries=2)


def test_an_endless_answer_is_given_up(server, get, refused, monkeypatch):
    monkeypatch.setattr(published, "_MAX_BYTES", 200_000)
    with refused("does not end within 200000 bytes"):
        get()


def test_only_published_names_are_known(refused):
    assert sorted(PUBLISHED) == [f"bio-dataset-{part}.json" for part in ("1", "2", "3", "ppl")]
    with refused("published no file bio-dataset-4.json", "bio-dataset-1.json"):
        published_blob("bio-dataset-4.json")


def test_the_configs_address_is_the_scripts_own():
    config = yaml.safe_load((Path(__file__).parents[2] / "config.yaml").read_text())
    assert config["published_url"] == published.REPOSITORY


def test_a_blob_id_is_gits(tmp_path):
    (tmp_path / "x").write_bytes(CONTENT)
    assert blob_id(tmp_path / "x") == WANTED


def test_a_file_that_is_not_the_papers_is_refused_with_its_name_and_what_to_do(tmp_path, refused, monkeypatch):
    files = [tmp_path / name for name in PUBLISHED]
    check_published(files)  # those that are missing are downloaded
    files[0].write_bytes(CONTENT)
    with refused(
        str(files[0]), "is not the published file", WANTED, PUBLISHED[files[0].name], "move it away", "'source'"
    ):
        check_published(files)
    monkeypatch.setitem(PUBLISHED, files[0].name, WANTED)
    check_published(files)


@pytest.mark.parametrize("script", ["split", "perplexity"])
def test_a_stage_reads_no_file_that_only_has_the_papers_name(tmp_path, script):
    file = tmp_path / "bio-dataset-ppl.json"
    file.write_text("[]")
    arguments = {"split": ["--dataset", "bio"], "perplexity": ["--model", "nowhere"]}[script]
    command = [script, file, *arguments, "--published", "--settings", "{}"]
    answer = forked.script(*command, "--rubric", "datasets/rubrics/class.yaml", "--output", tmp_path / "out")
    assert answer.returncode == 1
    assert answer.stderr.startswith(f"error: {file}: is not the published file: git blob ")
    assert len(answer.stderr.strip().splitlines()) == 2
    assert not (tmp_path / "out").exists()
