"""The paper's files: planned without the net, fetched by their target, refused where they are not the paper's."""

import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
import yaml

pytestmark = pytest.mark.slow

PAPER = {
    "source": "published",
    "published_url": "http://127.0.0.1:9/nowhere",
    "paper_rules": True,
    "split": {"sft": 200, "dpo": 200, "test": 150},
    "runs": [{"model": "mistral-7b", "algorithm": "dpo", "beta": 0.1}],
}


@pytest.fixture
def write(checkout):
    def writer(**changed):
        (checkout.path / "paper.yaml").write_text(yaml.safe_dump({**PAPER, **changed}))
        return checkout

    return writer


def test_the_papers_run_is_planned_without_touching_the_net(write):
    jobs = write().planned("--cores", "4", config="paper.yaml")
    assert jobs["download"] == 4
    assert jobs["perplexity"] == 2 and jobs["align"] == 1
    assert "simulate" not in jobs


def test_files_that_are_not_the_papers_are_refused_and_named(write, tmp_path):
    folder = tmp_path / "mirror"
    folder.mkdir()
    for part in ("1", "2", "3", "ppl"):
        (folder / f"bio-dataset-{part}.json").write_text("[]")
    handler = partial(SimpleHTTPRequestHandler, directory=str(folder))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    checkout = write(published_url=f"http://127.0.0.1:{server.server_port}")
    answer = checkout.forked("--cores", "1", "published_datasets", config="paper.yaml")
    server.shutdown()
    assert answer.returncode != 0
    said = answer.stdout + answer.stderr
    assert "Traceback" not in said
    for part in ("1", "2", "3", "ppl"):
        path = f"datasets/published/bio-dataset-{part}.json"
        assert f"error: {path}: http" in said and "other bytes than those published" in said
        assert not (checkout.path / path).exists()


def test_files_placed_by_hand_that_are_not_the_papers_are_refused_before_anything_starts_and_stay(write):
    checkout = write()
    folder = checkout.path / "datasets/published"
    folder.mkdir()
    for part in ("1", "2", "3", "ppl"):
        (folder / f"bio-dataset-{part}.json").write_text("[]")
    file = "datasets/published/bio-dataset-1.json"
    for source, wanted in (
        ("published", ["--dry-run"]),
        ("published", ["preflight"]),
        ("published", ["--force", file]),
        ("simulated", ["published_datasets"]),
    ):
        write(source=source)
        answer = checkout.forked("--cores", "1", *wanted, config="paper.yaml")
        assert answer.returncode != 0
        said = answer.stdout + answer.stderr
        assert f"error: {file}: is not the published file: git blob " in said and "fix: move it away" in said
        assert "Traceback" not in said
    assert (checkout.path / file).read_text() == "[]"
    (checkout.path / file).unlink()
    (checkout.path / file).mkdir()
    answer = checkout.forked("--cores", "1", "published_datasets", config="paper.yaml")
    assert f"error: {file}: is not the published file: git blob none, as it is no file" in answer.stderr


def test_other_datasets_are_not_published(write):
    answer = write(dataset="chemistry").forked("--cores", "1", config="paper.yaml")
    assert answer.returncode != 0
    assert "the paper published no file chemistry-dataset-1.json" in answer.stderr
