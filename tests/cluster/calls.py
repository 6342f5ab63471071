"""`snakemake --profile slurm` in checkouts, on a cluster."""

import hashlib
import json
import os
import signal
import subprocess

from checkouts import QUICK, Checkout
from slurm import Cluster, wait_for

LONG = (QUICK, "tests/config/cluster.yaml")
QUICKLY = ("--slurm-steady-init-seconds-before-status-checks", "1", "--seconds-between-status-checks", "1")
TUNED = "results/tiny/sft/checkpoint.json"


class Call:
    """`snakemake --profile slurm`, running in a checkout."""

    def __init__(
        self,
        checkout: Checkout,
        cluster: Cluster,
        *options: str,
        config: tuple[str, ...] = LONG,
        target: str = TUNED,
    ) -> None:
        self.checkout = checkout
        self.cluster = cluster
        self.output = checkout.path / "call.log"
        command = ["snakemake", "--profile", "slurm", *QUICKLY, *options, "--configfile", *config, "--", target]
        with self.output.open("w") as output:
            self.process = subprocess.Popen(
                command, cwd=checkout.path, env=cluster.environment, stdout=output, stderr=subprocess.STDOUT
            )

    @property
    def said(self) -> str:
        return self.output.read_text()

    def finish(self, seconds: float = 300) -> int:
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    def succeed(self, seconds: float = 300) -> None:
        status = self.finish(seconds)
        assert status == 0, self.said[-5000:]

    def kill(self) -> None:
        """As a power cut does: nothing is tidied up."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def jobs(self, rule: str) -> list[dict[str, str]]:
        """This checkout's Slurm jobs of a rule, in the order of their submission."""
        ours = [job for job in self.cluster.jobs() if job["WorkDir"] == str(self.checkout.path)]
        named = [job for job in ours if job.get("Comment", "").split("_wildcards_")[0] == f"rule_{rule}"]
        return sorted(named, key=lambda job: int(job["JobId"]))

    def running(self, rule: str = "sft", saved: int = 40) -> dict[str, str]:
        """The Slurm job of the rule, once it has saved the state of so many steps."""

        def states() -> list[int]:
            files = self.checkout.path.glob("results/tiny/*/checkpoint.state-*/checkpoint-*/whole.json")
            return [int(file.parent.name.rpartition("-")[2]) for file in files]

        def ready() -> bool:
            assert self.process.poll() is None, self.said[-5000:]
            return max(states(), default=0) >= saved

        wait_for(ready, f"a state of step {saved}", 120)
        return next(job for job in self.jobs(rule) if job["JobState"] == "RUNNING")


def trained_here(checkout: Checkout, config: tuple[str, ...]) -> str:
    command = ["snakemake", "--cores", "2", "--configfile", *config, "--", TUNED]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "0", "PEDALIGN_LEASES": str(checkout.path / "leases")}
    subprocess.run(command, cwd=checkout.path, env=environment, check=True, capture_output=True)
    return weights(checkout)


def weights(checkout: Checkout, tutor: str = "tiny/sft") -> str:
    """Their hash, which the manifest agrees with."""
    folder = checkout.path / "results" / tutor
    found = hashlib.sha256((folder / "checkpoint/model.safetensors").read_bytes()).hexdigest()
    assert json.loads((folder / "checkpoint.json").read_text())["files"]["model.safetensors"]["sha256"] == found
    assert not list(folder.glob("checkpoint.state-*"))
    return found
