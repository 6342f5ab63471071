"""Long lists are read in parts, and what is held of them is little."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pedalign.core import json_stream
from pedalign.core.artifacts import read_csv, read_json, write_csv, write_records
from pedalign.core.errors import UserError
from pedalign.core.json_stream import Stored, Table, iterate_json, read_records

SAME_FOLDER = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
PARTS = st.integers(1, 9)  # characters at a time
CONVERSATIONS = (500, 2500)


def members(path: Path) -> list:
    return list(iterate_json(path, "things", "write a list of things"))


@SAME_FOLDER
@given(value=st.lists(JSON, max_size=5), indent=st.sampled_from([None, 0, 2]), around=st.text(" \n\t\r"), part=PARTS)
@example(value=[12345678901], indent=None, around="", part=1)
def test_a_list_in_any_layout_is_read_in_parts_as_it_is(tmp_path, monkeypatch, value, indent, around, part) -> None:
    monkeypatch.setattr(json_stream, "_PART", part)
    path = tmp_path / "a.json"
    path.write_text(around + json.dumps(value, indent=indent, ensure_ascii=False) + around, encoding="utf-8")
    assert members(path) == value


@SAME_FOLDER
@given(value=st.lists(JSON, min_size=1, max_size=3), data=st.data(), part=PARTS)
@example(value=[1], data=None, part=1)
def test_what_is_not_json_is_refused_in_the_words_of_reading_it_whole(tmp_path, monkeypatch, value, data, part) -> None:
    monkeypatch.setattr(json_stream, "_PART", part)
    text = json.dumps(value)
    if data:
        at = data.draw(st.integers(1, len(text) - 1))
        text = text[:at] + data.draw(st.sampled_from(["", "]", "}", ",", '"'])) + text[at + 1 :]
    else:
        text += "]"
    (tmp_path / "a.json").write_text(text)
    try:
        expected = json.loads(text)
    except ValueError:
        with pytest.raises(UserError) as whole:
            read_json(tmp_path / "a.json")
        with pytest.raises(UserError) as parts:
            members(tmp_path / "a.json")
        assert str(parts.value) == str(whole.value)
    else:
        assert members(tmp_path / "a.json") == expected


def test_the_place_of_a_bad_byte_is_that_in_the_file(tmp_path, monkeypatch, refused) -> None:
    monkeypatch.setattr(json_stream, "_PART", 4)
    (tmp_path / "a.json").write_bytes(b'["' + 20000 * b"a" + b'\xff"]')
    with refused("a.json", "byte 20002"):
        members(tmp_path / "a.json")


@SAME_FOLDER
@given(value=st.lists(st.dictionaries(st.text(), JSON, max_size=3), max_size=5), data=st.data())
def test_records_come_back_in_any_order(tmp_path, value, data) -> None:
    write_records(tmp_path / "a.json", value)
    stored = Stored()
    for one in value:
        stored.append(one)
    for read in (read_records(tmp_path / "a.json"), stored):
        assert list(read) == value and len(read) == len(value)
        if value:
            at = data.draw(st.integers(-len(value), len(value) - 1))
            assert read[at] == value[at]


def test_records_of_another_layout_are_read_and_broken_ones_refused(tmp_path, refused) -> None:
    path = tmp_path / "a.json"
    path.write_text('[{"a": 1},\n{"a": 2}]')
    assert list(read_records(path)) == [{"a": 1}, {"a": 2}]
    write_records(path, [{"a": 1}, {"a": 2}])
    whole = path.read_text()
    path.write_text(whole[:-4])
    with refused("a.json", "not JSON", "line 3"):
        read_records(path)
    path.write_text(whole.replace('{"a": 2}', '{"a"; 2}'))
    with refused("a.json", "not JSON", "line 3"):
        list(read_records(path))
    with refused("b.json", "no such file"):
        read_records(tmp_path / "b.json")


def test_a_table_can_be_read_again(tmp_path) -> None:
    write_csv(tmp_path / "a.csv", ("one", "other"), [("a\nb", '"'), ("", "\u2028")])
    table = Table(tmp_path / "a.csv", ("one",))
    assert list(table) == list(table) == read_csv(tmp_path / "a.csv")


@pytest.mark.slow
def test_five_times_the_conversations_take_little_more_memory(tmp_path, root) -> None:
    """They are 2.5 KB each in their file, and some 30 KB when they are held as objects."""
    held = {count: memory_by_stage(root, tmp_path / str(count), count) for count in CONVERSATIONS}
    few, many = (held[count] for count in CONVERSATIONS)
    grown = {stage: (many[stage] - few[stage]) / (CONVERSATIONS[1] - CONVERSATIONS[0]) for stage in few}
    assert max(grown.values()) < 3, f"KB per conversation: {grown}"


def memory_by_stage(root: Path, folder: Path, count: int) -> dict[str, int]:
    """The most KB that each stage holds, on simulated conversations; every second response is wrong."""
    data, rubric = folder / "data", root / "datasets/rubrics/class.yaml"
    draw = {"sft": 1, "dpo": count // 2, "test": count // 4, "seed": 1}
    pairs = {"paper_rules": False, "samples": 1}
    scoring = {"first_turn": False, "resamples": 5000, "seed": 1}
    responses = folder / "responses.csv"
    source = folder / "bio-dataset-1.json"

    def used(stage: str, *arguments: object) -> int:
        script = root / f"scripts/{stage}.py"
        command = [sys.executable, "-c", MEASURED, str(script), *map(str, arguments), "--rubric", str(rubric)]
        return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])

    problems = root / "datasets/bio-problems.yaml"
    script = root / "datasets/simulation.yaml"
    made = {
        "simulate": used(
            *("simulate", problems, "--dataset", "bio", "--output", folder, "--files", 1, "--pairs", 0),
            *("--conversations", count, "--script", script),
        )
    }
    made["split"] = used("split", source, "--dataset", "bio", "--output", data, "--settings", json.dumps(draw))
    rows = read_json(data / "bio-dpo_formatted.json")
    write_csv(
        responses,
        ("prompt", "response", "gpt", "conversation_id", "turn", "response_tokens", "finish_reason", "sample"),
        [
            ("", "hm" if at % 2 else gold, gold, row["conversation_id"], row["turn"], 1, "stop", 0)
            for at, row in enumerate(rows)
            for gold in [row["chosen"][0]["content"]]
        ],
    )
    formatted = data / "bio-dpo_formatted.json"
    made["pair"] = used(
        *("pair", formatted, responses, "--output", folder / "preferences.json", "--counts", folder / "counts.json"),
        *("--settings", json.dumps(pairs)),
    )
    for stage, files in (("score", [responses]), ("compare", [responses, responses])):
        made[stage] = used(
            stage, formatted, *files, "--output", folder / f"{stage}.json", "--settings", json.dumps(scoring)
        )
    return made


MEASURED = """
import runpy, sys
from pathlib import Path
sys.argv = sys.argv[1:]
sys.path.insert(0, str(Path(sys.argv[0]).parent))
runpy.run_path(sys.argv[0], run_name="__main__")
print(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])  # not ru_maxrss, which a parent hands on
"""
