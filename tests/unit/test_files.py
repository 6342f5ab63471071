"""Files hold what was written into them, whole or not at all."""

import json
from hashlib import sha256

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pedalign.artifacts import PACKAGES, read_csv, whole_directory, write_columns, write_csv, write_manifest, write_text

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


def test_a_manifest_lists_every_file_as_it_is_and_every_package(tmp_path) -> None:
    (tmp_path / "ck/deep").mkdir(parents=True)
    (tmp_path / "ck/deep/x").write_bytes(b"abc")
    write_manifest(tmp_path / "ck.json", tmp_path / "ck", final_loss=0.5)
    manifest = json.loads((tmp_path / "ck.json").read_text())
    assert manifest["files"] == {"deep/x": {"sha256": sha256(b"abc").hexdigest(), "bytes": 3}}
    assert manifest["final_loss"] == 0.5
    assert set(manifest["versions"]) == set(PACKAGES)
