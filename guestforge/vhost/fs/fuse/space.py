"""How much of the host's file systems a guest may take: a reserve stays free of what it allocates.

What is free is the file system's own word (statvfs), so that files without a name count too. It is asked at most every
LOOK seconds, and whenever the guest may have taken what was there at the last look; in between bytes are only counted.
"""

import errno
import os
from dataclasses import dataclass
from time import monotonic
from typing import Final

from guestforge.vhost.fs.fuse.inodes import Inode, refuse

LOOK: Final = 0.05  # seconds
MAKING: Final = 64 * 1024  # bytes that a new file, a name or an attribute may take in the file system's own structures
MIB: Final = 1024 * 1024

# fallocate(2): modes that free, or move, and allocate nothing
PUNCH_HOLE: Final = 0x02
COLLAPSE_RANGE: Final = 0x08


@dataclass(frozen=True, slots=True)
class Quota:
    """What is kept free, as far as a file system is as large; and by how much it may become fuller, None is no limit.

    `reserve` is in bytes, of a small file system a part of 1/`part`, which also goes for its inodes.
    """

    reserve: int = 0
    part: int = 20
    max_bytes: int | None = None
    max_files: int | None = None

    def floors(self, status: os.statvfs_result) -> tuple[int, int]:
        """Return how many bytes and inodes are to stay free of a file system that is as it is at the start."""
        size = status.f_blocks * status.f_frsize
        bytes_ = min(self.reserve, size // self.part)
        files = status.f_files // self.part if self.reserve else 0
        if self.max_bytes is not None:
            bytes_ = max(bytes_, status.f_bavail * status.f_frsize - self.max_bytes)
        if self.max_files is not None:
            files = max(files, status.f_favail - self.max_files)
        return bytes_, files


class _FileSystem:
    """One file system: what is to stay free, and what was left at the last look."""

    __slots__ = ("bytes", "files", "floors", "until")

    def __init__(self, floors: tuple[int, int]) -> None:
        self.floors = floors
        self.until = 0.0
        self.bytes = self.files = 0

    def look(self, descriptor: int, now: float) -> None:
        status = os.fstatvfs(descriptor)
        least_bytes, least_files = self.floors
        # one that does not count says 0 of all
        self.bytes = status.f_bavail * status.f_frsize - least_bytes if status.f_blocks else 1 << 62
        self.files = status.f_favail - least_files if status.f_files else 1 << 62
        self.until = now + LOOK


class Space:
    """The space that a guest may still take. For all threads: a count that is lost between two looks does no harm."""

    def __init__(self, quota: Quota | None = None) -> None:
        self._quota = quota
        self._file_systems: dict[int, _FileSystem] = {}

    def take(self, inode: Inode, count: int) -> bool:
        """Count bytes that are about to be written to a file; return whether there is room for them."""
        if self._quota is None:
            return True
        found = self._file_systems.get(inode.device) or self._add(inode)
        now = monotonic()
        if now >= found.until or found.bytes < count:
            found.look(inode.descriptor, now)
        found.bytes -= count
        return found.bytes >= 0

    def write(self, inode: Inode, descriptor: int, offset: int, count: int) -> None:
        """Count a write, at -1 at the end. Raises ENOSPC where there is no room but for what is in the file already."""
        found = self._file_systems.get(inode.key >> 64)
        if found is not None and found.bytes >= count and monotonic() < found.until:  # as nearly always
            found.bytes -= count
            return
        if self.take(inode, count):
            return
        status = os.fstat(descriptor)
        if offset < 0 or offset + count > status.st_size or status.st_blocks * 512 < status.st_size:
            raise refuse(errno.ENOSPC)

    def allocate(self, inode: Inode, mode: int, count: int) -> None:
        """Count what fallocate(2) is asked for. Raises ENOSPC."""
        if not mode & (PUNCH_HOLE | COLLAPSE_RANGE) and not self.take(inode, count):
            raise refuse(errno.ENOSPC)

    def make(self, inode: Inode) -> None:
        """Count something new in a directory, or an attribute. Raises ENOSPC."""
        if self._quota is None:
            return
        room = self.take(inode, MAKING)
        found = self._file_systems[inode.device]
        if found.files < 1:
            found.look(inode.descriptor, monotonic())
        found.files -= 1
        if not room or found.files < 0:
            raise refuse(errno.ENOSPC)

    def _add(self, inode: Inode) -> _FileSystem:
        assert self._quota is not None
        made = _FileSystem(self._quota.floors(os.fstatvfs(inode.descriptor)))
        return self._file_systems.setdefault(inode.device, made)

    def say(self, root: Inode) -> str:
        """Return what a guest may take, for people."""
        if self._quota is None:
            return "nothing is kept free"
        self.take(root, 0)
        found = self._file_systems[root.device]
        kept, files = found.floors
        left = f"{max(0, found.bytes) // MIB} MiB and {max(0, found.files)} files are left for the guest"
        return f"{kept // MIB} MiB and {files} files are kept free, {left}"
