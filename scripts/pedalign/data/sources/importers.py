"""The registry of formats that `import:` and scripts/import_conversations.py read: each is an entry in IMPORTERS."""

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from pedalign.data.rubric import Rubric
from pedalign.data.sources import chats, mathdial, phys300
from pedalign.data.sources.imported import Imported


@dataclass(frozen=True)
class Importer:
    """A format: what its file is in words (`described`), its reader and its default rubric.

    `read` makes conversations of the lines, without line ends; it raises UserError if the rubric does not fit.
    `banks`: a problem bank (YAML, CSV) is a file of this format too; scripts/simulate.py makes conversations of it.
    """

    described: str
    read: Callable[[Iterable[str], Rubric], Imported]
    rubric: str = "datasets/rubrics/class.yaml"
    banks: bool = False

    @property
    def module(self) -> Path:
        """The file in which `read` is defined."""
        return Path(str(sys.modules[self.read.__module__].__file__))


IMPORTERS: dict[str, Importer] = {
    "class": Importer("CLASS's conversations, or a problem bank", chats.class_conversations, banks=True),
    "mathdial": Importer("MathDial's JSON lines", mathdial.conversations, "datasets/rubrics/mathdial.yaml"),
    "messages": Importer("chats, with 'messages' of 'role' and 'content'", chats.messages),
    "phys300": Importer(
        "JSON objects with 'id' and 'conversations' of 'student' and states of the tutor such as 'initial_state'",
        phys300.conversations,
        "datasets/rubrics/physics.yaml",
    ),
    "sharegpt": Importer("chats, with 'conversations' of 'from' and 'value'", chats.sharegpt),
}


def is_bank(path: str) -> bool:
    """Whether a file is a problem bank, by how its name ends."""
    return path.lower().endswith((".csv", ".yaml", ".yml"))
