"""The formats that scripts/import_conversations.py reads, a registry: a function each, and its entry in IMPORTERS."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from pedalign.data.rubric import Rubric
from pedalign.data.sources import mathdial
from pedalign.data.sources.imported import Imported


@dataclass(frozen=True)
class Importer:
    """`described`: what the file is, in words. `read`: its lines, without their ends, to conversations; raises
    UserError where the rubric does not fit. `rubric`: the one that is read with unless another is given."""

    described: str
    read: Callable[[Iterable[str], Rubric], Imported]
    rubric: str = "datasets/rubrics/class.yaml"


IMPORTERS: dict[str, Importer] = {
    "mathdial": Importer("MathDial's JSON lines", mathdial.conversations, "datasets/rubrics/mathdial.yaml"),
}
