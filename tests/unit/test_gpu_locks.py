"""Jobs share a machine's GPUs: each holds its own alone, gets its turn, and gives them back however it ends."""

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest
from waiting import until

from pedalign.cluster import gpu_locks
from pedalign.cluster.gpu_locks import lease, visible_devices

LEASE = """
import subprocess, sys, time
from pathlib import Path
from pedalign.cluster.gpu_locks import lease, visible_devices

count, folder = int(sys.argv[1]), Path(sys.argv[2])
def leased():
    return lease(count, visible_devices(), lambda text: print(text, flush=True), "test")
"""
# Like a launcher: the work is another program's, here one that ends with its standard input and outlives the launcher.
HOLD = LEASE + "with leased():\n    subprocess.run(['cat'], close_fds=False)"
# Two that have the same device at once would make the same file.
MARK = (
    LEASE
    + """
with leased() as devices:
    assert len(set(devices)) == count and set(devices) <= set(visible_devices())
    for device in devices:
        (folder / device).touch(exist_ok=False)
    time.sleep(0.003)
    for device in devices:
        (folder / device).unlink()
"""
)
STREAM = LEASE + "while not (folder / 'stop').exists():\n    with leased():\n        time.sleep(0.02)"


class Job:
    """A process that leases `count` of the devices that CUDA_VISIBLE_DEVICES names, and holds them until its `end`."""

    def __init__(self, folder: Path, script: str, count: int, devices: str, **environment: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", script, str(count), str(folder)],
            env=os.environ | {"CUDA_VISIBLE_DEVICES": devices} | environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        os.set_blocking(self.process.stdout.fileno(), False)
        self.pid, self.said = self.process.pid, ""

    def says(self, *words: str, seconds: float = 10.0) -> bool:
        """Whether all these words have come from it, or come in this time."""

        def said() -> bool:
            self.said += (self.process.stdout.read() or b"").decode()
            return all(word in self.said for word in words)

        return until(said, seconds)

    def has(self, devices: str, seconds: float = 10.0) -> bool:
        return self.says(f"of this machine: {devices}\n", seconds=seconds)

    def end(self) -> int:
        self.process.stdin.close()
        return self.process.wait(20)


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """Where this test's locks lie."""
    monkeypatch.setenv("PEDALIGN_LEASES", str(tmp_path / "leases"))
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return tmp_path / "leases"


@pytest.fixture
def start(folder, tmp_path):
    jobs = []

    def starter(count: int, devices: str, script: str = HOLD, **environment: str) -> Job:
        jobs.append(Job(tmp_path, script, count, devices, **environment))
        return jobs[-1]

    yield starter
    for job in jobs:
        job.process.kill()
        job.end()
        job.process.stdout.close()


def test_no_gpu_is_held_twice_and_every_one_of_many_jobs_gets_its_turn(start):
    holder = start(3, "0,1,2")
    assert holder.has("0,1,2")
    jobs = [start(1 + number % 3, "0,1,2", MARK) for number in range(40)]
    assert all(job.says("waiting") for job in jobs)
    holder.end()
    assert until(lambda: all(job.process.poll() is not None for job in jobs), 15), "some wait for ever"
    for job in jobs:
        assert job.process.returncode == 0, job.says(seconds=0) and job.said


def test_a_killed_job_gives_back_its_gpus_even_where_its_program_lives_on(start):
    holder = start(2, "0,1")
    assert holder.has("0,1")
    waiter = start(1, "0,1")
    assert waiter.says(f"waiting for 1 GPU; 0: pid {holder.pid} (test), 1: pid {holder.pid} (test)")
    holder.process.kill()
    assert waiter.has("0")


def test_a_job_killed_at_the_head_of_the_line_does_not_stop_the_others(start):
    holder = start(1, "0")
    assert holder.has("0")
    head = start(1, "0")
    assert head.says(f"0: pid {holder.pid}")
    behind = start(1, "0")
    assert behind.says(f"in line behind pid {head.pid} (test)")
    head.process.kill()
    assert behind.says(f"0: pid {holder.pid}")
    assert holder.end() == 0
    assert behind.has("0")


def test_a_waiting_job_holds_nothing(start, folder):
    holder = start(1, "0,1")
    assert holder.has("0")
    waiter = start(2, "0,1")
    assert waiter.says("waiting for 2 GPUs; 0: pid")

    def free() -> bool:
        try:
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:  # it tries for a moment, now and then
            return False
        return True

    with open(folder / "gpu.1") as other:
        assert until(free, 2)
    holder.end()
    assert waiter.has("0,1")


def test_a_waiting_job_says_for_whom_it_waits_once_and_when_that_changes(start):
    first, second = start(1, "0"), start(1, "1")
    assert first.has("0") and second.has("1")
    waiter = start(2, "0,1")
    both = f"waiting for 2 GPUs; 0: pid {first.pid} (test), 1: pid {second.pid} (test)\n"
    assert waiter.says(both)
    assert not waiter.says(both + "waiting", seconds=0.5)
    first.end()
    assert waiter.says(f"{both}waiting for 2 GPUs; 1: pid {second.pid} (test)\n")
    second.end()
    assert waiter.has("0,1")
    assert len(waiter.said.splitlines()) == 3


def test_a_job_that_wants_all_is_not_starved_by_those_that_want_one(start, tmp_path):
    stream = [start(1, "0,1", STREAM) for _ in range(5)]
    assert all(job.has("0") or job.has("1") for job in stream)
    wants_all = start(2, "0,1")
    assert wants_all.has("0,1")
    wants_all.end()
    (tmp_path / "stop").touch()
    assert [job.end() for job in stream] == [0] * 5


def test_only_the_gpus_that_a_job_may_use_are_leased(start):
    for device in ("2", "5"):
        assert start(1, "2,5").has(device)
    assert start(1, "2,5").says("waiting for 1 GPU; 2: pid", ", 5: pid")


def test_jobs_that_share_no_gpu_do_not_wait_for_each_other(start):
    assert start(1, "0,1").has("0")
    assert start(2, "0,1").says("waiting")
    assert start(2, "2,3").has("2,3")


def test_slurm_jobs_do_not_wait_for_each_other_but_the_parts_of_one_do(start):
    first = start(1, "0", SLURM_JOB_ID="7")
    assert first.has("0")
    assert start(1, "0", SLURM_JOB_ID="8").has("0")
    assert start(1, "0", SLURM_JOB_ID="7").says(f"0: pid {first.pid}")


def test_more_than_there_are_is_refused_with_the_numbers(folder, refused):
    numbers = "4 GPUs asked for, 2 usable on this machine (2,5)"
    with refused(numbers, "at most 2"), lease(4, ["2", "5"], report=pytest.fail):
        pass
    with refused("1 GPU asked for, 0 ", "(none)"), lease(1, [], report=pytest.fail):
        pass


def test_none_are_leased_without_a_lock(folder):
    with lease(0, ["0"]) as devices:
        assert devices == []
    assert not folder.exists()


def test_a_folder_that_cannot_hold_locks_is_told_in_two_lines(folder, refused):
    folder.touch()
    with refused(str(folder), "PEDALIGN_LEASES"), lease(1, ["0"]):
        pass


def test_all_users_may_lock_whatever_the_umask_and_any_name_is_a_file(folder):
    devices = ["MIG-GPU-8f/1/0", "GPU-8f"]
    umask = os.umask(0o077)
    try:
        with lease(2, devices) as leased:
            assert leased == devices
    finally:
        os.umask(umask)
    assert folder.stat().st_mode & 0o7777 == 0o1777
    assert len(list(folder.iterdir())) == 4  # a lock and a line each
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o666}


@pytest.mark.parametrize(
    "named, devices",
    [
        ("2,5", ["2", "5"]),
        (" 3, 1,3", ["3", "1"]),
        ("GPU-8f2c,MIG-GPU-8f/1/0", ["GPU-8f2c", "MIG-GPU-8f/1/0"]),
        ("0,-1,1", ["0"]),
        ("-1", []),
        ("", []),
        ("NoDevFiles", []),
    ],
)
def test_the_variable_is_read_as_cuda_reads_it(monkeypatch, named, devices):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    assert visible_devices() == devices


@pytest.fixture
def nvidia_smi(folder, tmp_path, monkeypatch):
    """Makes an nvidia-smi of these shell commands the only program on PATH."""
    monkeypatch.setenv("PATH", str(tmp_path))

    def make(commands: str) -> None:
        (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\n{commands}\n")
        (tmp_path / "nvidia-smi").chmod(0o755)

    return make


def test_without_the_variable_nvidia_smi_lists_the_gpus(nvidia_smi, capfd):
    assert visible_devices() == []  # none is installed
    cards = "echo '0, GPU-a, H100, 81559' && echo '1, MIG-b, H100 MIG, [N/A]'"
    nvidia_smi(f'[ "$*" = "--query-gpu=index,uuid,name,memory.total --format=csv,noheader,nounits" ] && {cards}')
    assert visible_devices() == ["0", "1"]
    nvidia_smi("echo No devices were found")
    assert visible_devices() == []
    assert capfd.readouterr() == ("", "")


def test_an_nvidia_smi_that_fails_is_told_and_one_that_hangs_is_refused(nvidia_smi, capfd, monkeypatch, refused):
    nvidia_smi("echo 0; echo No driver; exit 9")
    assert visible_devices() == []
    assert "nvidia-smi failed: 0 No driver" in capfd.readouterr().err
    monkeypatch.setattr(gpu_locks, "_NVIDIA_SMI_TIMEOUT", 0.2)
    nvidia_smi("exec /bin/sleep 5")
    with refused("nvidia-smi does not answer within 0.2 s"):
        visible_devices()
