"""Talk to a tutor, or to two on the same conversation: in the terminal, or on a page in the browser.

Reads   checkpoints that the workflow made, and their records, which say how to prompt them
Writes  the conversation, if you save it: a conversation file that the workflow accepts

    python scripts/chat.py results/tiny/dpo-b0.1/checkpoint
    python scripts/chat.py results/tiny/sft/checkpoint results/tiny/dpo-b0.1/checkpoint --web
"""

import os
import readline  # noqa: F401 (input() is edited by it)
import signal
import socket
import sys
import tempfile
import threading
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pedalign
from pedalign.chat.problems import known_problems
from pedalign.core.artifacts import write_records
from pedalign.core.errors import UserError, argument_parser, printable, run
from pedalign.core.provenance import expect_checkpoint

if TYPE_CHECKING:
    from pedalign.chat.dialogue import Talk

HELP = "  :save FILE  the conversation, for the workflow    :new  another conversation    :help    :quit"
TAKE = "  :take N     go on with the reply of tutor N (else with the last one's)"
_READING = threading.Event()  # set while the student writes


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("checkpoints", type=Path, nargs="+", help="folders of one tutor or two")
    parser.add_argument("--web", action="store_true", help="a page in the browser, on this machine alone")
    parser.add_argument("--port", type=int, default=7860, help="of the page")
    args = parser.parse_args()

    os.environ.setdefault("TQDM_DISABLE", "1")  # bars of libraries
    if len(args.checkpoints) > 2:
        raise UserError(f"{len(args.checkpoints)} checkpoints", "name one or two")
    if len({checkpoint.resolve() for checkpoint in args.checkpoints}) < len(args.checkpoints):
        raise UserError(f"{args.checkpoints[0]}: named twice", "name one tutor, or two")
    for checkpoint in args.checkpoints:
        expect_checkpoint(checkpoint)
    if args.web:
        _expect_free(args.port)
        for number in (signal.SIGTERM, signal.SIGHUP):  # such as when the terminal closes: remove the files
            signal.signal(number, lambda number, _: sys.exit(128 + number))
        with tempfile.TemporaryDirectory(prefix="pedalign-") as folder:  # only for this user
            os.environ["GRADIO_TEMP_DIR"] = folder  # before Gradio is imported
            from pedalign.chat.page import serve

            print(f"loading {' and '.join(map(str, args.checkpoints))} ...", flush=True)
            serve(_load(args.checkpoints), args.port, Path(folder), known_problems(args.checkpoints[-1]))
    else:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # the parent process may ignore it
        _converse(_loading(args.checkpoints), len(args.checkpoints), known_problems(args.checkpoints[-1], 5))


def _expect_free(port: int) -> None:
    """Raises UserError if no page can be served on the port. Checked first, as loading a tutor can take minutes."""
    why = "" if 0 < port < 65536 else "not between 1 and 65535"
    if not why:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError as error:
                why = error.strerror or str(error)
    if why:
        raise UserError(f"--port {port}: {why}", "name another port, or end what listens there")


def _load(checkpoints: list[Path]) -> "Talk":
    pedalign.collect_seldom()
    with pedalign.unseen("scipy", "sklearn"):  # transformers imports them for losses: a sixth of the start-up
        from pedalign.chat.dialogue import Talk, Tutor, tutor_names

    pedalign.collect_as_usual()
    return Talk([Tutor(*named) for named in zip(checkpoints, tutor_names(checkpoints), strict=True)])


def _loading(checkpoints: list[Path]) -> "Future[Talk]":
    """Load the tutors in a thread, while the student writes. If that fails, the student's input is interrupted."""
    loading: Future[Talk] = Future()

    def load() -> None:
        try:
            loading.set_result(_load(checkpoints))
        except BaseException as error:
            loading.set_exception(error)
            if _READING.is_set():
                os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=load, daemon=True).start()
    return loading


def _converse(loading: "Future[Talk]", tutors: int, problems: list[str]) -> None:
    print("Write as a student would, a problem first ('Q. How does ...?'). Below each reply are its labels.")
    known = "".join(f"\n  {printable(problem)}" for problem in problems)
    print(f"It was trained on problems such as:{known}" if known else "Which problems it was trained on is not known.")
    commands = f"{HELP}\n{TAKE}" if tutors > 1 else HELP
    print(f"{commands}\n", flush=True)
    while (line := _next_line(loading)) != ":quit":
        command, _, argument = line.partition(" ")
        argument = argument.strip()
        try:
            if line and not command.startswith(":"):
                _ask(loading.result(), line)
            elif command == ":save" and argument:
                _save(loading.result(), Path(argument))
            elif command == ":save":
                print("':save' needs the name of a file")
            elif command == ":help":
                print(f"trained on problems such as:{known}\n{commands}" if known else commands)
            elif command == ":new":
                talk = loading.result()
                talk.messages, talk.replies = [], []
                print("a new conversation")
            elif command == ":take" and argument in map(str, range(1, tutors + 1)):
                loading.result().taken = int(argument) - 1
                print(f"going on with the replies of {loading.result().tutors[int(argument) - 1].name}")
            elif line:
                print(f"'{printable(line)}' is not known\n{commands}")
        except KeyboardInterrupt:
            _raise_failed(loading)
            print("\nstopped; what you wrote last is forgotten")
    if not loading.done():  # else Python would wait for its thread
        sys.stdout.flush()
        os._exit(0)


def _next_line(loading: "Future[Talk]") -> str:
    """What the student writes, stripped; bytes that are not UTF-8 become question marks."""
    while True:
        try:
            _READING.set()
            return input("student> ").strip().encode(errors="replace").decode()
        except EOFError:
            print()
            return ":quit"
        except KeyboardInterrupt:
            _raise_failed(loading)
            print("\n:quit ends")
        finally:
            _READING.clear()


def _raise_failed(loading: "Future[Talk]") -> None:
    """Raise the error with which loading the tutors failed, if it did."""
    if loading.done() and loading.exception():
        print()
        loading.result()


def _ask(talk: "Talk", question: str) -> None:
    try:
        replies = talk.ask(question)
    except UserError as error:
        print(f"{error.problem}; {error.remedy}\n")
        return
    for at, (tutor, reply) in enumerate(zip(talk.tutors, replies, strict=True)):
        name = f"{at + 1}: {tutor.name}" if len(talk.tutors) > 1 else tutor.name
        print(_told(name, reply, talk), flush=True)


def _told(name: str, reply: dict[str, Any], talk: "Talk") -> str:
    """A reply as the student reads it, with its labels; if it can't be parsed, as the model wrote it."""
    if reply["defect"]:
        return f"\n{name} (can't be read: {printable(reply['defect'])})\n{printable(reply['text'])}\n"
    labels = [f"  {line}" for line in talk.label_lines(reply)]
    return "\n".join([f"\n{name}> {printable(reply['text'])}", *labels, ""])


def _save(talk: "Talk", named: Path) -> None:
    """Save the conversation; if that fails, say why and go on."""
    if not talk.replies:
        print("nothing was said yet")
        return
    try:
        path = named.expanduser().absolute()
        if path.exists():
            raise UserError(f"{path}: is there already", "name another file")
        write_records(path, [talk.record()])
        print(f"{path}: {len(talk.all_messages())} turns")
    except UserError as error:
        print(f"{error.problem}; {error.remedy}")
    except (OSError, RuntimeError) as error:  # RuntimeError: the home folder is not known
        print(f"{named}: not saved: {getattr(error, 'strerror', None) or error}; name another file")


if __name__ == "__main__":
    run(main)
