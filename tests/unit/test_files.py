"""Files hold what was written into them, whole or not at all."""

import json
import os
import socket
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pedalign.cluster.snakemake_calls import check_clock
from pedalign.core.artifacts import (
    full_disk_named,
    iterate_csv,
    read_csv,
    whole_directory,
    write_columns,
    write_csv,
    write_text,
)

SAME_FOLDER = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner, max_size=3), max_leaves=5
)


@SAME_FOLDER
@given(rows=st.lists(st.tuples(st.text(), st.text()), max_size=5))
@example(rows=[('"quoted", it is', "a\nb"), ("a\rb", "a\r\nb"), ("", "\u2028\x85\x0c"), ("\0", "\ufeff")])
def test_any_texts_come_back_from_a_table(tmp_path, rows) -> None:
    write_csv(tmp_path / "a.csv", ("one", "other"), rows)
    assert [(row["one"], row["other"]) for row in read_csv(tmp_path / "a.csv")] == rows


@SAME_FOLDER
@given(columns=st.dictionaries(st.text(), st.lists(JSON, max_size=4)))
def test_columns_are_json_of_what_was_given(tmp_path, columns) -> None:
    write_columns(tmp_path / "a.json", columns)
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == columns


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_a_directory_that_is_not_finished_leaves_what_was_there_and_nothing_else(tmp_path, error) -> None:
    for before in ([], ["kept"]):
        if before:
            with whole_directory(tmp_path / "made") as folder:
                (folder / "kept").write_text("old")
        with pytest.raises(error), whole_directory(tmp_path / "made") as folder:
            (folder / "half").write_text("new")
            raise error
        assert [path.name for path in tmp_path.rglob("*")] == (["made", "kept"] if before else [])


def test_a_text_that_cannot_be_encoded_leaves_no_file(tmp_path) -> None:
    with pytest.raises(UnicodeEncodeError):
        write_text(tmp_path / "a.txt", "\ud800")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a,b\n1,2\n", ("no column 'c'",)),
        ("", ("no column 'a'",)),
        ("a,b,c\n1,2,3\n1,2\n", ("row 1 (from 0)", "other columns than the header")),
        ("a,b,c\n1,2,3,4\n", ("row 0 (from 0)",)),
    ],
)
def test_a_table_of_other_columns_is_refused(tmp_path, refused, text: str, words: tuple[str, ...]) -> None:
    (tmp_path / "a.csv").write_text(text)
    with refused("a.csv", *words):
        list(iterate_csv(tmp_path / "a.csv", ("a", "c")))


def test_an_error_of_a_library_on_a_full_disk_says_that_it_is_full(tmp_path, monkeypatch) -> None:
    """PyTorch's own says `unexpected pos 64 vs 0`."""
    with pytest.raises(RuntimeError), full_disk_named(tmp_path / "weights"):
        raise RuntimeError("unexpected pos")
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=0))
    with pytest.raises(OSError, match="No space left") as error, full_disk_named(tmp_path / "weights"):
        raise RuntimeError("unexpected pos")
    assert error.value.filename == str(tmp_path / "weights")


def test_what_a_killed_process_left_half_written_goes_with_the_next_writing(tmp_path) -> None:
    with subprocess.Popen(["true"]) as process:
        host = socket.gethostname()
        dead, alive, elsewhere = f"{host}.{process.pid}", f"{host}.{os.getppid()}", f"other.{process.pid}"
    (tmp_path / f".a[1].csv.{dead}.tmp").write_text("half")
    (tmp_path / f".other.csv.{dead}.tmp").write_text("half")
    (tmp_path / f".folder.{dead}.tmp/deep").mkdir(parents=True)
    for process_that_may_live in (alive, elsewhere):
        (tmp_path / f".folder.{process_that_may_live}.tmp").mkdir()
    write_text(tmp_path / "a[1].csv", "")
    with whole_directory(tmp_path / "folder"):
        pass
    assert {path.name for path in tmp_path.iterdir()} == {
        *("a[1].csv", "folder"),
        *(f".other.csv.{dead}.tmp", f".folder.{alive}.tmp", f".folder.{elsewhere}.tmp"),
    }


def test_a_file_from_the_future_is_named_with_a_command_that_helps(tmp_path, monkeypatch, refused) -> None:
    (tmp_path / "here/my results").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    files = ["my results/a b.json", "../there.json", "gone.json", "old.json"]
    for name in ("my results/a b.json", "../there.json", "old.json"):
        Path(name).touch()
    check_clock(files)
    for name in files[:2]:
        os.utime(name, (2**32, 2**32))
    with refused(
        "a b.json: was changed in the future (2106-02-07", "as are 1 other files", "find 'my results' .. -newermt"
    ):
        check_clock(files)
