"""Files of /proc with a `name: value` a line, such as status and meminfo of proc(5)."""

from collections.abc import Mapping
from pathlib import Path


def fields(path: Path) -> Mapping[str, str]:
    """Return the values by their names, of a name that comes several times the first one; raises OSError."""
    found: dict[str, str] = {}
    for line in path.read_text().splitlines():
        name, _, value = line.partition(":")
        found.setdefault(name.strip(), value.strip())
    return found
