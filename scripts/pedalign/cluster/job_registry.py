"""Records submitted Slurm jobs, so that a new call takes over the jobs of a killed one.

Snakemake itself keeps no such record: after it was killed, the next call would submit jobs that still run again.
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
    """A Slurm job. `fingerprint`: a digest of its command and inputs; another fingerprint means another job."""

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
    """Mark the outputs of submitted jobs as incomplete, before Snakemake plans its jobs.

    So this call records for them all that decides when they are stale. Inside a job, Snakemake removes the mark.
    """
    if not submitted:
        return
    from snakemake.persistence.file import FilePersistence

    persistence: Any = FilePersistence()
    for record in submitted:
        for output in record.outputs:
            persistence._mark_incomplete(output, record.id)


def refuse_beside(submitted: Sequence[Record]) -> None:
    """Raises UserError: jobs can't run here while Slurm may still run the same ones."""
    ids = " ".join(record.id for record in submitted)
    raise UserError(
        f"Slurm jobs of an earlier call may still run: {ids}",
        f"start `snakemake --profile slurm` again, which takes them up, or end them: scancel {ids}; rm -r {RECORDS}",
    )
