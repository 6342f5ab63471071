"""A script is started in as many processes as its job was granted GPUs, on these alone, and all of them end with it."""

import json
import os
import signal
import sys
from pathlib import Path

import pytest
from accelerate.commands.launch import launch_command_parser
from hypothesis import given
from hypothesis import strategies as st
from launched import Launched, until

from pedalign.errors import UserError
from pedalign.launching import Nodes, command, environment, free_port
from pedalign.processes import accumulation
from pedalign.resources import check_machine, gpu_count, runtime

TRAINING = {"global_batch_size": 16, "device_batch_size": 1, "dtype": "bfloat16"}
ADAPTER = {"rank": 4}
SCRIPT = ["scripts/finetune.py", "data.json", "--settings", "{}"]
HELLO = "import os, sys\nprint('to stdout', flush=True)\nprint('to stderr', file=sys.stderr)\n"
# A rank as a training is one, without what it computes.
RANK = """
import os, signal, time
from pathlib import Path
from pedalign.processes import die_with_launcher
die_with_launcher()
print(f"rank {os.getpid()}.", flush=True)
"""


def parsed(processes: int, settings: dict, nodes: Nodes, threads: int = 4):
    """The command's options as accelerate reads them."""
    made = command(SCRIPT, processes, settings, threads, nodes)
    assert made[:3] == [sys.executable, "-m", "accelerate.commands.launch"]
    read = launch_command_parser().parse_args(made[3:])
    assert [read.training_script, *read.training_script_args] == SCRIPT
    return read


@pytest.fixture
def start(tmp_path):
    """Starts a script of these lines by the launcher."""
    jobs = []

    def starter(lines: str, *arguments: object, **options) -> Launched:
        script = tmp_path / "script.py"
        script.write_text(lines)
        jobs.append(Launched(tmp_path, script, *arguments, **options))
        return jobs[-1]

    yield starter
    for job in jobs:
        job.process.kill()
        job.ends()


def settings(**changed) -> str:
    return json.dumps({"training": TRAINING, "adapter": ADAPTER, **changed})


def test_one_process_is_plain_python():
    assert command(SCRIPT, 1, {}, 4, Nodes()) == [sys.executable, *SCRIPT]


def test_several_processes_are_started_by_accelerate_on_a_free_port_in_the_precision_of_the_settings():
    one = parsed(4, {"training": TRAINING}, Nodes(), threads=10)
    assert (one.num_processes, one.num_machines, one.machine_rank) == (4, 1, 0)
    assert (one.main_process_ip, one.mixed_precision, one.num_cpu_threads_per_process) == ("127.0.0.1", "bf16", 2)
    other = parsed(4, {"training": TRAINING | {"dtype": "float32"}}, Nodes(), threads=1)
    assert (other.mixed_precision, other.num_cpu_threads_per_process) == ("no", 1)
    assert 1024 < one.main_process_port != other.main_process_port > 1024


def test_each_node_starts_its_part_and_knows_where_the_first_one_listens():
    read = parsed(8, {"training": TRAINING}, Nodes(2, 1, "node1", 1234))
    assert (read.num_processes, read.num_machines, read.machine_rank) == (8, 2, 1)
    assert (read.main_process_ip, read.main_process_port, read.num_cpu_threads_per_process) == ("node1", 1234, 1)


@pytest.mark.parametrize("adapter, profile", [(None, "zero3.yaml"), (ADAPTER, "ddp.yaml")])
def test_all_weights_are_trained_by_zero_and_an_adapter_by_data_parallelism(adapter, profile):
    config = Path(parsed(2, {"training": TRAINING, "adapter": adapter}, Nodes()).config_file)
    assert config.name == profile and config.is_file()


@given(device=st.integers(1, 9), steps=st.integers(1, 9), processes=st.integers(1, 9))
def test_what_is_accumulated_makes_up_the_global_batch(device, steps, processes):
    assert accumulation(device * steps * processes, device, processes) == steps
    for size in {device * steps * processes + 1} - {device * processes * (steps + 1)}:
        with pytest.raises(UserError, match=f"{size} .* {device} x {processes} processes = {device * processes}"):
            accumulation(size, device, processes)


def test_ports_are_free_ones():
    assert len({free_port() for _ in range(20)}) > 1


def test_a_batch_that_does_not_divide_is_refused_in_two_lines_before_anything_starts(start, tmp_path):
    job = start(HELLO, "--settings", settings(), gpu=3, log=tmp_path / "log")
    assert job.ends() == 1
    assert job.said == (tmp_path / "log").read_text()
    error, remedy = job.said.splitlines()
    assert error.startswith("error: global_batch_size 16 ") and "device_batch_size 1 x 3 processes = 3" in error
    assert "number of GPUs" in remedy


def test_what_a_script_prints_goes_to_stdout_and_to_the_log_with_the_devices_that_it_has(start, tmp_path):
    job = start(HELLO + "print(os.environ['CUDA_VISIBLE_DEVICES'])", gpu=1, log=tmp_path / "new/log")
    assert job.ends() == 0
    assert job.said == (tmp_path / "new/log").read_text()
    assert {"to stdout", "to stderr", "0"} < set(job.said.splitlines())
    assert "GPUs 0\n" in job.said


def test_a_script_without_gpus_sees_none(start):
    job = start("import os; print(repr(os.environ['CUDA_VISIBLE_DEVICES']))")
    assert job.ends() == 0
    assert job.said.endswith(": the CPU\n''\n")


@pytest.mark.parametrize("log", ["/dev/full", "/proc/no/log"])
def test_a_log_that_cannot_be_written_ends_nothing_and_is_told_once(start, log):
    job = start(HELLO * 100, log=log)
    assert job.ends() == 0
    assert job.said.count("to stdout\n") == job.said.count("to stderr\n") == 100
    assert sum("/dev/full" in line or "no log" in line for line in job.said.splitlines()) == 1


def test_a_reader_that_went_away_ends_nothing_and_the_log_is_whole(start, tmp_path):
    reader, writer = os.pipe()
    os.close(reader)
    script = tmp_path / "script.py"
    script.write_text(HELLO)
    job = Launched(tmp_path, script, log=tmp_path / "log", stdout=writer)
    os.close(writer)
    assert job.ends() == 0
    log = (tmp_path / "log").read_text()
    assert "to stderr\n" in log and log.count("stdout is not written any more") == 1


@pytest.mark.parametrize(
    "end, status", [("sys.exit(7)", 7), ("os.kill(os.getpid(), 9)", 137), ("raise ValueError", 1), ("", 0)]
)
def test_the_exit_status_is_the_scripts(start, end, status):
    assert start(HELLO + end).ends() == status


def test_sigterm_ends_a_plain_script(start):
    job = start("import time\nprint('ready', flush=True)\ntime.sleep(60)")
    assert job.says("ready")
    job.process.terminate()
    assert job.ends() == 143


def test_sigterm_is_repeated_for_a_script_that_was_not_ready_for_it(start, tmp_path):
    lines = """
import signal, time
got = []
signal.signal(signal.SIGTERM, lambda *_: got.append(1))
print("ready", flush=True)
while len(got) < 3:
    time.sleep(0.01)
"""
    job = start(lines, impatient=True)
    assert job.says("ready")
    job.process.terminate()
    assert job.ends() == 0


@pytest.mark.parametrize("ready", ["import time", "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)"])
def test_a_script_dies_with_its_launcher(start, ready):
    job = start(f"import os\n{ready}\nprint(f'script {{os.getpid()}}.', flush=True)\ntime.sleep(60)")
    assert job.says(".")
    script = job.said.partition("script ")[2].partition(".")[0]
    job.process.kill()
    assert until(lambda: not alive(script), 2)


def alive(process: str) -> bool:
    """Whether there is such a process, and not only its exit status, which no one has asked for."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def ranks(job: Launched) -> list[str]:
    """The process ids of the two ranks, once both have told them."""
    assert until(lambda: job.said.count(".") >= 2 and job.said.count("rank ") == 2) or pytest.fail(job.said)
    return [part.partition(".")[0] for part in job.said.split("rank ")[1:]]
