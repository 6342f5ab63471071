"""Text that no one can trust: many inputs, drawn by what they reach in the code, end in a result or in two lines."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

FUZZ = Path(__file__).parent / "fuzz.py"
TARGETS = ("reply", "conversations", "importer", "bank")
IN_CI = 2_000  # inputs of each; docs/explanation/trust.md tells of a million


def fuzzed(target: str, *arguments: str, temporary: Path) -> subprocess.CompletedProcess:
    # By a shell that stays: a process inherits the peak of its parent's memory, here with PyTorch in it.
    command = ["bash", "-c", '"$@"; exit $?', "_", sys.executable, str(FUZZ), target, *arguments]
    environment = {**os.environ, "TMPDIR": str(temporary)}
    return subprocess.run(command, capture_output=True, text=True, errors="replace", env=environment)


@pytest.mark.parametrize("target", TARGETS)
def test_what_was_found_once_is_mended(target: str, tmp_path: Path) -> None:
    answer = fuzzed(target, "--found", temporary=tmp_path)
    assert answer.returncode == 0, answer.stderr[-3000:]
    assert len(answer.stdout.splitlines()) == len(list(FUZZ.with_name("found").glob(f"{target}-*"))) > 0


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_no_input_ends_in_a_crash_takes_a_second_or_much_memory(target: str, tmp_path: Path) -> None:
    answer = fuzzed(target, "--inputs", str(IN_CI), temporary=tmp_path)
    assert answer.returncode == 0, answer.stderr[-3000:]
    assert int(re.findall(r"Done (\d+) runs", answer.stderr)[-1]) >= IN_CI
