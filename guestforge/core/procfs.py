"""Files of /proc with a `name: value` a line, such as status and meminfo of proc(5)."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Memory:
    """Memory in KiB: resident, and with each shared page divided by the processes that have it."""

    rss_kib: int
    pss_kib: int


def fields(path: Path) -> Mapping[str, str]:
    """Return the values by their names, of a name that comes several times the first one; raises OSError."""
    found: dict[str, str] = {}
    for line in path.read_text().splitlines():
        name, _, value = line.partition(":")
        found.setdefault(name.strip(), value.strip())
    return found


def memory(process: Path) -> Memory | None:
    """Return the memory of a process, by its directory in /proc; None where nothing is mapped any more.

    Raises OSError for one that has ended, and where we may not look.
    """
    rows = fields(process / "smaps_rollup")
    return Memory(*(int(rows[name].split()[0]) for name in ("Rss", "Pss"))) if "Rss" in rows else None
