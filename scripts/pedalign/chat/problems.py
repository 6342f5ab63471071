"""What a tutor knows: examples of the problems that it was fine-tuned on, to begin a conversation with."""

from itertools import islice
from pathlib import Path

from pedalign.core.artifacts import sha256
from pedalign.core.errors import UserError
from pedalign.core.json_stream import read_records
from pedalign.core.provenance import manifest_path, read_record

_PROJECT = Path(__file__).parents[3]
_READ = 500  # conversations of the SFT split that are looked at
_LONGEST = 300  # characters of a problem


def known_problems(checkpoint: Path, most: int = 3) -> list[str]:
    """Opening turns of students in a tutor's SFT split, spread over it; at most `most`, each once.

    Empty if the split is not at hand as it was (for a tutor that was trained elsewhere, say), or has only long ones.
    """
    sft = checkpoint if checkpoint.parent.name == "sft" else checkpoint.parent.parent / "sft" / checkpoint.name
    try:
        known = read_record(manifest_path(sft))["made_from"]
        split, digest = next((path, made) for path, made in known.items() if path.endswith(".json"))
        moved = sft.parents[2] / "data" / Path(split).name  # with the folder of results
        path = next(path for path in (Path(split), _PROJECT / split, moved) if path.is_file())
        if sha256(path) != digest:
            return []
        records = list(islice(read_records(path), _READ))
        openings = dict.fromkeys(str(record["conversations"][0]["value"]).strip() for record in records)
    except (UserError, OSError, StopIteration, KeyError, IndexError, TypeError):
        return []
    short = [opening for opening in openings if 0 < len(opening) <= _LONGEST]
    return short[:: max(1, len(short) // most)][:most]
