"""The guest's memory as the front end shares it, and the only way to it: every range is checked."""

import errno
import fcntl
import itertools
import mmap
import os
import stat

from guestforge.vhost.core.errors import MemoryMapError, ProtocolError
from guestforge.vhost.core.protocol import RegionInfo

MAX_SLOTS = 32  # what we tell the front end; every slot costs a comparison in each look-up
ADDRESS_LIMIT = 1 << 64


class Region:
    """One mapped piece of guest memory. It is unmapped when its last view is gone.

    Its file must be sealed against becoming shorter, which would kill us at the next access; `unsealed` ones are taken
    where whoever started us trusts the front end that far.
    """

    __slots__ = ("guest", "info", "size", "user", "view")

    def __init__(self, info: RegionInfo, fd: int, *, unsealed: bool = False) -> None:
        self.info = info
        self.guest = info.guest
        self.user = info.user
        self.size = info.size
        self.view = _map(info, fd, unsealed=unsealed)


class MemoryTable:
    """All regions of one guest. Immutable: a change makes a new table."""

    __slots__ = ("regions",)

    def __init__(self, regions: tuple[Region, ...] = ()) -> None:
        if len(regions) > MAX_SLOTS:
            raise ProtocolError(f"more than {MAX_SLOTS} memory regions")
        # The biggest first: nearly every buffer is in it.
        self.regions = tuple(sorted(regions, key=lambda region: -region.size))
        _refuse_overlaps([(r.guest, r.size) for r in regions], "guest")
        _refuse_overlaps([(r.user, r.size) for r in regions], "user")

    def with_region(self, region: Region) -> "MemoryTable":
        """Return a table with one region more."""
        return MemoryTable((*self.regions, region))

    def without(self, info: RegionInfo) -> "MemoryTable":
        """Return a table without the region that has these addresses and this size."""
        left = tuple(r for r in self.regions if (r.guest, r.user, r.size) != (info.guest, info.user, info.size))
        if len(left) == len(self.regions):
            raise ProtocolError(f"no memory region at guest address {info.guest:#x} with {info.size:#x} bytes")
        return MemoryTable(left)

    def gather(self, address: int, length: int, out: list[memoryview]) -> None:
        """Append the views that make up a range of guest addresses; more than one where it crosses regions.

        Raises MemoryMapError when a byte of the range is not in the table.
        """
        for region in self.regions:
            start = address - region.guest
            if 0 <= start < region.size:
                end = start + length
                if end <= region.size:
                    out.append(region.view[start:end])
                    return
                out.append(region.view[start:])
                self.gather(region.guest + region.size, end - region.size, out)
                return
        raise MemoryMapError(f"{length} bytes at guest address {address:#x} are not in the guest's memory")

    def guest(self, address: int, length: int) -> memoryview:
        """Return one view of a range of guest addresses that must not cross regions."""
        for region in self.regions:
            start = address - region.guest
            if start >= 0 and start + length <= region.size:
                return region.view[start : start + length]
        raise MemoryMapError(f"{length} bytes at guest address {address:#x} are not in one region of guest memory")

    def user_view(self, address: int, length: int) -> memoryview:
        """Return one view of a range of the front end's addresses: rings are given so."""
        for region in self.regions:
            start = address - region.user
            if start >= 0 and start + length <= region.size:
                return region.view[start : start + length]
        raise MemoryMapError(f"{length} bytes at user address {address:#x} are not in one region of guest memory")


def _map(info: RegionInfo, fd: int, *, unsealed: bool) -> memoryview:
    """Map a region's part of its file. Raises ProtocolError for a region that can't be."""
    if info.size == 0 or max(info.guest, info.user, info.offset) + info.size > ADDRESS_LIMIT:
        raise ProtocolError(f"memory region of {info.size:#x} bytes at guest address {info.guest:#x} is impossible")
    if not unsealed:
        _refuse_unsealed(info, fd)
    status = os.fstat(fd)  # after the seals: it stays as long from here on
    # A mapping beyond the file's end would kill us with SIGBUS at the first access.
    if not stat.S_ISREG(status.st_mode) or info.offset + info.size > status.st_size:
        raise ProtocolError(f"memory region at guest address {info.guest:#x} is longer than its file")
    aligned = info.offset - info.offset % mmap.ALLOCATIONGRANULARITY
    lead = info.offset - aligned
    try:
        mapping = mmap.mmap(fd, lead + info.size, flags=mmap.MAP_SHARED, offset=aligned)
    except (OSError, ValueError, OverflowError) as error:
        raise ProtocolError(f"can't map the memory region at guest address {info.guest:#x}: {error}") from None
    return memoryview(mapping)[lead : lead + info.size]


def _refuse_unsealed(info: RegionInfo, fd: int) -> None:
    """Raise ProtocolError for a file that its owner can make shorter."""
    try:
        sealed = bool(fcntl.fcntl(fd, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK)
    except OSError as error:
        if error.errno != errno.EINVAL:  # only files in memory have seals
            raise ProtocolError(f"memory region at guest address {info.guest:#x}: {error.strerror}") from None
        sealed = False
    if not sealed:
        raise ProtocolError(
            f"the file of the memory region at guest address {info.guest:#x} can be made shorter under us: it must be "
            "a memfd with F_SEAL_SHRINK (QEMU's memory-backend-memfd is); --unsealed-memory takes others"
        )


def _refuse_overlaps(ranges: list[tuple[int, int]], kind: str) -> None:
    ranges.sort()
    for (start, size), (following, _) in itertools.pairwise(ranges):
        if start + size > following:
            raise ProtocolError(f"memory regions overlap at {kind} address {following:#x}")
