"""A script is started in as many processes as its job was granted GPUs, on these alone, and all of them end with it."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from accelerate.commands.launch import launch_command_parser
from hypothesis import given
from hypothesis import strategies as st
from launched import LAUNCHER, Launched, alive, until

from pedalign.cluster.launching import Nodes, command, environment, free_port
from pedalign.cluster.resources import check_machine, gpu_count, runtime
from pedalign.core.errors import UserError
from pedalign.core.processes import SAME_PRESS, accumulation

TRAINING = {"global_batch_size": 16, "device_batch_size": 1, "dtype": "bfloat16"}
ADAPTER = {"rank": 4}
SCRIPT = ["scripts/sft.py", "data.json", "--settings", "{}"]
HELLO = "import os, sys\nprint('to stdout', flush=True)\nprint('to stderr', file=sys.stderr)\n"
# Like a training of several processes, without what it computes.
RANK = """
import os, signal, sys, time
from pathlib import Path
from pedalign.core.processes import die_with_launcher, end_interrupted, is_first_process
def say(text):
    os.write(1, f"{text}\\n".encode())  # all at once
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
        jobs.append(Launched(tmp_path, script, *arguments, warm=False, **options))
        return jobs[-1]

    yield starter
    for job in jobs:
        job.process.kill()
        job.ends()


AT_THE_END = "launch: the largest process held "


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
    read = parsed(8, {"training": TRAINING}, Nodes(2, 1, "node1", 1234), threads=10)
    assert (read.num_processes, read.num_machines, read.machine_rank) == (8, 2, 1)
    assert (read.main_process_ip, read.main_process_port, read.num_cpu_threads_per_process) == ("node1", 1234, 2)


@pytest.mark.parametrize("adapter, profile", [(None, "zero3.yaml"), (ADAPTER, "ddp.yaml")])
def test_all_weights_are_trained_by_zero_and_an_adapter_by_data_parallelism(adapter, profile):
    config = Path(parsed(2, {"training": TRAINING, "adapter": adapter}, Nodes()).config_file)
    assert config.name == profile and config.is_file()


@given(size=st.integers(1, 64), device=st.integers(1, 8), processes=st.integers(1, 8))
def test_accumulated_batches_make_up_the_global_batch_or_are_refused_with_the_numbers(size, device, processes):
    if size % (device * processes) == 0:
        assert accumulation(size, device, processes) * device * processes == size
    else:
        with pytest.raises(UserError, match=f" {size} .* {device} x {processes} processes = {device * processes}"):
            accumulation(size, device, processes)


def test_a_port_is_not_one_that_is_in_use():
    with socket.socket() as used:
        used.bind(("", 0))
        ports = {free_port() for _ in range(50)}
        assert len(ports) > 1 and used.getsockname()[1] not in ports


def test_gpus_that_cannot_be_spread_over_the_nodes_are_refused():
    command = [sys.executable, str(LAUNCHER), "--gpu", "3", "--nodes", "2", "script.py"]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 1
    assert ended.stdout.splitlines()[0] == "error: 3 GPUs can't be spread evenly over 2 nodes"


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
    log = (tmp_path / "new/log").read_text()
    for_the_log = ("launch: waited ", "launch: 1 processes on 1 nodes", AT_THE_END)
    routine = [line for line in log.splitlines(keepends=True) if line.startswith(for_the_log)]
    assert len(routine) == 3 and "GPUs 0\n" in routine[1]
    assert job.said == "".join(line for line in log.splitlines(keepends=True) if line not in routine)
    assert {"to stdout", "to stderr", "0"} < set(job.said.splitlines())


ROUTINE = """
import sys
print("engine: shared_prefix", flush=True)
print("going on from step 3")
print("results/a.csv.state: removed")
print("results/a.csv: 3 replies")
print("time: 1.00 s working")
sys.stdout.write("an end that is missing")
"""


def test_in_a_call_that_tells_what_was_made_routine_lines_are_in_the_log_alone(start, tmp_path):
    job = start(ROUTINE, "--output", "results/a.csv", log=tmp_path / "log", PEDALIGN_SHORT="1")
    assert job.ends() == 0
    seen = ["going on from step 3", "results/a.csv.state: removed", "an end that is missing"]
    assert job.said.splitlines() == seen
    assert "engine: shared_prefix\n" in (tmp_path / "log").read_text()
    assert "results/a.csv: 3 replies\ntime: " in (tmp_path / "log").read_text()


def test_on_gpus_attention_makes_no_plan_for_each_length_unless_the_user_says_otherwise(start):
    tells = "import os; print('deprioritized:', os.environ.get('TORCH_CUDNN_SDPA_DEPRIORITIZED'))"
    ours, users = start(tells, gpu=1), start(tells, gpu=1, TORCH_CUDNN_SDPA_DEPRIORITIZED="0")
    assert ours.ends() == users.ends() == 0
    assert "deprioritized: 1\n" in ours.said and "deprioritized: 0\n" in users.said


def test_a_script_without_gpus_sees_none(start):
    job = start("import os; print(repr(os.environ['CUDA_VISIBLE_DEVICES']))")
    assert job.ends() == 0
    assert f": the CPU\n''\n{AT_THE_END}" in job.said


STEPS = """
import resource

def step():
    tensors = [b"x" * (24 * 2**20) for _ in range(4)]

step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    step()
print("taken anew:", resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before > 10_000)
"""


def test_on_the_cpu_memory_of_a_step_serves_the_next_one_unless_the_user_says_otherwise(start):
    kept, users = start(STEPS), start(STEPS, MALLOC_TRIM_THRESHOLD_=str(2**20))
    assert kept.ends() == users.ends() == 0
    assert f"taken anew: False\n{AT_THE_END}" in kept.said and f"taken anew: True\n{AT_THE_END}" in users.said


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
    command = [sys.executable, str(LAUNCHER), "--log", str(tmp_path / "log"), str(script)]
    ended = subprocess.run(command, stdout=writer)
    os.close(writer)
    assert ended.returncode == 0
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


TELLS = """
import signal, time
got = []
signal.signal(signal.SIGTERM, lambda *_: (got.append(1), print("SIGTERM", flush=True)))
print("ready", flush=True)
try:
    time.sleep(60)
except KeyboardInterrupt:
    print("SIGINT after", len(got), flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_ctrl_c_and_a_terminal_that_is_closed_let_a_training_save_as_sigterm_does(start, number):
    job = start(TELLS)
    assert job.says("ready")
    job.process.send_signal(number)
    assert job.says("SIGTERM")


def test_ctrl_c_again_interrupts_a_script_and_one_that_comes_twice_does_not(start):
    job = start(TELLS)
    assert job.says("ready")
    for _ in range(2):  # from the terminal, and passed on by a program between
        job.process.send_signal(signal.SIGINT)
    assert job.says("SIGTERM")
    time.sleep(SAME_PRESS)
    assert "SIGINT" not in job.said
    job.process.send_signal(signal.SIGINT)
    assert job.ends() == 0
    assert "SIGINT after 1\n" in job.said


def test_what_nohup_or_a_shell_has_ignored_does_not_reach_a_script(start):
    job = start("import time; print('ready', flush=True); time.sleep(1)", ignored=[signal.SIGINT, signal.SIGHUP])
    assert job.says("ready")
    for number in (signal.SIGINT, signal.SIGHUP):
        job.process.send_signal(number)
    assert job.ends() == 0


@pytest.mark.parametrize("handler", ["SIG_DFL", "SIG_IGN"])
def test_a_script_dies_with_its_launcher(start, handler):
    job = start(RANK + f"signal.signal(signal.SIGTERM, signal.{handler}); say(os.getpid()); time.sleep(60)")
    assert until(lambda: (found := re.findall(r"^\d+$", job.said, re.MULTILINE)) and alive(found[0]))
    (script,) = re.findall(r"^\d+$", job.said, re.MULTILINE)
    job.process.kill()
    assert until(lambda: not alive(script), 2)


def test_two_jobs_never_have_one_gpu_at_the_same_time(start, tmp_path):
    lines = """
import os, sys, time
from pathlib import Path
folder, gpu = Path(sys.argv[1]), os.environ["CUDA_VISIBLE_DEVICES"]
(folder / gpu).touch(exist_ok=False)
print("has", gpu, flush=True)
while not (folder / "go").exists():
    time.sleep(0.01)
(folder / gpu).unlink()
"""
    first = start(lines, tmp_path, gpu=1, CUDA_VISIBLE_DEVICES="7")
    assert first.says("has 7")
    second = start(lines, tmp_path, gpu=1, CUDA_VISIBLE_DEVICES="7")
    assert second.says(f"waiting for 1 GPU; 7: pid {first.process.pid} (script)")
    time.sleep(0.5)
    (tmp_path / "go").touch()
    assert (first.ends(), second.ends()) == (0, 0)
    assert second.says("has 7")
    waited = [float(re.findall(r"^launch: waited ([0-9.]+) s for GPUs$", job.said, re.M)[0]) for job in (first, second)]
    assert waited[0] < 0.5 <= waited[1]


def test_the_log_tells_how_much_memory_the_largest_process_took(start):
    """Of a process of the script's, which was over before anyone looked."""
    job = start("import subprocess, sys; subprocess.run([sys.executable, '-c', 'b\"x\" * 400_000_000'])")
    assert job.ends() == 0
    held = float(re.findall(rf"^{AT_THE_END}([0-9.]+) GB\n\Z", job.said, re.M)[0])
    assert 0.4 < held < 0.45


@pytest.mark.slow
def test_all_processes_die_with_the_launcher_even_those_that_still_start(start, tmp_path):
    lines = """
if is_first_process():
    die_with_launcher()
say(f"rank {os.getpid()}, started by {os.getppid()}")
while not Path(sys.argv[-1]).exists():
    time.sleep(0.01)
die_with_launcher()
time.sleep(60)
"""
    job = start(RANK + lines, "--settings", settings(), tmp_path / "go", gpu=2)
    assert until(lambda: len(re.findall(r"rank \d+, started by \d+\n", job.said)) == 2)
    first_or_second = re.findall(r"rank (\d+)", job.said)
    accelerate = re.findall(r"started by (\d+)", job.said)[0]
    job.process.kill()
    job.ends()
    assert until(lambda: not alive(accelerate) and not all(map(alive, first_or_second)), 2)
    (tmp_path / "go").touch()
    assert until(lambda: not any(map(alive, first_or_second)), 2)


@pytest.mark.slow
def test_several_processes_have_the_time_they_need_to_end_after_sigterm(start):
    """Three signals stand for half a minute, after which accelerate would kill them; it would at the second one, and
    Slurm signals it too."""
    lines = """
die_with_launcher()
got = []
signal.signal(signal.SIGTERM, lambda *_: got.append(1))
signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
say(f"started by {os.getppid()}")
while len(got) < 3:
    time.sleep(0.01)
say("ended by itself")
end_interrupted()
"""
    job = start(RANK + lines, "--settings", settings(), gpu=2, impatient=True)
    assert until(lambda: len(re.findall(r"started by \d+\n", job.said)) == 2)
    os.kill(int(re.findall(r"started by (\d+)", job.said)[0]), signal.SIGTERM)
    job.process.terminate()
    assert job.ends() == 75
    assert job.said.count("ended by itself") == 2 and "SignalException" not in job.said


@pytest.mark.slow
def test_several_processes_leave_no_temporary_files(start, tmp_path):
    folder = tmp_path / "temporary"
    folder.mkdir()
    job = start(RANK + "say('at work')", "--settings", settings(), gpu=2, TMPDIR=str(folder))
    assert job.ends() == 0
    assert job.said.count("at work") == 2
    assert list(folder.iterdir()) == []


def test_deprecations_within_pytorch_are_not_told_and_what_the_user_says_of_warnings_holds(monkeypatch):
    monkeypatch.setenv("PYTHONWARNINGS", "error::UserWarning")
    told = environment(["0", "1"], 2)
    lines = """
import warnings
warnings.warn_explicit("of PyTorch", FutureWarning, "c10d_logger.py", 1, "torch.distributed.c10d_logger")
warnings.warn_explicit("of another", FutureWarning, "other.py", 1, "other")
warnings.warn("as the user wants it", UserWarning)
"""
    ended = subprocess.run([sys.executable, "-c", lines], env=told, capture_output=True, text=True)
    assert "of PyTorch" not in ended.stderr and "of another" in ended.stderr
    assert ended.stderr.endswith("UserWarning: as the user wants it\n") and ended.returncode == 1
    assert environment([], 1)["PYTHONWARNINGS"] == "error::UserWarning"


def entry(gpu: int | str, **training) -> dict:
    return {"resources": {"sft": {"gpu": gpu}, "generate": {"gpu": gpu}}, "sft": TRAINING | training}


@pytest.mark.parametrize(
    "asked, machine, count",
    [
        ("up to 4", 4, 4),
        ("up to 4", 8, 4),
        ("up to 4", 3, 2),  # 16 rows can't be spread evenly over 3
        ("up to 4", 1, 1),
        ("up to 4", 0, 0),
        ("up to 4", None, 4),
        ("up to 5", 5, 4),
        (3, 8, 3),
        (3, 1, 3),
        (0, 8, 0),
    ],
)
def test_a_training_takes_the_gpus_that_its_batch_can_be_spread_over(asked, machine, count):
    assert gpu_count(entry(asked), "sft", machine) == count


def test_answering_takes_any_number_of_gpus():
    assert gpu_count(entry("up to 4"), "generate", 3) == 3


@given(most=st.integers(1, 16), machine=st.integers(0, 16), size=st.integers(1, 64), device=st.integers(1, 4))
def test_no_larger_number_of_gpus_would_do(most, machine, size, device):
    training = {"global_batch_size": size * device, "device_batch_size": device}
    count = gpu_count(entry(f"up to {most}", **training), "sft", machine)
    assert 0 <= count <= min(most, machine) and (count > 0 or machine == 0)
    if count:
        accumulation(size * device, device, count)
    for more in range(count + 1, min(most, machine) + 1):
        with pytest.raises(UserError):
            accumulation(size * device, device, more)


def test_what_a_machine_does_not_have_is_refused_with_name_and_numbers(refused):
    check_machine([("sft", 4, 1), ("generate", 0, 1)], 4)
    with refused("align asks for 5 GPUs, this machine has 4", "up to 5", "slurm"):
        check_machine([("sft", 4, 1), ("align", 5, 1)], 4)
    with refused("sft asks for 2 nodes", "'nodes'", "slurm"):
        check_machine([("sft", 4, 2)], 8)


@pytest.mark.parametrize(
    "resources, minutes",
    [({"runtime": 60}, [60, 60, 60]), ({"runtime": 60, "max_runtime": 150}, [60, 120, 150])],
)
def test_each_attempt_gets_more_time_up_to_the_most(resources, minutes):
    assert [runtime(resources, attempt) for attempt in (1, 2, 3)] == minutes
