"""SHA256SUMS, as `sha256sum -c` reads it and as we write it: a line a file, in the order of their names."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from guestforge.core.files import digest_file
from guestforge.release.documents import Refused
from guestforge.release.names import DIGEST, NAME, SUMS

LIMIT: Final = 1024 * 1024  # bytes
LINE: Final = re.compile(rf"({DIGEST.pattern})  ({NAME.pattern})")


def sums_text(digests: Mapping[str, str]) -> bytes:
    """Return the file that says which SHA-256 each file has."""
    return "".join(f"{digests[name]}  {name}\n" for name in sorted(digests)).encode()


def digests_of(directory: Path) -> dict[str, str | None]:
    """Return the SHA-256 of what is in a directory by its names; None for what is no file, and for links."""
    return {
        path.name: digest_file(path) if path.is_file() and not path.is_symlink() else None
        for path in directory.iterdir()
    }


def read_sums(data: bytes) -> dict[str, str]:
    """Return the SHA-256 of each file by its name; raises Refused for anything that we would not have written."""
    if len(data) > LIMIT:
        raise Refused(f"{SUMS} has more than {LIMIT} bytes")
    digests: dict[str, str] = {}
    for number, line in enumerate(data.decode("ascii", "replace").split("\n")[:-1], 1):
        found = LINE.fullmatch(line)
        if found is None:
            raise Refused(f"line {number} is not a SHA-256, two blanks and a name")
        digests[found[2]] = found[1]
    if sums_text(digests) != data:
        raise Refused("its lines are not in order, or one is there twice, or the last one does not end")
    return digests
