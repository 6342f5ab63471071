"""What a killed call of Snakemake had locked is told from what a living one has locked."""

import subprocess
import sys

import pytest

from pedalign.cluster.snakemake_calls import LIVING, LOCKS, check_command_line, locked_by_the_dead

CALL = (
    "import sys; from pedalign.cluster.snakemake_calls import live; "
    "live(); print('lives', flush=True); sys.stdin.read()"
)


@pytest.fixture(autouse=True)
def locked(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    LOCKS.mkdir(parents=True)
    (LOCKS / "0.input.lock").write_text("a file")


@pytest.fixture
def call(locked):
    with subprocess.Popen([sys.executable, "-c", CALL], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"lives\n"
        yield process
        process.kill()


def test_the_locks_of_a_living_call_are_not_taken_for_a_dead_ones(call, refused) -> None:
    with refused("another call of Snakemake works in this folder"):
        locked_by_the_dead()
    call.kill()
    call.wait()
    assert locked_by_the_dead()


def test_a_second_call_that_ended_says_nothing_of_the_first(call, refused) -> None:
    subprocess.run([sys.executable, "-c", CALL], input=b"", check=True, capture_output=True)
    with refused("another call of Snakemake works in this folder"):
        locked_by_the_dead()


def test_what_a_call_on_another_machine_locked_is_left_alone(call, refused) -> None:
    call.kill()
    call.wait()
    with LIVING.open("a") as file:
        file.write("elsewhere\n")
    with refused("may still run on elsewhere", "snakemake --unlock"):
        locked_by_the_dead()


def test_without_locks_nothing_is_unlocked() -> None:
    (LOCKS / "0.input.lock").unlink()
    assert not locked_by_the_dead()
    assert not LIVING.exists()


def said_of(monkeypatch, *arguments: object) -> str:
    """What the check of a command line says, if anything."""
    monkeypatch.setattr(sys, "argv", ["snakemake", *map(str, arguments)])
    try:
        check_command_line()
    except SystemExit as ended:
        return str(ended.code)
    return ""


@pytest.mark.parametrize(
    ("name", "content", "problem", "fix"),
    [
        ("all", None, "there is no such file", "put targets first"),
        ("nope.yaml", None, "there is no such file", "check the path"),
        ("made.json", b"{}", "this was made by the workflow", "put targets first"),
        ("table.csv", b"a,b\n1,2\n", "this has no names at its top level", "put targets first"),
        ("empty.yaml", b"", "this has no names at its top level", "write it as config.yaml is written"),
        ("list.json", b"[1]", "this has no names at its top level", "write it as config.yaml is written"),
        ("typo.yaml", b"seed: 7\nsplits: {sft: 3\n", "this is neither JSON nor YAML (line 3: ", "write it as config"),
        ("weights", b"\xff\x00", "this can't be read: 'utf-8' codec", "put targets first"),
        ("deep.json", b"[" * 10**5, "this can't be read: ", "write it as config.yaml is written"),
        ("results", "a folder", "this is a folder", "put targets first"),
    ],
)
def test_what_is_no_settings_file_is_refused_after_configfile(
    tmp_path, monkeypatch, name, content, problem, fix
) -> None:
    (tmp_path / "my.yaml").write_text("seed: 7")
    (tmp_path / ".provenance").mkdir()
    (tmp_path / ".provenance/made.json.json").write_text("{}")
    if isinstance(content, bytes):
        (tmp_path / name).write_bytes(content)
    elif content:
        (tmp_path / name).mkdir()
    error, told = said_of(monkeypatch, "--cores", 1, "--configfile", "my.yaml", name, "-n").splitlines()
    assert error.startswith(
        f"error: {name}: Snakemake reads what follows --configfile as a settings file, and {problem}"
    )
    assert told.startswith(f"  fix: {fix}")
    if fix.startswith("put"):
        assert told.endswith("(snakemake --cores all TARGET --configfile my.yaml), or after --")


@pytest.mark.parametrize(
    "arguments",
    [
        ["all", "--configfile", "my.yaml", "other.json"],
        ["--configfile", "my.yaml", "--", "all"],
        ["--configfile=my.yaml", "all"],
        ["--configfile", "my.yaml", "--cores", "all", "all"],
        ["all", "--config", "seed=7", "results=other", "--conda-prefix", "all"],
        ["-C", "seed=7", "--", "all"],
        ["--configfile", "/dev/stdin"],
        ["all"],
    ],
)
def test_what_snakemake_reads_rightly_is_let_through(tmp_path, monkeypatch, arguments) -> None:
    (tmp_path / "my.yaml").write_text("seed: 7")
    (tmp_path / "other.json").write_text('{"seed": 8}')
    assert said_of(monkeypatch, *arguments) == ""
