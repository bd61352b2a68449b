"""The form of our tars: which bytes stand before, between and behind the files. It leaves nothing to choose.

POSIX.1-2001, as Python's tarfile writes it: https://pubs.opengroup.org/onlinepubs/9699919799/utilities/pax.html.
Each file belongs to nobody in particular (owner 0), is readable by all and has the same time. So a reader who knows
names and sizes knows every byte that is not content, and compares.
"""

import tarfile
from typing import Final

BLOCK: Final = tarfile.BLOCKSIZE
MODE: Final = 0o644
MAX_EPOCH: Final = 8**11 - 1  # seconds since 1970; what a header has room for


def header(name: str, size: int, epoch: int) -> bytes:
    """Return what stands before a file's content: one block, or three where a size or a name needs more room."""
    member = tarfile.TarInfo(name)
    member.size, member.mtime, member.mode = size, epoch, MODE
    return member.tobuf(tarfile.PAX_FORMAT, "utf-8", "strict")


def padding(size: int) -> bytes:
    """Return what stands behind a content of this size."""
    return bytes(-size % BLOCK)


def ending(place: int) -> bytes:
    """Return what ends a tar of which `place` bytes have been written: two blocks of zeros, up to a whole record."""
    end = 2 * BLOCK
    return bytes(end + -(place + end) % tarfile.RECORDSIZE)


def fault(block: bytes, name: str, size: int | None, seen: frozenset[str] | set[str]) -> str:
    """Return what is wrong with a block that is not the header of the file that should follow.

    `size` is that file's, None for any; `seen` are the names of the files before it.
    """
    if not block.strip(b"\0"):
        return f"{name} is missing"
    try:
        found = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return f"there is no header where {name} should be"
    shown = ascii(found.name[:200])
    faults = {
        f"{shown} is {_kind(found)}, where {name} should be": not found.isreg(),
        f"{shown} is there a second time": found.name in seen,
        f"{shown} leads out of the archive": found.name.startswith("/") or ".." in found.name.split("/"),
        f"{shown} is there, where {name} should be": found.name != name,
        f"{name} has {found.size} bytes in it, and {size} by the manifest": size not in (None, found.size),
    }
    rest = f"mode {found.mode:o}, owner {found.uid}:{found.gid}, time {found.mtime}"
    return next((text for text, it_is in faults.items() if it_is), f"the header of {name} is not as ours: {rest}")


def _kind(found: tarfile.TarInfo) -> str:
    kinds = {"a symbolic link": found.issym(), "a hard link": found.islnk(), "a directory": found.isdir()}
    special = "a device or a pipe" if found.isdev() else "something else than a file"
    return next((kind for kind, it_is in kinds.items() if it_is), special)
