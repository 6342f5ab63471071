"""Makes .venv: exact versions, each checked by its sha256 in constraints.txt. The Makefile calls it with a Python.

python envs/install.py         what a run needs
python envs/install.py test    the development tools on top

If neither a GPU nor Slurm is found, and PyTorch's own index can be reached, PyTorch is the build without CUDA, a third
of the size. TORCH=cpu or TORCH=cuda in the environment overrides this. Installed packages stay.
"""

import os
import re
import shutil
import subprocess
import sys
import time
from collections import deque
from pathlib import Path

VENV = Path(".venv")
PYTHON = VENV / "bin/python"
PIP = [str(PYTHON), "-m", "pip", "install", "--require-hashes"]
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
LARGE = 300  # MB from which a download is printed
_FETCHED = re.compile(r"\s*(Downloading|Using cached) (?:\S*/)?([\w.]+?)-\d\S* \(([\d.]+) ([kMG])B\)")
_UNITS = {"k": 1e-3, "M": 1.0, "G": 1e3}


def main() -> int:
    extras = sys.argv[1:]
    started = time.monotonic()
    before = installed() if PYTHON.exists() else {}
    if not extras:
        say(f"1/4 a Python environment in {VENV}")
        subprocess.run([sys.executable, "-m", "venv", str(VENV)], check=True)
        fetch([*PIP, "--quiet", "--requirement", "envs/pip.txt"])
        torch()
    say("3/4 the packages of a run" if not extras else "the development tools")
    direct = VENV / "direct.txt"
    direct.write_bytes(subprocess.run([PYTHON, "envs/direct.py", *extras], check=True, capture_output=True).stdout)
    fetch([*PIP, "--constraint", "constraints.txt", "--requirement", str(direct)])
    if not extras:
        say("4/4 this checkout")
        here = ["--no-deps", "--no-build-isolation", "--editable", "."]
        fetch([str(PYTHON), "-m", "pip", "install", "--quiet", *here])
    now = installed()
    new = len(now.keys() - before.keys())
    size = sum(path.lstat().st_blocks for path in VENV.rglob("*")) * 512 / 1e9
    what = f"{new} packages{f' more, {len(now)} in all' if before else ''}"
    say(f"done: {what}, with PyTorch {now['torch']}; {VENV} has {size:.1f} GB; {time.monotonic() - started:.0f} s")
    return 0


def torch() -> None:
    """Install PyTorch without CUDA, if CUDA is of no use; the build with CUDA comes with the other packages."""
    chosen, why = choice(os.environ)
    there = installed().get("torch", "")
    wanted = f"{'without' if chosen == 'cpu' else 'with'} CUDA ({why})"
    say(f"2/4 PyTorch {f'{there} stays' if there else wanted}")
    pins = re.findall(r"^torch==(\S+) \\\n((?:    --hash=.*\n)+)", Path("constraints.txt").read_text(), re.MULTILINE)
    if chosen != "cpu" or there or not (sys.platform == "linux" and os.uname().machine == "x86_64" and pins):
        return
    pinned = VENV / "torch.txt"
    pinned.write_text("".join(f"torch=={version}+cpu \\\n{hashes}" for version, hashes in pins))
    tries = ["--no-deps", "--index-url", CPU_INDEX, "--retries", "1", "--timeout", "20"]
    try:
        fetch([*PIP, *tries, "--requirement", str(pinned)], silent=True)
    except subprocess.CalledProcessError:
        say(f"    not available from {CPU_INDEX}: PyTorch with CUDA instead, which has 4 GB more")


def choice(environment: "os._Environ[str] | dict[str, str]") -> tuple[str, str]:
    """`cpu` or `cuda`, and why."""
    if asked := environment.get("TORCH"):
        if asked not in ("cpu", "cuda"):
            sys.exit(f"error: TORCH={asked}\n  fix: make TORCH=cpu ... or make TORCH=cuda ...")
        return asked, f"TORCH={asked}"
    path = environment.get("PATH")
    if shutil.which("nvidia-smi", path=path) or environment.get("CUDA_VISIBLE_DEVICES", "-1") not in ("", "-1"):
        return "cuda", "there is a GPU; TORCH=cpu takes the other one"
    if shutil.which("sbatch", path=path):
        return "cuda", "there is Slurm; TORCH=cpu takes the other one"
    return "cpu", "no GPU is found; TORCH=cuda takes the other one"


def fetch(command: list[str], silent: bool = False) -> None:
    """Run pip; print large downloads and, if pip fails, the end of its output."""
    last: deque[str] = deque(maxlen=20)
    environment = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", env=environment
    ) as process:
        assert process.stdout
        for line in process.stdout:
            last.append(line)
            show(told(line), line)
    show(None, "")
    if process.returncode:
        if not silent:
            print("".join(last), end="", file=sys.stderr)
        raise subprocess.CalledProcessError(process.returncode, command)


def told(line: str) -> str | None:
    """What to print of a line of pip's output; None: nothing."""
    if found := _FETCHED.match(line):
        size = float(found[3]) * _UNITS[found[4]]
        return f"    {found[2]}: {size:.0f} MB" if size >= LARGE else None
    if line.startswith("Installing collected packages"):
        return f"    unpacking {line.count(',') + 1} packages" if "," in line else None
    return None


def show(text: str | None, line: str) -> None:
    """Print the text; on a terminal also pip's current line, which the next one overwrites."""
    if sys.stdout.isatty():
        width = shutil.get_terminal_size().columns - 1
        print(f"\r\033[K{text}\n" if text else f"\r\033[K{line.strip()[:width]}", end="", flush=True)
    elif text:
        say(text)


def say(text: str) -> None:
    print(f"set-up: {text}" if not text.startswith(" ") else text, flush=True)


def installed() -> dict[str, str]:
    """Package → version."""
    found = (path.name.removesuffix(".dist-info").rpartition("-") for path in VENV.glob("lib/*/*/*.dist-info"))
    return {name: version for name, _, version in found}


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("\nset-up stopped; the same command goes on")
    except subprocess.CalledProcessError as error:
        sys.exit(
            f"error: the set-up failed at: {' '.join(map(str, error.cmd))}\n  fix: see above; the same command goes on"
        )
