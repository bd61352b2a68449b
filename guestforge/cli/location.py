"""Which file of the user's an error speaks of, and which line: messages name both, as compilers do."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

MAX_TEXT: Final = 64 * 1024  # characters of an error that are looked through
MOST: Final = 10  # locations
_PLACE: Final = re.compile(r" *(?:error: )?(?P<file>[^\s:][^:]*?)(?::(?P<line>\d{1,7}))?(?::\d{1,7})?: (?P<text>.+)")
_TOML: Final = re.compile(r"\(at line (\d{1,7}), column \d+\)$")  # as tomllib says it


@dataclass(frozen=True, slots=True)
class Location:
    """A file, relative to the top of a clone; `line` counts from 1, and is 0 where only the file is known."""

    file: Path
    line: int


def locations(text: str, top: Path, bases: Sequence[Path]) -> Iterator[tuple[Location, str]]:
    """Yield the places that an error's text names, each with what it says of it; only files within `top` that exist.

    A name that is not absolute is looked up in the `bases`.
    """
    seen: set[Location] = set()
    for line in text[:MAX_TEXT].split("\n"):
        found = _PLACE.fullmatch(line)
        file = _file(found["file"], top, bases) if found else None
        if found is None or file is None:
            continue
        toml = _TOML.search(found["text"])
        location = Location(file, int(found["line"] or (toml[1] if toml else 0)))
        if location not in seen and len(seen) < MOST:
            seen.add(location)
            yield location, found["text"]


def _file(name: str, top: Path, bases: Sequence[Path]) -> Path | None:
    for base in bases:
        try:
            path = (base / name).resolve()
            inside = path.relative_to(top.resolve())  # ValueError for one elsewhere
            if path.is_file():
                return inside
        except (OSError, ValueError):  # no name that a file can have
            continue
    return None
