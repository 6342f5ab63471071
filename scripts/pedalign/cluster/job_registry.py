"""Keeps a record of submitted Slurm jobs, so that a new call takes up those that a killed one left.

Snakemake itself forgets: when it is killed, the next call would submit the same jobs beside those that still run.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pedalign.core.artifacts import write_json
from pedalign.core.errors import UserError

RECORDS = Path(".snakemake/slurm_steady")


@dataclass(frozen=True)
class Record:
    """A Slurm job. `fingerprint` is of its command and inputs: a job with another one is another job."""

    id: str
    outputs: list[str]
    fingerprint: str
    log: str


def records() -> list[Record]:
    return [Record(**json.loads(file.read_text())) for file in sorted(RECORDS.glob("[0-9]*.json"))]


def remember(record: Record) -> None:
    write_json(RECORDS / f"{record.id}.json", asdict(record))


def forget(job: str) -> None:
    (RECORDS / f"{job}.json").unlink(missing_ok=True)


def mark_unfinished(submitted: Sequence[Record]) -> None:
    """Before the jobs are planned: what is on record counts as not finished, so that this call books it with all that
    decides when it is stale. Inside a job, Snakemake takes the mark off."""
    if not submitted:
        return
    from snakemake.persistence.file import FilePersistence

    persistence: Any = FilePersistence()
    for record in submitted:
        for output in record.outputs:
            persistence._mark_incomplete(output, record.id)


def refuse_beside(submitted: Sequence[Record]) -> None:
    """Raises UserError: jobs can't run here while these may run there."""
    ids = " ".join(record.id for record in submitted)
    raise UserError(
        f"Slurm jobs of an earlier call may still run: {ids}",
        f"start `snakemake --profile slurm` again, which takes them up, or end them: scancel {ids}; rm -r {RECORDS}",
    )
