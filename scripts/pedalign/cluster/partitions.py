"""Compares Slurm's partitions and nodes with what jobs ask for."""

import re
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pedalign.cluster.findings import Finding, judged, problem
from pedalign.core.errors import UserError, nearest

TIMEOUT = 10.0  # seconds for a command of Slurm
_PROFILE = "profiles/slurm/profile.yaml"
_GONE = ("DOWN", "DRAIN", "FAIL", "NOT_RESPONDING", "UNKNOWN", "INVAL", "POWERED_DOWN*", "REBOOT*")
# Resources, other than numbers, that Snakemake passes on to sbatch: resource → option.
_OPTIONS = {
    "slurm_partition": "--partition",
    "slurm_account": "--account",
    "constraint": "--constraint",
    "qos": "--qos",
}


@dataclass(frozen=True)
class Partition:
    """A partition. `minutes` and `nodes`: the most that a job may have; None: no limit."""

    name: str
    state: str
    default: bool
    minutes: int | None
    nodes: int | None


@dataclass(frozen=True)
class Node:
    """What a node has in all, in use or free. `gpus`: by type, "" for those without one. Slurm's MB, of jobs and of
    nodes, are 1024 x 1024 bytes."""

    name: str
    state: str
    partitions: tuple[str, ...]
    cpus: int
    mem_mb: int
    gpus: dict[str, int]

    @property
    def works(self) -> bool:
        return not any(word in self.state for word in _GONE)

    def gpu_count(self, model: str | None) -> int:
        return self.gpus.get(model, 0) if model else sum(self.gpus.values())


def slurm_findings(status_command: str, jobs: Sequence[tuple[str, dict[str, Any]]]) -> Iterator[Finding]:
    """Whether Slurm can run the jobs (name, resources). `status_command`: the command that reports how a job ended."""
    yield judged(f"Slurm {status_command}", check_status_command, status_command)
    try:
        partitions = read_partitions(ask("scontrol", "show", "partition", "--oneliner"))
        nodes = read_nodes(ask("scontrol", "show", "node", "--oneliner"))
    except UserError as error:
        yield problem("Slurm", error)
        return
    for name, job in jobs:
        about = f"Slurm {name}"
        try:
            fit = find_fit(job, partitions, nodes)
            works = fit.working >= job.get("nodes", 1)
            if works:
                try_submission(job)
        except UserError as error:
            yield problem(about, error)
            continue
        wanted = ", ".join(f"{number} {what}" for what, number in _per_node(job).items())
        where = f"partition {fit.partition.name}: {fit.fitting} of {fit.nodes} nodes have"
        words = f"{where} {wanted}, for {job['runtime']} minutes"
        if not works:
            yield Finding("warning", about, f"{words}, but {fit.working} of them work now", "see what `sinfo -R` says")
        elif fit.partition.minutes is not None and job.get("max_runtime", 0) > fit.partition.minutes:
            limit = f"max_runtime {job['max_runtime']} is beyond the {fit.partition.minutes} minutes of the partition"
            yield Finding(
                "warning",
                about,
                f"{words}; {limit}",
                f"set max_runtime to {fit.partition.minutes}, or no further attempt can start",
            )
        else:
            yield Finding("ok", about, words)


def check_status_command(command: str) -> str:
    """Raises UserError if the command gives no answer: the end of a job would never be noticed."""
    try:
        ask(command, "--noheader")
    except UserError as error:
        other = "set slurm-steady-status-command: squeue in " + _PROFILE
        raise UserError(error.problem, other if command == "sacct" else error.remedy) from None
    return "answers"


def ask(*command: str) -> str:
    """The output of a Slurm command. Raises UserError if it fails, is missing or hangs."""
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT)
    except FileNotFoundError:
        raise UserError(
            f"{command[0]}: no such program", "run Snakemake on a login node, which has Slurm's commands"
        ) from None
    except subprocess.TimeoutExpired:
        raise UserError(
            f"{command[0]} does not answer within {TIMEOUT:g} s",
            "see what `sinfo` says; Slurm's controller may be down",
        ) from None
    if answer.returncode:
        said = " ".join((answer.stderr or answer.stdout).split())
        raise UserError(f"{command[0]} failed: {said}", f"see what `{' '.join(command)}` says")
    return answer.stdout


def records(text: str) -> list[dict[str, str]]:
    """The lines of `scontrol show ... --oneliner` as KEY=VALUE pairs; a value may hold spaces."""
    pairs = re.compile(r"(\S+?)=(.*?)(?=\s+[A-Z][\w/:]*=|\s*$)")
    return [dict(pairs.findall(line)) for line in text.splitlines() if "=" in line]


def read_partitions(text: str) -> list[Partition]:
    """The partitions in the output of `scontrol show partition --oneliner`."""
    return [
        Partition(
            name=record["PartitionName"],
            state=record["State"],
            default=record.get("Default") == "YES",
            minutes=minutes(record["MaxTime"]),
            nodes=int(record["MaxNodes"]) if record["MaxNodes"].isdecimal() else None,
        )
        for record in records(text)
    ]


def read_nodes(text: str) -> list[Node]:
    """The nodes in the output of `scontrol show node --oneliner`."""
    return [
        Node(
            name=record["NodeName"],
            state=record["State"],
            partitions=tuple(record.get("Partitions", "").split(",")),
            cpus=int(record["CPUTot"]),
            mem_mb=int(record["RealMemory"]),
            gpus=_gpus(record.get("Gres", "")),
        )
        for record in records(text)
    ]


def _gpus(gres: str) -> dict[str, int]:
    """GPUs by type, from a list such as gpu:a100:4(S:0-1),gpu:2,shard:8."""
    found: dict[str, int] = {}
    for kind, count in re.findall(r"(?:^|,)gpu(?::([^:,(]+))??(?::(\d+))?(?=[,(]|$)", gres):
        found[kind] = found.get(kind, 0) + int(count or 1)
    return found


def minutes(time: str) -> int | None:
    """Minutes of Slurm's [days-]hours:minutes:seconds; None for UNLIMITED."""
    match = re.fullmatch(r"(?:(\d+)-)?(\d+):(\d+):(\d+)", time)
    if not match:
        return None
    days, hours, rest, _ = (int(part or 0) for part in match.groups())
    return (24 * days + hours) * 60 + rest


def _chosen(request: dict[str, Any], partitions: Sequence[Partition]) -> list[Partition]:
    """The partitions that a job may use. Raises UserError if there is none."""
    asked = request.get("slurm_partition")
    if not asked:
        default = [one for one in partitions if one.default]
        if not default:
            raise UserError(
                "no partition is asked for, and Slurm has no default one",
                f"set slurm_partition in {_PROFILE}: {', '.join(one.name for one in partitions)}",
            )
        return default
    names = {one.name: one for one in partitions}
    for name in str(asked).split(","):
        if name not in names:
            raise UserError(f"partition '{name}' is not there", f"in {_PROFILE}: {nearest(name, names)}")
    return [names[name] for name in str(asked).split(",")]


@dataclass(frozen=True)
class Fit:
    """A partition that can run a job: its number of nodes, of nodes that fit the job, and of those that work now."""

    partition: Partition
    nodes: int
    fitting: int
    working: int


def find_fit(request: dict[str, Any], partitions: Sequence[Partition], nodes: Sequence[Node]) -> Fit:
    """The first partition that the job may use and where it fits. Raises UserError if it fits nowhere."""
    errors: list[UserError] = []
    for partition in _chosen(request, partitions):
        try:
            return _fit(request, partition, nodes)
        except UserError as error:
            errors.append(error)
    raise errors[0]


def _fit(request: dict[str, Any], partition: Partition, nodes: Sequence[Node]) -> Fit:
    where, count = f"partition {partition.name}", request.get("nodes", 1)
    fix = "in the model's resources in config.yaml, or choose another partition: slurm_partition in " + _PROFILE
    if partition.state != "UP":
        raise UserError(f"{where} is {partition.state}: jobs wait in it", f"choose another one: {_PROFILE}")
    if partition.minutes is not None and request["runtime"] > partition.minutes:
        raise UserError(
            f"{request['runtime']} minutes asked for, {where} gives {partition.minutes} at most",
            f"set runtime to {partition.minutes} or less {fix}; a training goes on when it is run again",
        )
    if partition.nodes is not None and count > partition.nodes:
        raise UserError(f"{count} nodes asked for, {where} gives {partition.nodes} at most", f"lower nodes {fix}")
    wanted, model = _per_node(request), request.get("gpu_model") if request.get("gpu") else None
    members = [node for node in nodes if partition.name in node.partitions]
    offers = [dict(zip(wanted, (node.cpus, node.mem_mb, node.gpu_count(model)), strict=False)) for node in members]
    fitting = [
        node for node, offer in zip(members, offers, strict=True) if all(offer[one] >= wanted[one] for one in wanted)
    ]
    if len(fitting) < count:
        lacking = [
            f"{wanted[name]} {name} (the most of a node: {max((offer[name] for offer in offers), default=0)})"
            for name in wanted
            if sum(offer[name] >= wanted[name] for offer in offers) < count
        ]
        what = ", ".join(lacking) or "all of it on one node: " + ", ".join(f"{wanted[name]} {name}" for name in wanted)
        some = f"{count} nodes, each with " if count > 1 else ""
        raise UserError(f"{where} does not have {some}{what}", f"ask for less {fix}, or spread the GPUs: nodes")
    return Fit(partition, len(members), len(fitting), sum(node.works for node in fitting))


def _per_node(request: dict[str, Any]) -> dict[str, int]:
    """What a job asks for on each of its nodes."""
    wanted = {"CPUs": request["threads"], "MB": request["mem_mb"]}
    if request.get("gpu"):
        wanted[f"{request.get('gpu_model', '')} GPUs".strip()] = -(-request["gpu"] // request.get("nodes", 1))
    return wanted


def try_submission(request: dict[str, Any]) -> None:
    """Let Slurm itself check a request, with accounts, limits, constraints; no job is submitted. Raises UserError."""
    count = request.get("nodes", 1)
    options = [f"{option}={request[name]}" for name, option in _OPTIONS.items() if request.get(name)]
    options += [f"--nodes={count}", f"--ntasks={count}", f"--cpus-per-task={request['threads']}"]
    options += [f"--mem={request['mem_mb']}", f"--time={request['runtime']}"]
    if request.get("gpu"):
        model = f"{request['gpu_model']}:" if request.get("gpu_model") else ""
        options.append(f"--gpus={model}{request['gpu']}")
    ask("sbatch", "--test-only", "--output=/dev/null", *options, "--wrap=true")
