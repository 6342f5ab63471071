"""Talk to a tutor, or to two on the same conversation: in the terminal, or on a page in the browser.

Reads   checkpoints that the workflow made; how they are asked, it knows from their records
Writes  the conversation where you say so: a conversation file that the workflow accepts

    python scripts/chat.py results/tiny/dpo-b0.1/checkpoint
    python scripts/chat.py results/tiny/sft/checkpoint results/tiny/dpo-b0.1/checkpoint --web
"""

import os
import readline  # noqa: F401 (input() is edited by it)
import signal
import sys
import tempfile
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pedalign
from pedalign.artifacts import write_records
from pedalign.errors import UserError, argument_parser, printable, run
from pedalign.provenance import expect_checkpoint

if TYPE_CHECKING:
    from pedalign.talk import Talk

HELP = "  :save FILE  the conversation, for the workflow    :new  another conversation    :quit"
TAKE = "  :take N     go on with the reply of tutor N (else with the last one's)"


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("checkpoints", type=Path, nargs="+", help="folders of one tutor or two")
    parser.add_argument("--web", action="store_true", help="a page in the browser, on this machine alone")
    parser.add_argument("--port", type=int, default=7860, help="of the page")
    args = parser.parse_args()

    os.environ.setdefault("TQDM_DISABLE", "1")  # bars of libraries
    if len(args.checkpoints) > 2:
        raise UserError(f"{len(args.checkpoints)} checkpoints", "name one or two")
    for checkpoint in args.checkpoints:
        expect_checkpoint(checkpoint)
    if args.web:
        for number in (signal.SIGTERM, signal.SIGHUP):  # as where the terminal is closed: the files are removed
            signal.signal(number, lambda number, _: sys.exit(128 + number))
        with tempfile.TemporaryDirectory(prefix="pedalign-") as folder:  # of this user alone
            os.environ["GRADIO_TEMP_DIR"] = folder  # before Gradio is imported
            from pedalign.chat_page import serve

            serve(_load(args.checkpoints), args.port, Path(folder))
    else:
        with ThreadPoolExecutor(1) as pool:  # they are loaded while the student writes
            _converse(pool.submit(_load, args.checkpoints), len(args.checkpoints))


def _load(checkpoints: list[Path]) -> "Talk":
    pedalign.collect_seldom()
    from pedalign.talk import Talk, Tutor

    pedalign.collect_as_usual()
    return Talk([Tutor(checkpoint) for checkpoint in checkpoints])


def _converse(loading: "Future[Talk]", tutors: int) -> None:
    print("Write as a student would, a problem first ('Q. How does ...?'); under a reply stand its labels.")
    print(f"{HELP}\n{TAKE}\n" if tutors > 1 else f"{HELP}\n", flush=True)
    while (line := _next_line()) != ":quit":
        command, _, argument = line.partition(" ")
        if line.strip() and not command.startswith(":"):
            talk = loading.result()
            for tutor, reply in zip(talk.tutors, talk.ask(line.strip()), strict=True):
                print(_told(tutor.name, reply, talk), flush=True)
        elif command == ":save" and argument:
            _save(loading.result(), Path(argument.strip()))
        elif command == ":new":
            talk = loading.result()
            talk.messages, talk.replies = [], []
            print("a new conversation")
        elif command == ":take" and argument.strip() in map(str, range(1, tutors + 1)):
            loading.result().taken = int(argument) - 1
            print(f"going on with the replies of {loading.result().tutors[int(argument) - 1].name}")
        elif line.strip():
            print(f"'{printable(line)}' is not known\n{HELP}")


def _next_line() -> str:
    try:
        return input("student> ")
    except (EOFError, KeyboardInterrupt):
        print()
        return ":quit"


def _told(name: str, reply: dict[str, Any], talk: "Talk") -> str:
    """A reply as the student reads it, with its labels; one that can't be read, as the model wrote it."""
    if reply["defect"]:
        return f"\n{name} (can't be read: {printable(reply['defect'])})\n{printable(reply['text'])}\n"
    labels = [f"  {line}" for line in talk.label_lines(reply)]
    return "\n".join([f"\n{name}> {printable(reply['text'])}", *labels, ""])


def _save(talk: "Talk", path: Path) -> None:
    if not talk.replies:
        print("nothing was said yet")
    elif path.exists():
        print(f"{path}: is there already; name another file")
    else:
        write_records(path, [talk.record()])
        print(f"{path}: {len(talk.all_messages())} turns")


if __name__ == "__main__":
    run(main)
