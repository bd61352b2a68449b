"""What a step uses of the host's distribution."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from guestforge.core.run import find_tool


@dataclass(frozen=True, slots=True)
class Need:
    """Something of the host that a step uses, and the Debian package that has it.

    It is there when the program `tool` is on PATH or in the system directories, or when `file` exists: an absolute
    path with globs, or several with colons between, any of which will do.
    """

    package: str
    tool: str = ""
    file: str = ""

    @property
    def name(self) -> str:
        """What a person would look for: the program, or the file."""
        return self.tool or self.file.partition(os.pathsep)[0]

    def is_met(self) -> bool:
        """Whether it is there; a few stat(2) calls."""
        if self.tool and find_tool(self.tool):
            return True
        places = (place.lstrip("/") for place in self.file.split(os.pathsep))
        return any(next(Path("/").glob(place), None) for place in places if place)


def missing(needs: Iterable[Need]) -> tuple[Need, ...]:
    """Return those of the needs that are not met, each once."""
    return tuple(need for need in dict.fromkeys(needs) if not need.is_met())
