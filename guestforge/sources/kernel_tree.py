"""A kernel tree in the store, wherever it came from: what every kind of source makes, and the kernel step reads."""

import json
from dataclasses import dataclass
from pathlib import Path

from guestforge.core.store import Entry

TREE = "tree"  # a folder of the entry
FACTS = "source.json"


@dataclass(frozen=True, slots=True)
class KernelTree:
    """A read-only kernel tree. `date` (seconds since 1970) is when its source was made."""

    entry: Entry
    version: str
    date: int

    @property
    def path(self) -> Path:
        """Return the tree's top directory, by its real path: make's own are, and must be mapped away."""
        return (self.entry.path / TREE).resolve()


def kernel_tree(entry: Entry) -> KernelTree:
    """Return the tree of an entry that a source made; raises UserError for one that has been changed since."""
    facts = json.loads(entry.file(FACTS).read_text())
    return KernelTree(entry, facts["version"], int(facts["date"]))


def write_facts(out: Path, version: str, date: int) -> None:
    """Write what an entry says of its tree."""
    (out / FACTS).write_text(json.dumps({"version": version, "date": date}))
