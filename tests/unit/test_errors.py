"""What ends a script: two lines for what a user can fix, a traceback for what is a bug."""

import errno
import gc
import os
import subprocess
import sys

import pytest

from pedalign.core.errors import UserError, argument_parser, run


def ended(main) -> str:
    with pytest.raises(SystemExit) as caught:
        run(main)
    return str(caught.value)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM])
def test_a_disk_that_takes_nothing_is_told_with_the_file_and_what_helps(number: int) -> None:
    def main() -> None:
        raise OSError(number, os.strerror(number), "results/a.json")

    first, second = ended(main).splitlines()
    assert first == f"error: results/a.json: {os.strerror(number)}"
    assert second.startswith("  fix: ") and "'results' in config.yaml" in second


def test_any_other_error_of_the_system_is_a_bug() -> None:
    def main() -> None:
        raise OSError(errno.EIO, "Input/output error", "a")

    with pytest.raises(OSError, match="Input/output"):
        run(main)


def test_a_text_in_a_message_moves_no_cursor_and_turns_no_direction() -> None:
    error = UserError("id '\x1b[2J\u202eb\ud800 é\n漢'", "x\x07")
    assert str(error) == "error: id '\\x1b[2J\\u202eb\\ud800 é 漢'\n  fix: x\\x07"


def test_a_wrong_command_line_is_a_users_mistake() -> None:
    def main() -> None:
        parser = argument_parser("What it does.")
        parser.add_argument("--count", type=int)
        parser.parse_args(["--count", "many"])

    assert "--count: invalid int value: 'many'" in ended(main)
    assert "--help says what it takes" in ended(main)


def test_a_script_works_with_pythons_usual_collection_of_garbage() -> None:
    usual = subprocess.run(
        [sys.executable, "-c", "import gc; print(gc.get_threshold())"], capture_output=True, text=True, check=True
    )
    seen = []
    run(lambda: seen.append((str(gc.get_threshold()), gc.isenabled())))
    assert seen == [(usual.stdout.strip(), True)]
