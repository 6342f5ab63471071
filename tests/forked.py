"""Programs as processes of their own, forked from one that has already imported what takes them seconds each time.

A call of Snakemake starts its jobs in this way too: the command `python` is another one for them (`_stand_in`).
"""

import atexit
import functools
import gc
import importlib
import json
import os
import runpy
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import warnings
from pathlib import Path
from typing import TextIO

ROOT = Path(__file__).parents[1]
SERVER = "PEDALIGN_FORK_SERVER"  # names the socket of the server that forks scripts
# Nothing of this repository: a call loads that of its checkout.
LOADED = {
    "snakemake": (
        *("snakemake.cli", "snakemake.report.html_reporter", "snakemake_executor_plugin_slurm", "pandas"),
        *("docutils.parsers.rst.directives.images", "jsonschema", "smart_open", "tqdm"),
    ),
    "script": (
        *("torch._dynamo", "torch.distributed.tensor", "torch.utils.tensorboard"),
        *("transformers.trainer", "transformers.models.auto.modeling_auto", "transformers.models.llama.modeling_llama"),
        *("transformers.generation.continuous_batching", "trl.trainer.dpo_trainer", "trl.trainer.kto_trainer"),
        *("peft", "datasets", "fastchat.conversation", "sklearn.metrics", "scipy.stats", "altair", "yaml", "tqdm"),
    ),
}
ACCELERATE = "accelerate.commands.launch"
SECONDS = 900  # at most, for a call


@functools.cache
def server(kind: str) -> str:
    """The socket of a server, which ends with this process."""
    folder = tempfile.mkdtemp(prefix="fork-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    path = f"{folder}/server"
    environment = {**os.environ, "TQDM_DISABLE": "1"}
    server = subprocess.Popen([sys.executable, __file__, kind, path], env=environment, stdin=subprocess.PIPE)
    atexit.register(server.kill)
    return path


def _answer(
    kind: str, folder: Path, command: list[str], environment: dict[str, str], given: str = ""
) -> subprocess.CompletedProcess:
    with (
        tempfile.TemporaryFile("w+") as stdin,
        tempfile.TemporaryFile("w+") as out,
        tempfile.TemporaryFile("w+") as err,
    ):
        stdin.write(given)
        stdin.seek(0)
        files = [file.fileno() for file in (stdin, out, err)]
        with _ask(server(kind), command, str(folder), environment, files) as answer:
            answer.readline()  # its process
            status = int(answer.readline() or 1)
        return subprocess.CompletedProcess(command, status, *(file.seek(0) or file.read() for file in (out, err)))


def _ask(path: str, command: list[str], folder: str, environment: dict[str, str], files: list[int]) -> TextIO:
    """What the server at a socket says of the process that it forks: a line with its number, one with its status."""
    connection = socket.socket(socket.AF_UNIX)
    while True:
        try:
            connection.connect(path)
            break
        except (FileNotFoundError, ConnectionRefusedError):  # it still imports
            time.sleep(0.1)
    socket.send_fds(connection, [b"\n"], files)
    asked = {"command": command, "folder": folder, "environment": environment}
    connection.sendall(json.dumps(asked).encode() + b"\n")
    return connection.makefile()


def _stand_in(python: str, *command: str) -> None:
    """What a job's command `python` is: a script, and accelerate, which starts scripts in several processes, are run by
    a process that the server forks, all else by Python."""
    words = [*command[1:]] if command[:1] == ("-u",) else [*command]
    if not words or not (words[0].endswith(".py") or words[:2] == ["-m", ACCELERATE]):
        os.execv(python, [python, *command])
    answer = _ask(os.environ[SERVER], words, os.getcwd(), dict(os.environ), [0, 1, 2])
    child = int(answer.readline())
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: os.kill(child, number))
    status = int(answer.readline() or 1)
    if status < 0:
        signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    sys.exit(status)


def snakemake(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    """What the command would do there, with this process's environment of now."""
    command = shutil.which("snakemake")
    assert command
    environment = {**os.environ, SERVER: server("script"), "PATH": f"{python().parent}:{os.environ['PATH']}"}
    return _answer("snakemake", folder, [command, *arguments], environment)


@functools.cache
def python() -> Path:
    """A command `python` that lets the server run scripts; `SERVER` is in its environment."""
    path = Path(server("script")).with_name("python")
    path.write_text(f"#!/bin/sh\nexec '{sys.executable}' -IS '{__file__}' job '{sys.executable}' \"$@\"\n")
    path.chmod(0o755)
    return path


def script(name: str, *arguments: object, given: str = "") -> subprocess.CompletedProcess:
    """What a script would do, called in the root. What libraries read of the environment when they are imported, they
    have read before."""
    return _answer("script", ROOT, [f"scripts/{name}.py", *map(str, arguments)], dict(os.environ), given)


def _serve(kind: str, path: str) -> None:
    sys.path[0] = os.devnull  # in place of this file's folder
    for name in LOADED[kind]:
        importlib.import_module(name)
    gc.freeze()  # which it shares with its children
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        while sys.stdin not in select.select([listener, sys.stdin], [], [])[0]:  # closed as this server's parent ends
            connection, _ = listener.accept()
            if not os.fork():
                listener.close()
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                _tend(connection)
            connection.close()


def _tend(connection: socket.socket) -> None:
    """Fork the process that is asked for, say its number and how it ends, and kill it if nobody waits for it."""
    _, files, _, _ = socket.recv_fds(connection, 1, 3)
    asked = json.loads(connection.makefile().readline())
    child = os.fork()
    if not child:
        connection.close()
        _become(**asked, files=files)
    connection.sendall(f"{child}\n".encode())
    ended = os.pidfd_open(child)
    if ended not in select.select([ended, connection], [], [])[0]:
        os.kill(child, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    try:
        connection.sendall(f"{status}\n".encode())
    finally:
        os._exit(0)


def _become(command: list[str], folder: str, environment: dict[str, str], files: list[int]) -> None:
    signal.alarm(SECONDS)
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    sys.stdin = os.fdopen(0, closefd=False)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    if SERVER in environment:
        sys.executable = str(Path(environment[SERVER]).with_name("python"))
    if "torch" in sys.modules and "OMP_NUM_THREADS" in environment:
        sys.modules["torch"].set_num_threads(int(environment["OMP_NUM_THREADS"]))
    for option in filter(None, environment.get("PYTHONWARNINGS", "").split(",")):
        warnings._setoption(option)  # which Python does as it starts
    sys.argv = command[command[0] == "-m" :]
    sys.path[0] = folder if command[0] == "-m" else str(Path(command[0]).resolve().parent)
    status: object = 0
    try:
        if command[0] == "-m":
            runpy.run_module(command[1], run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(command[0], run_name="__main__")
    except SystemExit as ended:
        status = ended.code or 0
    except BaseException:
        traceback.print_exc()
        status = 1
    if not isinstance(status, int):  # as Python does with what a script is ended with
        print(status, file=sys.stderr)
        status = 1
    # As Python ends, but that it takes nothing apart of what is loaded: that takes a second.
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    kind, *arguments = sys.argv[1:]
    _stand_in(*arguments) if kind == "job" else _serve(kind, *arguments)
