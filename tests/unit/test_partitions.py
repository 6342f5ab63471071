"""Slurm's partitions and nodes as scontrol shows them, and the jobs that they can run."""

import pytest

from pedalign.cluster import partitions
from pedalign.cluster.partitions import find_fit, read_nodes, read_partitions

PARTITIONS = """\
PartitionName=gpu AllowGroups=ALL Default=YES QoS=N/A MaxNodes=2 MaxTime=1-01:10:00 MinNodes=0 Nodes=n[1-3] State=UP
PartitionName=cpu AllowGroups=ALL Default=NO MaxNodes=UNLIMITED MaxTime=UNLIMITED Nodes=c1 State=UP TRES=cpu=16,node=1
PartitionName=old AllowGroups=ALL Default=NO MaxNodes=UNLIMITED MaxTime=00:30:00 Nodes=c1 State=DOWN TRES=cpu=16
"""
NODES = """\
NodeName=n1 CPUTot=32 Gres=gpu:a100:4(S:0-1) OS=Linux 6 #1 SMP @0  RealMemory=256000 State=IDLE Partitions=gpu  CfgTRES=
NodeName=n2 CPUTot=32 Gres=gpu:a100:4 RealMemory=256000 State=MIXED+PLANNED Partitions=gpu Reason=a reason [root@2026]
NodeName=n3 Arch=x86_64 CPUTot=64 Gres=gpu:v100:8,shard:8 RealMemory=128000 State=DOWN*+DRAIN Partitions=gpu,all
NodeName=c1 Arch=x86_64 CPUTot=16 Gres=(null) RealMemory=64000 State=IDLE Partitions=cpu,old
"""
JOB = {"gpu": 4, "nodes": 1, "threads": 16, "mem_mb": 200000, "runtime": 480}


def test_slurms_partitions_and_nodes_are_read():
    gpu, cpu, old = read_partitions(PARTITIONS)
    assert (gpu.name, gpu.default, gpu.minutes, gpu.nodes) == ("gpu", True, 25 * 60 + 10, 2)
    assert (cpu.default, cpu.minutes, cpu.nodes, old.state, old.minutes) == (False, None, None, "DOWN", 30)
    n1, n2, n3, c1 = read_nodes(NODES)
    assert (n1.cpus, n1.mem_mb, n1.gpus, n1.works, n1.partitions) == (32, 256000, {"a100": 4}, True, ("gpu",))
    assert (n2.gpus, n2.works, n3.gpus, n3.works, n3.partitions) == (
        {"a100": 4},
        True,
        {"v100": 8},
        False,
        ("gpu", "all"),
    )
    assert c1.gpus == {}


@pytest.mark.parametrize(
    ("gres", "gpus"),
    [
        ("gpu:4", {"": 4}),
        ("gpu:1080:2", {"1080": 2}),
        ("gpu:a100", {"a100": 1}),
        ("gpu", {"": 1}),
        ("gpu:a100:2(S:0),gpu:v100:1(S:1)", {"a100": 2, "v100": 1}),
        ("mps:100,gpu:2", {"": 2}),
        ("(null)", {}),
        ("nogpu:2", {}),
    ],
)
def test_the_gpus_of_a_node_are_read_with_their_types(gres, gpus):
    (node,) = read_nodes(f"NodeName=n CPUTot=1 Gres={gres} RealMemory=1 State=IDLE Partitions=p")
    assert node.gpus == gpus


@pytest.mark.parametrize(
    ("changed", "fits"),
    [
        ({}, ("gpu", 2, 2)),
        ({"gpu": 8, "mem_mb": 100000}, ("gpu", 1, 0)),
        ({"gpu": 8, "nodes": 2}, ("gpu", 2, 2)),
        ({"gpu_model": "a100"}, ("gpu", 2, 2)),
        ({"gpu": 0, "gpu_model": "h100"}, ("gpu", 2, 2)),
        ({"gpu": 0, "mem_mb": 1000, "slurm_partition": "cpu"}, ("cpu", 1, 1)),
        ({"gpu": 0, "mem_mb": 1000, "slurm_partition": "old,cpu"}, ("cpu", 1, 1)),
    ],
)
def test_a_job_fits_where_enough_nodes_have_what_it_asks_for(changed, fits):
    fit = find_fit({**JOB, **changed}, read_partitions(PARTITIONS), read_nodes(NODES))
    assert (fit.partition.name, fit.fitting, fit.working) == fits


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"slurm_partition": "gpus"}, ("partition 'gpus' is not there", "did you mean 'gpu'")),
        ({"slurm_partition": "old", "gpu": 0}, ("partition old is DOWN",)),
        ({"runtime": 1511}, ("1511 minutes asked for, partition gpu gives 1510 at most", "set runtime to 1510")),
        ({"nodes": 3, "gpu": 12}, ("3 nodes asked for, partition gpu gives 2 at most",)),
        ({"gpu": 16}, ("does not have 16 GPUs (the most of a node: 8)",)),
        ({"gpu": 8}, ("does not have all of it on one node", "200000 MB", "8 GPUs")),
        ({"gpu": 8, "mem_mb": 1000, "gpu_model": "a100"}, ("does not have 8 a100 GPUs (the most of a node: 4)",)),
        ({"gpu": 16, "nodes": 2, "mem_mb": 1000}, ("2 nodes, each with 8 GPUs (the most of a node: 8)",)),
        ({"threads": 65}, ("65 CPUs (the most of a node: 64)",)),
        ({"mem_mb": 256001}, ("256001 MB (the most of a node: 256000)",)),
    ],
)
def test_a_job_that_can_never_start_is_refused_with_what_it_lacks(changed, words, refused):
    with refused(*words):
        find_fit({**JOB, **changed}, read_partitions(PARTITIONS), read_nodes(NODES))


def test_no_partition_asked_for_and_no_default_one_is_refused(refused):
    with refused("no default one", "set slurm_partition", "gpu, cpu, old"):
        find_fit(JOB, read_partitions(PARTITIONS.replace("Default=YES", "Default=NO")), read_nodes(NODES))


def test_a_command_of_slurm_that_hangs_fails_or_is_missing_is_told_apart(monkeypatch, refused):
    monkeypatch.setattr(partitions, "TIMEOUT", 0.2)
    with refused("sleep does not answer within 0.2 s"):
        partitions.ask("sleep", "5")
    with refused("ls failed", "No such file"):
        partitions.ask("ls", "/no/such/file")
    with refused("no-such-slurm: no such program", "login node"):
        partitions.ask("no-such-slurm")
