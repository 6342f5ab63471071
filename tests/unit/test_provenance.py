"""What artifacts were made from is on record, and what is not as it was made is refused."""

import json
import shlex
import shutil
from pathlib import Path

import pytest

from pedalign.core.code_digest import module
from pedalign.core.provenance import (
    PACKAGES,
    accept,
    check_recorded,
    manifest_path,
    read_record,
    record,
    record_path,
    verified,
    versions,
    write_manifest,
)
from pedalign.core.provenance_chain import chain


@pytest.fixture(autouse=True)
def script(monkeypatch, root) -> None:
    monkeypatch.setattr("sys.argv", [str(root / "scripts/score.py")])


@pytest.fixture
def made(tmp_path) -> Path:
    """table.csv, made from rows.json (a user's) and a checkpoint."""
    (tmp_path / "rows.json").write_text("[]")
    folder = tmp_path / "check point"
    (folder / "deep").mkdir(parents=True)
    for name in ("config.json", "deep/weights"):
        (folder / name).write_text(name)
    rows = verified(tmp_path / "rows.json")
    write_manifest(manifest_path(folder), folder, rows, {"epochs": 3}, final_loss=0.5)
    table = tmp_path / "table.csv"
    table.write_text("a,b\n")
    record([table], verified(tmp_path / "rows.json", folder), {"seed": 1})
    return table


def test_a_manifest_lists_every_file_the_settings_and_every_package(made) -> None:
    manifest = json.loads(manifest_path(made.with_name("check point")).read_text())
    assert {name: one["bytes"] for name, one in manifest["files"].items()} == {"config.json": 11, "deep/weights": 12}
    assert manifest["settings"] == {"epochs": 3} and manifest["final_loss"] == 0.5
    assert set(manifest["versions"]) == {"python", *PACKAGES}


def test_what_is_as_it_was_made_is_accepted_with_equal_hashes(made) -> None:
    inputs = (made, made.with_name("rows.json"), made.with_name("check point"))
    assert verified(*inputs) == verified(*inputs)
    assert all(len(found) == 64 for found in verified(*inputs).values())
    (made.with_name("check point") / ".snakemake_timestamp").touch()
    assert verified(*inputs)


def test_of_a_model_of_the_hub_the_commit_is_on_record(tmp_path, monkeypatch) -> None:
    inputs = verified("org/name")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    (tmp_path / "models--org--name/refs").mkdir(parents=True)
    (tmp_path / "models--org--name/refs/main").write_text("abc123")
    (tmp_path / "a.json").write_text("{}")
    record([tmp_path / "a.json"], inputs, {})
    assert json.loads(record_path(tmp_path / "a.json").read_text())["made_from"] == {"org/name": "abc123"}


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flipped(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(bytes([content[0] ^ 1]) + content[1:])


def emptied(path: Path) -> None:
    path.write_text("")


def reseeded(path: Path) -> None:
    path.write_text(path.read_text().replace('"seed": 1', '"seed": 2'))


def absent(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize(
    ("file", "change", "read", "words"),
    [
        ("table.csv", truncated, "table.csv", ("table.csv: is not as it was made: it has 3 of 4 bytes",)),
        ("table.csv", flipped, "table.csv", ("table.csv: is not as it was made: its sha256",)),
        ("check point.json", flipped, "check point", ("check point.json: is not as it was made",)),
        ("check point/config.json", flipped, "check point", ("check point/config.json", "it is another")),
        ("check point/deep/weights", absent, "check point", ("check point/deep/weights", "it is missing")),
        ("check point/more", Path.touch, "check point", ("check point/more", "it was not there")),
        (".provenance/table.csv.json", emptied, "table.csv", (".provenance/table.csv.json", "what was written")),
        (".provenance/table.csv.json", reseeded, "table.csv", (".provenance/table.csv.json", "what was written")),
        (".provenance/check point.json.json", emptied, "check point", (".provenance/check point.json.json",)),
    ],
)
def test_what_is_not_as_it_was_made_is_refused_with_the_command_that_makes_it_anew(
    made, refused, file, change, read, words
) -> None:
    change(made.with_name(read).parent / file)
    artifact = manifest_path(made.with_name(read)) if read == "check point" else made.with_name(read)
    with refused(*words, f"snakemake --cores all --forcerun {shlex.quote(str(artifact))} makes it anew"):
        verified(made.with_name(read))


def test_before_a_run_only_what_is_on_record_is_looked_at(made, refused) -> None:
    flipped(made.with_name("rows.json"))
    check_recorded(made, made.with_name("rows.json"), made.with_name("nowhere"))
    flipped(made)
    with refused("table.csv"):
        check_recorded(made)


def test_the_chain_goes_back_to_what_no_stage_made(made, root) -> None:
    links = {Path(link.path).name: link for link in chain([made])}
    assert list(links) == ["table.csv", "rows.json", "check point.json"]
    assert not any(link.problems or link.notes for link in links.values())
    assert links["rows.json"].record is None
    told = "\n".join(links["table.csv"].lines())
    for fact in ("scripts/score.py", '{"seed": 1}', "torch ", "rows.json (sha256 "):
        assert fact in told
    assert "pedalign/evaluation/metrics.py" in links["table.csv"].record["code"]


def test_the_chain_names_what_was_changed_and_what_was_made_anew(made) -> None:
    flipped(made.with_name("check point") / "config.json")
    flipped(made.with_name("rows.json"))
    problems = {Path(link.path).name: " ".join(link.problems) for link in chain([made])}
    assert "config.json: is not as it was made" in problems["check point.json"]
    assert "rows.json is another than it was made from" in problems["table.csv"]


def test_the_chain_notes_code_and_versions_that_have_changed_since(made, root, tmp_path, monkeypatch) -> None:
    shutil.copytree(root / "scripts", tmp_path / "scripts")
    monkeypatch.setattr("pedalign.core.provenance.ROOT", tmp_path)
    with (tmp_path / "scripts/score.py").open("a") as file:
        file.write("# only a comment\n")
    assert next(iter(chain([made]))).notes == []
    with (tmp_path / "scripts/pedalign/evaluation/metrics.py").open("a") as file:
        file.write("changed = 1\n")
    module.cache_clear()
    monkeypatch.setattr("pedalign.core.provenance_chain.versions", lambda: {**versions(), "torch": "1.0"})
    link = next(iter(chain([made])))
    assert link.notes == ["other code: pedalign/evaluation/metrics.py", "other versions: torch"]
    assert not link.problems


def test_an_artifact_that_a_person_accepts_is_on_record_as_accepted_and_not_as_made(made, root, tmp_path, monkeypatch):
    shutil.copytree(root / "scripts", tmp_path / "scripts")
    monkeypatch.setattr("pedalign.core.provenance.ROOT", tmp_path)
    with (tmp_path / "scripts/pedalign/evaluation/metrics.py").open("a") as file:
        file.write("changed = 1\n")
    module.cache_clear()
    before = read_record(made)
    accept(made, "code changed: pedalign/evaluation/metrics.py")
    after = read_record(made)
    assert {**after, "accepted": None} == {**before, "accepted": None}
    link = next(iter(chain([made])))
    assert not link.notes and not link.problems
    assert "though stale: code changed: pedalign/evaluation/metrics.py" in "\n".join(link.lines())
    accept(made.with_name("rows.json"), "no stage made it")
    assert not record_path(made.with_name("rows.json")).exists()


def test_what_is_not_as_it_was_made_can_not_be_accepted(made, refused) -> None:
    flipped(made)
    with refused("table.csv: is not as it was made"):
        accept(made, "")


def test_the_chain_names_a_record_that_was_changed(made) -> None:
    reseeded(record_path(made))
    (link,) = chain([made])
    assert link.record is None and "does not hold what was written" in link.problems[0]
