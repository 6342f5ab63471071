"""A small real Slurm cluster on one machine."""

import contextlib
import os
import random
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

NODES = ("n1", "n2")
GPUS = 4
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol", "slurmdbd", "sacctmgr", "mariadbd")
APT = "apt-get install -y --no-install-recommends slurm-wlm slurmdbd munge mariadb-server-core"
TABLES = Path("/usr/share/mysql/mysql_system_tables.sql")
FIELDS = "JobID,JobName,State,ExitCode,ReqTRES,AllocTRES,NodeList,Comment,Reason,Submit,Start,End,Elapsed,Timelimit"
FREE_TEXT = "AdminComment|Command|Comment|OS|Reason|StdErr|StdIn|StdOut|SystemComment|WorkDir"
PARTS = ("bin", "db", "gpu", "log", "munge", "spool", "state")
LONGEST = 70

# The nodes claim more cores and memory than the machine has. Memory limits hold without cgroups: what a step's
# processes use is added up every second. A requeued job waits for its credential to expire (cred_expire, at least 5 s).
# A node set down stays down; one whose slurmd was lost comes back with it.
SLURM_CONF = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmUser=root
AuthInfo=socket={folder}/munge/socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmdLogFile={folder}/log/%n.steps.log
SlurmctldPidFile={folder}/state/slurmctld.pid
SlurmdPidFile={folder}/spool/%n.pid
SlurmdParameters=config_overrides
MpiDefault=none
MailProg=/bin/true
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
GresTypes=gpu
DefMemPerCPU=1000
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
JobRequeue=1
KillWait=10
MinJobAge=300
InactiveLimit=0
SlurmdTimeout=10
ReturnToService=1
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1
AccountingStorageType=accounting_storage/none
MaxTime=INFINITE
"""
ACCOUNTING_CONF = """
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={accountant}
AccountingStoragePass={folder}/munge/socket
AccountingStorageTRES=gres/gpu
AccountingStoreFlags=job_comment
"""
NODES_CONF = """
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={n1} CPUs=8 RealMemory=20000 Gres=gpu:a100:{gpus}
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={n2} CPUs=8 RealMemory=20000 Gres=gpu:a100:{gpus}
PartitionName=gpu Nodes=n1,n2 Default=YES State=UP MaxTime={longest}
"""
SLURMDBD_CONF = """
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
DbdHost={host}
DbdAddr=127.0.0.1
DbdPort={accountant}
SlurmUser=root
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=root
PidFile={folder}/db/slurmdbd.pid
"""


def wait_for(condition: Callable[[], object], what: str, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"waited {seconds} s in vain for {what}")
        time.sleep(0.1)


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def free_ports(count: int) -> list[int]:
    """Ports that nothing listens on, below those that the kernel gives to clients."""
    return [port for port in random.sample(range(15000, 32000), 10 * count) if not listens(port)][:count]


def settings(text: str) -> dict[str, str]:
    return dict(re.findall(r"^(\w+)=(.*)$", text, re.MULTILINE))


class Cluster:
    """Munge, slurmctld and two slurmd nodes with four pretended GPUs each, on one machine.

    Everything lies below the folder. Options are settings of slurm.conf, and MaxTime is the partition's. Should the
    tests die before stop(), a watcher takes the cluster down.
    """

    def __init__(self, folder: Path, accounting: bool, **options: object) -> None:
        self.folder = folder.absolute()
        self.accounting = accounting
        self.options = {key: str(value) for key, value in options.items()}
        self.conf = self.folder / "slurm.conf"
        self.daemons: dict[str, subprocess.Popen] = {}
        self.watcher: subprocess.Popen | None = None
        # Leave out what a Slurm job around the tests would hand down.
        outer = ("SLURM", "SBATCH", "SRUN", "SALLOC", "SQUEUE", "SACCT")
        self.environment = {key: value for key, value in os.environ.items() if not key.startswith(outer)}
        self.environment["SLURM_CONF"] = str(self.conf)
        self.environment["PEDALIGN_LEASES"] = str(self.folder / "leases")  # another cluster has jobs of the same number
        self.environment["PATH"] = f"{self.folder / 'bin'}:{self.environment['PATH']}"

    def start(self) -> None:
        """Begin anew, with no jobs known, and wait until both nodes are idle."""
        missing = [name for name in PROGRAMS if shutil.which(name) is None]
        if missing or not TABLES.exists():
            raise RuntimeError(f"Slurm's programs are missing ({', '.join(missing) or TABLES}); as root: {APT}")
        if len(str(self.folder)) > LONGEST:
            raise RuntimeError(f"sockets need a shorter path than {self.folder}")
        self.stop()
        for part in PARTS:
            shutil.rmtree(self.folder / part, ignore_errors=True)
            (self.folder / part).mkdir(parents=True)
        try:
            self._start()
        except BaseException as error:
            tails = self._tails()
            self.stop()
            if not isinstance(error, Exception):
                raise
            raise RuntimeError(f"Slurm did not start: {error}\n{tails}") from error

    def stop(self) -> None:
        """Take everything down: the daemons, then jobs and whatever an earlier run left."""
        while self.daemons:
            _, daemon = self.daemons.popitem()
            daemon.terminate()
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        begin, left = time.monotonic(), self.processes()
        while left:
            waited = time.monotonic() - begin
            if waited > 20:
                raise RuntimeError(f"these processes of Slurm cannot be killed: {left}")
            for process in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGTERM if waited < 1 else signal.SIGKILL)
            time.sleep(0.1)
            left = self.processes(left)
        if self.watcher:
            self.watcher.communicate()
            self.watcher = None

    def __enter__(self) -> "Cluster":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def command(self, *argv: str, check: bool = True) -> str:
        answer = subprocess.run(argv, env=self.environment, capture_output=True, text=True, timeout=120)
        if check and answer.returncode:
            raise RuntimeError(f"{' '.join(argv)}: exit {answer.returncode}: {answer.stdout}{answer.stderr}")
        return answer.stdout

    def submit(self, *argv: str) -> str:
        return self.command("sbatch", "--parsable", *argv).strip()

    def jobs(self) -> list[dict[str, str]]:
        """The jobs that slurmctld knows, as scontrol shows them."""
        return self._shown("job")

    def job(self, number: str) -> dict[str, str]:
        return next(job for job in self.jobs() if job["JobId"] == number)

    def node(self, name: str) -> dict[str, str]:
        return next(node for node in self._shown("node") if node["NodeName"] == name)

    def wait(self, number: str, *states: str, seconds: float = 60) -> dict[str, str]:
        """Wait until the job is in one of the states."""
        wait_for(lambda: self.job(number)["JobState"] in states, f"job {number} to be {' or '.join(states)}", seconds)
        return self.job(number)

    def records(self, duplicates: bool = False) -> list[dict[str, str]]:
        """The jobs in the accounts, some seconds late; with duplicates, each run of a requeued job."""
        more = ["--duplicates"] if duplicates else []
        text = self.command("sacct", "-X", "-P", "--delimiter=\x1f", "-S", "now-2days", "-o", FIELDS, *more)
        header, *rows = [line.split("\x1f") for line in text.splitlines()]
        return [dict(zip(header, row, strict=True)) for row in rows]

    def kill_slurmd(self, node: str) -> None:
        """Kill one node's slurmd; its jobs' processes go on, unseen."""
        daemon = self.daemons.pop(node)
        daemon.kill()
        daemon.wait()

    def start_slurmd(self, node: str) -> None:
        self._daemon(node, "slurmd", "-D", "-N", node, "-f", str(self.conf))

    def down(self, node: str) -> None:
        self.command("scontrol", "update", f"nodename={node}", "state=down", "reason=test")

    def resume(self, node: str) -> None:
        """Bring a node back, unless it has come back by itself, which Slurm would call an error."""
        self.command("scontrol", "update", f"nodename={node}", "state=resume", check=False)
        wait_for(lambda: self.node(node)["State"] == "IDLE", f"{node} to be idle")

    def reset(self) -> None:
        """Cancel all jobs and get both nodes back."""
        for job in self.jobs():
            if job["JobState"] in ("PENDING", "RUNNING"):
                self.command("scancel", job["JobId"])
        for node in NODES:
            if node not in self.daemons:
                self.start_slurmd(node)
            if "DOWN" in self.node(node)["State"]:
                self.resume(node)
        self._started(self._idle, "idle nodes")

    def processes(self, known: Iterable[int] = ()) -> list[int]:
        """The cluster's processes: those known, those that write its logs, those of its jobs, and what they started."""
        logs, conf = f"{self.folder}/log/", f"SLURM_CONF={self.conf}".encode()
        parents: dict[int, int] = {}
        found: set[int] = set()
        for entry in Path("/proc").glob("[0-9]*"):
            process = int(entry.name)
            try:
                state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
                files = [os.readlink(file) for file in (entry / "fd").iterdir()]
                environment = (entry / "environ").read_bytes().split(b"\0")
            except OSError:
                continue
            if state == "Z":
                continue
            parents[process] = int(parent)
            of_job = conf in environment and any(value.startswith(b"SLURM_JOB_ID=") for value in environment)
            if process in known or of_job or any(file.startswith(logs) for file in files):
                found.add(process)
        found.discard(os.getpid())
        while more := {child for child, parent in parents.items() if parent in found} - found:
            found |= more
        return sorted(found)

    def _start(self) -> None:
        accountant = self._write()
        watch = [sys.executable, __file__, str(self.folder)]
        self.watcher = subprocess.Popen(watch, stdin=subprocess.PIPE, start_new_session=True)
        munge = self.folder / "munge"
        files = [f"--{name}-file={munge / name}" for name in ("key", "log", "pid", "seed")]
        self._daemon("munged", "munged", "--foreground", "--force", f"--socket={munge / 'socket'}", *files)
        self._started((munge / "socket").exists, "munged")
        if self.accounting:
            self._start_accounting(accountant)
        self._daemon("slurmctld", "slurmctld", "-D", "-f", str(self.conf))
        for node in NODES:
            self.start_slurmd(node)
        self._started(self._idle, "idle nodes")

    def _start_accounting(self, port: int) -> None:
        db = self.folder / "db"
        base = ["mariadbd", "--no-defaults", "--user=root", f"--datadir={db}", "--innodb-log-file-size=16M"]
        with (self.folder / "log/tables.log").open("w") as log:
            sql = f"create database mysql;\nuse mysql;\n{TABLES.read_text()}"
            subprocess.run([*base, "--bootstrap"], input=sql, text=True, stdout=log, stderr=log, check=True)
        self._daemon("mariadbd", *base, "--skip-grant-tables", "--skip-networking", f"--socket={db / 'socket'}")
        self._started((db / "socket").exists, "mariadbd")
        self._daemon("slurmdbd", "slurmdbd", "-D")
        self._started(lambda: listens(port), "slurmdbd")
        for added in (["cluster", "test"], ["account", "test"], ["user", "root", "account=test"]):
            self.command("sacctmgr", "-i", "add", *added)

    def _write(self) -> int:
        """Write the configuration, munge's key and the pretended GPUs; the port for the accounts."""
        controller, n1, n2, accountant = free_ports(4)
        folder, host = self.folder, socket.gethostname()
        chosen = settings(SLURM_CONF.format(folder=folder, host=host, controller=controller))
        if self.accounting:
            chosen |= settings(ACCOUNTING_CONF.format(folder=folder, accountant=accountant))
        chosen |= self.options
        longest = chosen.pop("MaxTime")
        lines = "".join(f"{key}={value}\n" for key, value in chosen.items())
        self.conf.write_text(lines + NODES_CONF.format(host=host, n1=n1, n2=n2, gpus=GPUS, longest=longest))
        # Snakemake's job step takes SLURM_CONF away; on a cluster srun finds its configuration without it.
        (folder / "bin/srun").write_text(f'#!/bin/sh\nSLURM_CONF={self.conf} exec {shutil.which("srun")} "$@"\n')
        (folder / "bin/srun").chmod(0o755)
        (folder / "gres.conf").write_text(f"AutoDetect=off\nName=gpu Type=a100 File={folder}/gpu/gpu[0-{GPUS - 1}]\n")
        for number in range(GPUS):
            os.mknod(folder / f"gpu/gpu{number}", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        for name, content in {
            "slurmdbd.conf": SLURMDBD_CONF.format(folder=folder, host=host, accountant=accountant).encode(),
            "munge/key": os.urandom(128),
        }.items():
            (folder / name).touch(0o600)
            (folder / name).write_bytes(content)
        return accountant

    def _daemon(self, name: str, *argv: str) -> None:
        # slurmdbd's database client finds the socket by MYSQL_UNIX_PORT.
        environment = {**self.environment, "MYSQL_UNIX_PORT": str(self.folder / "db/socket")}
        with (self.folder / f"log/{name}.log").open("a") as log:
            self.daemons[name] = subprocess.Popen(
                argv, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    def _started(self, condition: Callable[[], bool], what: str) -> None:
        def check() -> bool:
            if ended := [name for name, daemon in self.daemons.items() if daemon.poll() is not None]:
                raise RuntimeError(f"{', '.join(ended)} ended")
            return condition()

        wait_for(check, what)

    def _idle(self) -> bool:
        return self.command("sinfo", "-h", "-N", "-o", "%T", check=False).split() == ["idle"] * len(NODES)

    def _shown(self, kind: str) -> list[dict[str, str]]:
        """scontrol's KEY=VALUE pairs; only its long form tells where free text ends, which is with the line."""
        shown: list[dict[str, str]] = []
        for line in self.command("scontrol", "show", kind).splitlines():
            if line.startswith(("JobId=", "NodeName=")):
                shown.append({})
            free = re.match(rf"\s+({FREE_TEXT})=(.*?)\s*$", line)
            pairs = [(free[1], free[2])] if free else re.findall(r"(\S+?)=(.*?)(?=\s+[A-Z][\w/:]*=|\s*$)", line)
            if shown:
                shown[-1].update(pairs)
        return shown

    def _tails(self) -> str:
        logs = sorted((self.folder / "log").glob("*.log"))
        return "\n".join(f"--- {log}\n" + "\n".join(log.read_text().splitlines()[-20:]) for log in logs)


if __name__ == "__main__":  # the watcher: its input ends with the tests
    sys.stdin.read()
    Cluster(Path(sys.argv[1]), accounting=False).stop()
