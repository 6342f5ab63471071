"""Run a script on the GPUs of its job: in one process, or by accelerate in several.

On each machine the GPUs are locked, so that no two jobs use the same one; CUDA_VISIBLE_DEVICES of Slurm or the caller
says which GPUs there are. For a job over several nodes, this launcher starts itself once on each of them. SIGTERM,
Ctrl-C and a closed terminal reach the script as SIGTERM: a training saves its state, and the launcher ends with status
75.

Reads   nothing
Writes  --log: what the script prints (it is also printed here), how long it waited for GPUs, how much memory it took

    python scripts/launch.py --gpu 4 --nodes 1 --threads 16 --log sft.log -- scripts/sft.py ...
"""

import argparse
import os
import resource
import socket
import sys
import time
from pathlib import Path
from typing import Any

from pedalign.cluster.gpu_locks import lease, visible_devices
from pedalign.cluster.launching import Acts, Nodes, Output, command, environment, free_port, srun, supervise
from pedalign.core.errors import UserError, argument_parser, run
from pedalign.core.settings import settings_values


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--gpu", type=int, default=0, help="GPUs of the job, over all its nodes")
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1, help="per node")
    parser.add_argument("--log", type=Path)
    parser.add_argument("--rendezvous", help="host:port of the first of several nodes (set by this script itself)")
    parser.add_argument("script", nargs="+", help="the script and its arguments")
    args = parser.parse_args()

    output = Output(args.log, args.script[args.script.index("--output") + 1] if "--output" in args.script else None)
    try:
        status = _launch(args, output)
    except UserError as error:
        output.write(f"{error}\n".encode())
        status = 1
    output.end()
    sys.exit(status)


def _launch(args: argparse.Namespace, output: Output) -> int:
    if args.gpu % args.nodes:
        raise UserError(f"{args.gpu} GPUs can't be spread evenly over {args.nodes} nodes", "change 'gpu' or 'nodes'")
    if args.nodes > 1 and not args.rendezvous:
        options = [f"--{name}={getattr(args, name)}" for name in ("gpu", "nodes", "threads")]
        rendezvous = f"--rendezvous={socket.gethostname()}:{free_port()}"
        launcher = [__file__, *options, rendezvous, "--", *args.script]
        return supervise(srun(launcher, args.nodes, args.gpu, args.threads), dict(os.environ), output, Acts.NOBODY)

    processes = max(1, args.gpu)
    here = args.gpu // args.nodes
    started = command(args.script, processes, _settings(args.script), args.threads, _nodes(args))
    visible = visible_devices() if here else []
    asked = time.monotonic()
    with lease(here, visible, output.say, Path(args.script[0]).stem) as devices:
        if here:
            output.note(f"waited {time.monotonic() - asked:.1f} s for GPUs")
        where = f"GPUs {','.join(devices)}" if devices else "the CPU"
        output.note(f"{processes} processes on {args.nodes} nodes; {socket.gethostname()}: {where}")
        acts = Acts.PROCESSES if processes > 1 else Acts.COMMAND
        status = supervise(started, environment(devices, processes), output, acts)
        held = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss  # KiB
        output.note(f"the largest process held {held * 1024 / 1e9:.3f} GB")
        return status


def _nodes(args: argparse.Namespace) -> Nodes:
    if args.nodes == 1:
        return Nodes()
    host, _, port = args.rendezvous.rpartition(":")
    return Nodes(args.nodes, int(os.environ["SLURM_NODEID"]), host, int(port))


def _settings(script: list[str]) -> dict[str, Any]:
    """The values of the script's --settings."""
    return settings_values(script[script.index("--settings") + 1]) if "--settings" in script else {}


if __name__ == "__main__":
    run(main)
