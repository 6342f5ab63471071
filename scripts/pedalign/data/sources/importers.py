"""The registry of formats that scripts/import_conversations.py reads: each is an entry in IMPORTERS."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from pedalign.data.rubric import Rubric
from pedalign.data.sources import mathdial, phys300
from pedalign.data.sources.imported import Imported


@dataclass(frozen=True)
class Importer:
    """A format: what its file is in words (`described`), its reader and its default rubric.

    `read` makes conversations of the lines, without line ends; it raises UserError if the rubric does not fit.
    """

    described: str
    read: Callable[[Iterable[str], Rubric], Imported]
    rubric: str = "datasets/rubrics/class.yaml"


IMPORTERS: dict[str, Importer] = {
    "mathdial": Importer("MathDial's JSON lines", mathdial.conversations, "datasets/rubrics/mathdial.yaml"),
    "phys300": Importer(
        "JSON objects with 'id' and 'conversations' of 'student' and states of the tutor such as 'initial_state'",
        phys300.conversations,
        "datasets/rubrics/physics.yaml",
    ),
}
