"""The split virtqueue, device side (virtio 1.2, section 2.7), for guests that we do not trust.

Memory order. The ring's indices are read and written through views cast to native 16- and 32-bit items: CPython then
makes each access with one load or store, where `struct` with an explicit byte order goes byte by byte and a guest
could see half an index. Rings are little-endian, so the host must be too. Between accesses whose order matters stands
`fence`.
"""

import struct
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass

from guestforge.vhost.core.errors import RingError
from guestforge.vhost.core.memory import MemoryTable

DESCRIPTOR = struct.Struct("<QIHH")  # address, length, flags, next
DESCRIPTOR_SIZE = 16
F_NEXT = 1
F_WRITE = 2
F_INDIRECT = 4
AVAIL_F_NO_INTERRUPT = 1
USED_F_NO_NOTIFY = 1
MAX_CHAIN = 1024  # descriptors in one chain, direct or indirect; Linux drivers make at most ring size

HOST_FITS = sys.byteorder == "little"

_lock = threading.Lock()
_lock.acquire()


def fence() -> None:
    """Full memory barrier.

    Releasing and taking a lock are atomic read-modify-writes: on x86 each is a full barrier, on arm64 a release
    followed by an acquire lets nothing pass. It costs about 100 ns and is called once a batch.
    """
    _lock.release()
    _lock.acquire()


@dataclass(frozen=True, slots=True)
class RingLayout:
    """Where a ring is: its size in descriptors and its parts as addresses of the front end."""

    size: int
    descriptors: int
    available: int
    used: int


class Chain:
    """A buffer that the guest made available: views of guest memory in order, and how many bytes they have."""

    __slots__ = ("head", "readable", "readable_size", "writable", "writable_size")

    def __init__(self, head: int) -> None:
        self.head = head
        self.readable: list[memoryview] = []
        self.writable: list[memoryview] = []
        self.readable_size = self.writable_size = 0


class Virtqueue:
    """One ring. `pop` takes chains, `push` gives them back, `publish` makes what was pushed visible at once.

    `out` has a byte for each head, 1 where its chain was popped and not yet pushed. A driver owns a descriptor again
    only when it was given back (2.7.13), but nothing keeps a guest to it: whoever offers a head that is out is refused.
    So at most `size` chains are out, whatever a device keeps of each.
    """

    __slots__ = (
        "_available",
        "_descriptors",
        "_elements",
        "_event_idx",
        "_known",
        "_memory",
        "_next_used",
        "_published",
        "_used",
        "last_available",
        "out",
        "size",
    )

    def __init__(self, layout: RingLayout, memory: MemoryTable, *, base: int, event_idx: bool) -> None:
        self.size = layout.size
        self.out = bytearray(layout.size)
        self.last_available = base
        self._event_idx = event_idx
        self._known = base  # the guest's index as last read
        self.map(layout, memory)
        self._next_used = self._published = self._used[1]

    def map(self, layout: RingLayout, memory: MemoryTable) -> None:
        """Find the ring's parts in a table of memory, also a new one while the ring is in use.

        Raises RingError for a misaligned part, MemoryMapError for one that is not in the table.
        """
        size = layout.size
        if layout.descriptors % 16 or layout.available % 2 or layout.used % 4:
            raise RingError(f"a part of the ring is not aligned: {layout}")
        self._descriptors = memory.user_view(layout.descriptors, size * DESCRIPTOR_SIZE)
        self._available = memory.user_view(layout.available, 6 + 2 * size).cast("H")
        used = memory.user_view(layout.used, 6 + 8 * size)
        self._elements = used[4 : 4 + 8 * size].cast("I")
        self._used = used.cast("H")
        self._memory = memory

    @property
    def position(self) -> tuple[int, int]:
        """Where both rings stand: the next available and the next used index."""
        return self.last_available, self._published

    def available(self) -> int:
        """Return how many chains can be popped. Raises RingError for an index that the ring can't have."""
        waiting = (self._known - self.last_available) & 0xFFFF
        if waiting:
            return waiting
        self._known = self._available[1]
        waiting = (self._known - self.last_available) & 0xFFFF
        if waiting > self.size:
            raise RingError(f"available index {self._known} is {waiting} ahead in a ring of {self.size}")
        fence()  # the entries are read after the index that announced them
        return waiting

    def pop(self) -> Chain | None:
        """Take the next chain, or None when there is none. Raises RingError or MemoryMapError for a bad one."""
        if not self.available():
            return None
        head = self._available[2 + self.last_available % self.size]
        chain = self._walk(head)
        if self.out[head]:
            raise RingError(f"the chain at descriptor {head} is offered again, but was not given back")
        self.out[head] = 1
        self.last_available = (self.last_available + 1) & 0xFFFF
        return chain

    def give_back(self, heads: Sequence[int]) -> None:
        """Undo the last pops, whose chains have these heads and were not used."""
        for head in heads:
            self.out[head] = 0
        self.last_available = (self.last_available - len(heads)) & 0xFFFF

    def push(self, head: int, written: int) -> None:
        """Return a chain with the number of bytes written to it; the guest sees it at the next `publish`."""
        self.out[head] = 0
        slot = 2 * (self._next_used % self.size)
        self._elements[slot] = head
        self._elements[slot + 1] = written
        self._next_used = (self._next_used + 1) & 0xFFFF

    def publish(self) -> bool:
        """Let the guest see what was pushed; return whether it wants to be told."""
        old, new = self._published, self._next_used
        if old == new:
            return False
        fence()  # data and elements before the index
        self._used[1] = new
        self._published = new
        fence()  # the index before the question whether the guest sleeps (2.7.7.2)
        if self._event_idx:
            event = self._available[2 + self.size]
            return (new - event - 1) & 0xFFFF < (new - old) & 0xFFFF
        return not self._available[0] & AVAIL_F_NO_INTERRUPT

    def want_kicks(self) -> bool:
        """Ask the guest to kick at its next chain; return whether chains are there already (then go on popping)."""
        if self._event_idx:
            self._used[2 + 4 * self.size] = self.last_available
        else:
            self._used[0] = 0
        fence()  # the wish before the look (2.7.10)
        return self.available() > 0

    def spare_kicks(self) -> None:
        """Tell the guest that kicks are not needed; with event index the stale event says so already."""
        if not self._event_idx:
            self._used[0] = USED_F_NO_NOTIFY

    def chain(self, head: int) -> Chain:
        """Look once more at a chain that was popped and not yet pushed: the memory table may be another one by now.

        Raises RingError or MemoryMapError, for the guest may have changed it.
        """
        return self._walk(head)

    def _walk(self, head: int) -> Chain:
        """Follow a chain. The table, the position in it and the number of steps are all bounded."""
        if head >= self.size:
            raise RingError(f"descriptor {head} in a table of {self.size}")
        address, length, flags, _following = DESCRIPTOR.unpack_from(self._descriptors, head * DESCRIPTOR_SIZE)
        if not flags & F_INDIRECT:
            return self._follow(head, self._descriptors, self.size, head)
        if flags & F_NEXT:
            raise RingError("an indirect descriptor with a next one")
        table, entries = self._indirect(address, length)
        return self._follow(head, table, entries, 0)

    def _indirect(self, address: int, length: int) -> tuple[memoryview, int]:
        if length == 0 or length % DESCRIPTOR_SIZE or length > MAX_CHAIN * DESCRIPTOR_SIZE:
            raise RingError(f"indirect table of {length} bytes")
        # A copy, so that what was checked is what is used, whatever the guest does meanwhile.
        return memoryview(bytes(self._memory.guest(address, length))), length // DESCRIPTOR_SIZE

    def _follow(self, head: int, table: memoryview, entries: int, index: int) -> Chain:
        """Collect the views of a chain. Descriptors that follow each other in memory become one view.

        A guest that reads a file has a descriptor for every page; they are often neighbours, and a comparison costs
        less than a view and its place in an I/O vector.
        """
        chain = Chain(head)
        limit = min(entries, MAX_CHAIN)
        start = end = writes = 0  # the range that is being collected
        while True:
            if index >= entries:
                raise RingError(f"descriptor {index} in a table of {entries}")
            address, length, flags, following = DESCRIPTOR.unpack_from(table, index * DESCRIPTOR_SIZE)
            if address == end and flags & F_WRITE == writes:
                end += length
            else:
                self._add(chain, start, end - start, writes)
                start, end, writes = address, address + length, flags & F_WRITE
            if flags & F_INDIRECT:
                raise RingError("an indirect descriptor inside a chain")
            if not flags & F_NEXT:
                self._add(chain, start, end - start, writes)
                return chain
            index, limit = following, limit - 1
            if not limit:
                raise RingError(f"the chain at descriptor {head} loops")

    def _add(self, chain: Chain, address: int, length: int, writes: int) -> None:
        if not length:
            return
        if writes:
            chain.writable_size += length
            self._memory.gather(address, length, chain.writable)
        elif chain.writable:
            raise RingError("a readable descriptor after a writable one")
        else:
            chain.readable_size += length
            self._memory.gather(address, length, chain.readable)
