"""Programs as processes of their own, forked from one that has imported already what takes them seconds each time."""

import atexit
import functools
import gc
import importlib
import json
import os
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
from pathlib import Path

ROOT = Path(__file__).parents[1]
# Nothing of this repository: a call loads that of its checkout.
LOADED = {
    "snakemake": (
        *("snakemake.cli", "snakemake.report.html_reporter", "snakemake_executor_plugin_slurm", "pandas"),
        *("docutils.parsers.rst.directives.images", "jsonschema", "smart_open", "tqdm"),
    ),
    "script": (
        *(
            "torch._dynamo",
            "torch.distributed.tensor",
            "transformers.trainer",
            "transformers.models.auto.modeling_auto",
        ),
        *(
            "transformers.models.llama.modeling_llama",
            "transformers.generation.continuous_batching",
            "peft",
            "datasets",
        ),
        *("sklearn.metrics", "scipy.stats", "jsonschema", "yaml", "tqdm"),
    ),
}
SECONDS = 900  # at most, for a call


@functools.cache
def _server(kind: str) -> subprocess.Popen:
    """Of this process; it ends with it."""
    command, environment = [sys.executable, __file__, kind], {**os.environ, "TQDM_DISABLE": "1"}
    return subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def _answer(kind: str, folder: Path, command: list[str], given: str = "") -> subprocess.CompletedProcess:
    with tempfile.TemporaryDirectory() as held:
        files = [Path(held, name) for name in ("stdin", "stdout", "stderr")]
        files[0].write_text(given)
        asked = {"command": command, "folder": str(folder), "environment": dict(os.environ)}
        server = _server(kind)
        print(json.dumps(asked | {"files": [str(file) for file in files]}), file=server.stdin, flush=True)
        status = json.loads(server.stdout.readline())
        return subprocess.CompletedProcess(command, status, *(file.read_text() for file in files[1:]))


def snakemake(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    """What the command would do there, with this process's environment of now."""
    command = shutil.which("snakemake")
    assert command
    return _answer("snakemake", folder, [command, *arguments])


def script(name: str, *arguments: object, given: str = "") -> subprocess.CompletedProcess:
    """What a script would do, called in the root. What libraries read of the environment when they are imported, they
    have read before."""
    return _answer("script", ROOT, [f"scripts/{name}.py", *map(str, arguments)], given)


def _serve(kind: str) -> None:
    sys.path[0] = os.devnull  # in place of this file's folder
    for name in LOADED[kind]:
        importlib.import_module(name)
    gc.freeze()  # which it shares with its children
    for line in sys.stdin:
        child = os.fork()
        if not child:
            _become(**json.loads(line))
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def _become(command: list[str], folder: str, environment: dict[str, str], files: list[str]) -> None:
    signal.alarm(SECONDS)
    for number, file in enumerate(files):
        os.dup2(os.open(file, os.O_RDWR | os.O_CREAT), number)
    sys.stdin = os.fdopen(0, closefd=False)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.argv = command
    sys.path[0] = str(Path(command[0]).resolve().parent)
    status: object = 0
    try:
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
    _serve(sys.argv[1])
