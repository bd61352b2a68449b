"""A shared directory in use: what every operation works on."""

import errno
import os
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from guestforge.arch import Arch
from guestforge.vhost.fs.fuse import owners
from guestforge.vhost.fs.fuse.abi import layout
from guestforge.vhost.fs.fuse.changes import each_shows
from guestforge.vhost.fs.fuse.inodes import Handles, Inode, InodeTable, check_name, refuse
from guestforge.vhost.fs.fuse.protocol import FOPEN_DIRECT_IO, ROOT_ID
from guestforge.vhost.fs.fuse.retired import Retired
from guestforge.vhost.fs.fuse.space import Space
from guestforge.vhost.fs.fuse.syscalls import own_descriptors
from guestforge.vhost.fs.fuse.waiters import Waiters

# Seconds for which the guest may believe what it was told of a name or of a file's attributes; it then asks again, and
# drops what it has read of a file that has changed. What the host does is seen that late at most.
VALID: Final = 1
OPENED: Final = frozenset({stat.S_IFREG, stat.S_IFDIR})  # kinds of files that are opened here for the guest


@dataclass(slots=True)
class Request:
    """A request: its header's fields that matter, its arguments, and where the reply's payload goes."""

    opcode: int
    unique: int
    nodeid: int
    uid: int
    gid: int
    body: Sequence[memoryview]
    payload: Sequence[memoryview]  # the guest's memory behind the reply's header
    order: str

    def fields(self, fields: str) -> tuple[Any, ...]:
        """Return the arguments at the beginning of the body; raises EINVAL for a body that is too short."""
        form = layout(self.order, fields)
        if self.body and len(self.body[0]) >= form.size:  # as guests lay it out
            return form.unpack_from(self.body[0])
        return form.unpack(self.head(form.size))

    def head(self, size: int) -> bytes:
        """Return the first bytes of the body."""
        data = b"".join(self.body)[:size]
        if len(data) < size:
            raise refuse(errno.EINVAL)
        return data

    def names(self, fields: str, count: int) -> list[bytes]:
        """Return the texts that follow the arguments, each ended by a NUL."""
        texts = b"".join(self.body)[layout(self.order, fields).size :].split(b"\0")
        if len(texts) != count + 1 or texts[-1]:
            raise refuse(errno.EINVAL)
        return texts[:count]

    def name(self, fields: str = "") -> bytes:
        """Return the one name that follows the arguments; raises EINVAL for one that could lead elsewhere."""
        return check_name(self.names(fields, 1)[0])

    def pack(self, fields: str, *values: object) -> bytes:
        """Return a reply's structure in the guest's byte order."""
        return layout(self.order, fields).pack(*values)

    @property
    def room(self) -> int:
        """How many bytes the reply's payload may have."""
        return sum(map(len, self.payload))


# What an operation returns: a payload, or how many bytes it has put into the reply itself; None is no reply at all.
Answer = bytes | int | None
Operation = Callable[["Share", Request], Answer]


@dataclass(slots=True)
class Share:
    """The shared directory, the guest's inodes and handles in it, and what may be done."""

    guest: Arch
    inodes: InodeTable
    proc: int  # /proc/self/fd, through which an O_PATH descriptor is opened for use
    read_only: bool
    handles: Handles
    retired: Retired
    waiters: Waiters
    space: Space
    changes_show_on: int | None = None  # the number of a file system whose files' changes show at once, see changes.py
    descriptors: str = "/proc/self/fd/"  # what leads to `proc`
    keeps_owners: bool = field(default_factory=owners.are_kept)
    # Every file bypasses the guest's page cache: what the host changes is seen at once, as with virtiofsd's cache=none.
    # Only for guests that can map such files all the same (Linux 6.6): for others, programs that do would fail.
    uncached: bool = False

    def opened_how(self, *, direct: bool) -> int:
        """Return the FOPEN flags of a file that the guest opens, with O_DIRECT or without."""
        return FOPEN_DIRECT_IO if direct or self.uncached else 0

    def writable(self) -> None:
        """Raise EROFS where the guest may change nothing."""
        if self.read_only:
            raise refuse(errno.EROFS)

    def reopen(self, inode: Inode, flags: int) -> int:
        """Open an inode for use. Only files and directories: to open a pipe or a device does something to the host."""
        if inode.kind not in OPENED:
            raise refuse(errno.ELOOP if inode.kind == stat.S_IFLNK else errno.ENXIO)
        return os.open(str(inode.descriptor), (flags & ~os.O_NOFOLLOW) | os.O_CLOEXEC | os.O_NOCTTY, dir_fd=self.proc)

    def path(self, inode: Inode) -> str:
        """Return a path of a file or directory for system calls that take no descriptor, or none that is O_PATH."""
        return f"{self.descriptors}{inode.descriptor}"

    def stay_among_descriptors(self) -> None:
        """Make /proc/self/fd this process's working directory: there may be no path to it any more."""
        os.fchdir(self.proc)
        self.descriptors = ""

    def find(self, parent: Inode, name: bytes) -> tuple[Inode, os.stat_result]:
        """Return the inode of a name in a directory, its lookup count gone up by one."""
        return self.inodes.take(os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent.descriptor))


def open_share(root: Path, guest: Arch, *, read_only: bool, space: Space, max_inodes: int) -> Share:
    """Open a directory to be shared."""
    directory = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    proc = own_descriptors()
    retired = Retired()
    waiters = Waiters()
    inodes = InodeTable(directory, retired, waiters.released, most=max_inodes)
    shown = inodes[ROOT_ID].device if not read_only and each_shows(directory) else None
    return Share(guest, inodes, proc, read_only, Handles(inodes, retired), retired, waiters, space, shown)


def decode_device(number: int) -> int:
    """Return the host's number of a device that FUSE carries."""
    return os.makedev((number & 0xFFF00) >> 8, (number & 0xFF) | (number >> 12 & 0xFFF00))
