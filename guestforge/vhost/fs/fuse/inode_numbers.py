"""The inode numbers that a guest is shown: one for each file of the share, whatever file systems of the host it has.

The share has one device number in the guest, and inodes are numbered by each file system for itself. Programs that go
by device and inode (tar, cp -a, rsync -H, find, du, git) take two files with equal numbers for one.
"""

import hashlib
import struct
import threading
from typing import Final

MAX_DEVICES: Final = 4096  # file systems that have a number of their own; those beyond go by their hash
# A number that is not the host's has the highest bit. 0 below it: 12 bits for the file system and 50 for its inode; 1:
# 62 bits of a hash of both, which is as good as unique, for larger numbers of inodes and more file systems.
FOREIGN: Final = 1 << 63
HASHED: Final = 1 << 62
INODE_BITS: Final = 50
_BOTH: Final = struct.Struct("<2Q")


class InodeNumbers:
    """The numbers below a root whose file system is `device`. A file has the same one as long as this lives."""

    def __init__(self, device: int) -> None:
        self._device = device
        self._lock = threading.Lock()
        self._numbers: dict[int, int] = {}

    def shown(self, device: int, inode: int) -> int:
        """Return the number of an inode of a file system: that of the root keeps its own."""
        if device == self._device and inode < FOREIGN:
            return inode
        number = self._number(device)
        if inode >> INODE_BITS or number is None:
            digest = hashlib.blake2b(_BOTH.pack(device, inode), digest_size=8).digest()
            return FOREIGN | HASHED | int.from_bytes(digest, "little") & (HASHED - 1)
        return FOREIGN | number << INODE_BITS | inode

    def _number(self, device: int) -> int | None:
        number = self._numbers.get(device)
        if number is not None:
            return number
        with self._lock:
            if device not in self._numbers and len(self._numbers) >= MAX_DEVICES:
                return None
            return self._numbers.setdefault(device, len(self._numbers))
