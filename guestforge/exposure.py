"""Whether other users of the host can reach what a guest makes in a directory that is shared with it.

A guest may do with a share as root does: open its top to everybody, and put a set-user-ID program, a program with
capabilities or the device of a disk there. Those are harmless where nobody else gets to the directory, or where the
file system is mounted so that they mean nothing.
"""

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from guestforge.errors import UserError

HARMLESS: Final = {"nosuid": os.ST_NOSUID, "nodev": os.ST_NODEV}
MOUNTS: Final = Path("/proc/self/mountinfo")
REMEDY: Final = (
    "make a directory above it, one of root's, 0700, or share a file system that is mounted with nosuid,nodev; where "
    "nobody else uses this host, --allow-exposed"
)

_SEARCH: Final = 0o1  # a permission of a directory: to enter it
# include/uapi/linux/posix_acl_xattr.h: a version, then tag, permissions and id of each entry
_LIST: Final = "system.posix_acl_access"
_ENTRY: Final = struct.Struct("<HHI")
_USER: Final = 0x02
_GROUP: Final = 0x08
_EVERYBODY: Final = ["0", "0", "4294967295"]


def is_real_root() -> bool:
    """Whether we are root and have all users of the host: not in a user namespace that has few of them."""
    try:
        return os.geteuid() == 0 and Path("/proc/self/uid_map").read_text().split() == _EVERYBODY
    except OSError:
        return False


def refuse_exposed(directory: Path, mounts: Path = MOUNTS) -> None:
    """Raise UserError for a directory in which other users of the host could reach what a guest makes."""
    if why := exposed(directory, mounts):
        raise UserError(f"share {directory}: {why}", hint=REMEDY)


def exposed(directory: Path, mounts: Path = MOUNTS) -> str | None:
    """Return why other users could reach what a guest makes in a directory; None where they can't.

    They can't where a directory above it, which is out of the guest's reach, lets nobody else in; nor where every file
    system in it is mounted with nosuid and nodev. `mounts` is a mountinfo of proc(5).
    """
    top = directory.resolve(strict=True)
    if any(_closed(above) for above in top.parents):
        return None
    for place in (top, *_mounted_below(top, mounts)):
        if missing := _missing(place):
            return (
                "a guest may open it to all users of this host, and put programs and devices of its own there: no "
                f"directory above it is closed to them, and {place} is mounted without {' and '.join(missing)}"
            )
    return None


def _missing(place: Path) -> list[str]:
    """Return the options that a mount would need."""
    try:
        flags = os.statvfs(place).f_flag
    except OSError:  # a mount that lets not even us in
        return []
    return [name for name, flag in HARMLESS.items() if not flags & flag]


def _closed(directory: Path) -> bool:
    """Whether a directory lets in nobody but root and us."""
    status = directory.stat()
    if status.st_uid not in {0, os.geteuid()} or status.st_mode & _SEARCH:
        return False
    if status.st_mode & _SEARCH << 3 and status.st_gid not in {0, os.getegid()}:
        return False
    return not any(_named_others(directory))


def _named_others(directory: Path) -> Iterator[int]:
    """Yield the users and groups, other than root's and ours, whom an access control list lets in by name."""
    try:
        value = os.getxattr(directory, _LIST)
    except OSError:  # none, or a file system without
        return
    ours = {_USER: os.geteuid(), _GROUP: os.getegid()}
    for tag, permissions, number in _ENTRY.iter_unpack(value[4:]):
        if tag in ours and permissions & _SEARCH and number not in {0, ours[tag]}:
            yield number


def _mounted_below(top: Path, mounts: Path) -> Iterator[Path]:
    """Yield the mount points below a directory; a server shares them too."""
    for line in mounts.read_bytes().splitlines():
        place = Path(os.fsdecode(line.split()[4].decode("unicode_escape").encode("latin-1")))
        if top in place.parents:
            yield place
