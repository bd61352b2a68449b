"""Whether other users of the host can reach what a guest makes in a directory that is shared with it.

A guest may do with a share as root does: open its top to everybody, and put a set-user-ID program, a program with
capabilities or the device of a disk there. Those are harmless where nobody else gets to the directory, or where the
file system is mounted so that they mean nothing. A directory may have several places, by bind mounts: each counts that
is in our mount namespace.
"""

import errno
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from guestforge.core.capabilities import ALL_IDS, PROC, bits, effective, id_map
from guestforge.core.errors import UserError

HARMLESS: Final = frozenset({"nosuid", "nodev"})

# With any of these, what is made can be root's, a device, or as good as root's program.
_RIGHTS: Final = bits(
    ("CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "SETGID", "SETUID", "SYS_ADMIN", "MKNOD", "SETFCAP")
)

_SEARCH: Final = 0o1  # a permission of a directory: to enter it
# include/uapi/linux/posix_acl_xattr.h: a version, then tag, permissions and id of each entry
_LIST: Final = "system.posix_acl_access"
_ENTRY: Final = struct.Struct("<HHI")
_USER: Final = 0x02
_GROUP: Final = 0x08


@dataclass(frozen=True, slots=True)
class Mount:
    """A line of mountinfo, proc(5): a file system (its device number) from `root` in it on is seen at `place`."""

    device: str
    root: Path
    place: Path
    options: frozenset[str]


_NOWHERE: Final = Mount("", Path("/"), Path("/"), frozenset())


def is_real_root() -> bool:
    """Whether we are root and have all users of the host: not in a user namespace that has few of them."""
    return os.geteuid() == 0 and ALL_IDS in id_map(PROC / "uid_map")


def acts_as_root(proc: Path = PROC) -> bool:
    """Whether what we make for a guest can be root's on the host, or as dangerous.

    It can where we are root, or have rights of root's. Root of a user namespace is the host's, too, if that is who made
    the namespace; other rights count in the host's own namespace alone. `proc` is our process's directory in /proc.
    """
    users = id_map(proc / "uid_map")
    if os.geteuid() == 0 and any(inside == outside == 0 for inside, outside, _ in users):
        return True
    return ALL_IDS in users and bool(effective(proc) & _RIGHTS)


def refuse_exposed(directory: Path, allow: str) -> None:
    """Raise UserError for a directory in which other users of the host could reach what a guest makes.

    `allow` is what a user would say to have it shared all the same.
    """
    try:
        why = exposed(directory)
    except OSError as e:
        raise UserError(f"share {directory}: {e.strerror}") from e
    if why:
        remedy = "make a directory above it, one of root's, 0700, or share a file system mounted with nosuid,nodev"
        raise UserError(f"share {directory}: {why}", hint=f"{remedy}; where nobody else uses this host, {allow}")


def exposed(directory: Path, proc: Path = PROC) -> str | None:
    """Return why other users could reach what a guest makes in a directory; None where they can't.

    They can't where, at each of its places, a directory above it, which is out of the guest's reach, lets nobody else
    in, or the mount has nosuid and nodev; and so with all that is mounted below it. Raises OSError for what is not
    there.
    """
    top = directory.resolve(strict=True)
    mounts = tuple(_mounts(proc / "mountinfo"))
    for mount, inside in _shared(top, mounts):
        for other, place in _places(mount, inside, mounts):
            missing = sorted(HARMLESS - other.options)
            if missing and not any(_closed(above) for above in place.parents):
                return (
                    "a guest may open it to all users of this host, and put programs and devices of its own there: no "
                    f"directory above {place} is closed to them, and {other.place} is mounted without "
                    f"{' and '.join(missing)}"
                )
    return None


def _shared(top: Path, mounts: tuple[Mount, ...]) -> Iterator[tuple[Mount, Path]]:
    """Yield the mounts of which a share has a part, and where in the file system that begins."""
    here = _NOWHERE  # in a chroot the mount of the root may have no line
    for mount in mounts:  # of several at one place the last one hides the others
        if top.is_relative_to(mount.place) and len(mount.place.parts) >= len(here.place.parts):
            here = mount
    yield here, here.root / top.relative_to(here.place)
    yield from ((mount, mount.root) for mount in mounts if top in mount.place.parents)


def _places(mount: Mount, inside: Path, mounts: tuple[Mount, ...]) -> Iterator[tuple[Mount, Path]]:
    """Yield where a directory of a file system, or a part of it, is seen: by which mounts, and at which paths."""
    for other in mounts if mount is not _NOWHERE else (mount,):
        if other.device != mount.device:
            continue
        if inside.is_relative_to(other.root):
            yield other, other.place / inside.relative_to(other.root)
        elif other.root.is_relative_to(inside):
            yield other, other.place


def _mounts(table: Path) -> Iterator[Mount]:
    for line in table.read_bytes().splitlines():
        _, _, device, root, place, options, *_ = line.split(b" ")
        yield Mount(device.decode(), _path(root), _path(place), frozenset(options.decode().split(",")))


def _path(escaped: bytes) -> Path:
    """Return a path of mountinfo, in which blanks and the like are octal numbers."""
    return Path(os.fsdecode(escaped.decode("unicode_escape").encode("latin-1")))


def _closed(directory: Path) -> bool:
    """Whether a directory lets in nobody but root and us."""
    try:
        status = directory.stat()
    except OSError:  # a place that is hidden by another mount, or not even ours to see
        return False
    if status.st_uid not in {0, os.geteuid()} or status.st_mode & _SEARCH:
        return False
    if status.st_mode & _SEARCH << 3 and status.st_gid not in {0, os.getegid()}:
        return False
    return not any(_named_others(directory))


def _named_others(directory: Path) -> Iterator[bool]:
    """Yield True for each user or group, other than root's and ours, whom an access control list lets in by name."""
    try:
        value = os.getxattr(directory, _LIST)
    except OSError as e:
        yield e.errno not in {errno.ENODATA, errno.EOPNOTSUPP}  # there may be one that we are not shown
        return
    ours = {_USER: os.geteuid(), _GROUP: os.getegid()}
    for tag, permissions, number in _ENTRY.iter_unpack(value[4:]):
        yield tag in ours and bool(permissions & _SEARCH) and number not in {0, ours[tag]}
