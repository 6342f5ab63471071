"""Text that no one can trust: many inputs, drawn by what they reach in the code, end in a result or in two lines."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

FUZZ = Path(__file__).parent / "fuzz.py"
TARGETS = ("reply", "conversations", "importer", "bank", "config")
IN_CI = 10_000  # inputs of each; docs/trust.md tells of a million


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_no_input_ends_in_a_crash_takes_a_second_or_much_memory(target: str) -> None:
    # By a shell that stays: a process inherits the peak of its parent's memory, here with PyTorch in it.
    command = ["bash", "-c", '"$@"; exit $?', "_", sys.executable, str(FUZZ), target, "--inputs", str(IN_CI)]
    answer = subprocess.run(command, capture_output=True, text=True, errors="replace")
    assert answer.returncode == 0, answer.stderr[-3000:]
    assert int(re.findall(r"Done (\d+) runs", answer.stderr)[-1]) >= IN_CI
