"""Credit of one vsock connection (virtio 1.2, section 5.10.6.3): who may send how much. Counters are modulo 2**32."""

_MASK = 0xFFFFFFFF


class Credit:
    """Both directions' counters. The guest's claims are checked before they count."""

    __slots__ = ("announced", "buf_alloc", "forwarded", "peer_alloc", "peer_forwarded", "received", "sent")

    def __init__(self, buf_alloc: int) -> None:
        self.buf_alloc = buf_alloc  # what the guest may have in flight to us, bytes
        self.received = 0  # bytes that came from the guest
        self.forwarded = 0  # of those, bytes that the host program's socket has taken
        self.announced = 0  # `forwarded` as the guest last heard of it
        self.sent = 0  # bytes that we sent to the guest
        self.peer_alloc = 0
        self.peer_forwarded = 0

    def heard(self, peer_alloc: int, peer_forwarded: int) -> bool:
        """Take the guest's counters; return whether they are possible.

        A counter behind the last one is an older packet that was overtaken in the guest's queue, and is left out.
        One ahead of what was sent is garbage.
        """
        step = (peer_forwarded - self.peer_forwarded) & _MASK
        if step <= (self.sent - self.peer_forwarded) & _MASK:
            self.peer_forwarded = peer_forwarded
            self.peer_alloc = peer_alloc
            return True
        return step > _MASK >> 1

    def free(self) -> int:
        """Return how many bytes the guest can take now."""
        return max(0, self.peer_alloc - ((self.sent - self.peer_forwarded) & _MASK))

    def took(self, count: int) -> bool:
        """Count bytes from the guest; return whether it had credit for them."""
        if ((self.received - self.forwarded) & _MASK) + count > self.buf_alloc:
            return False
        self.received = (self.received + count) & _MASK
        return True

    def forward(self, count: int) -> bool:
        """Count bytes that left for the host program; return whether the guest should hear of it.

        Half a buffer is often enough that it never waits while the host program reads, and no packet a write.
        """
        self.forwarded = (self.forwarded + count) & _MASK
        return ((self.forwarded - self.announced) & _MASK) * 2 >= self.buf_alloc

    def announce(self) -> tuple[int, int]:
        """Return `buf_alloc` and `fwd_cnt` for a packet that is going to the guest."""
        self.announced = self.forwarded
        return self.buf_alloc, self.forwarded


class Budget:
    """Shares out the memory for data that waits for host programs, so that no guest can make us grow."""

    LARGEST = 256 * 1024  # Linux' own default for a vsock buffer
    SMALLEST = 16 * 1024

    def __init__(self, total: int) -> None:
        self._free = total

    def take(self) -> int:
        """Return a new connection's buffer size: less when there are many."""
        size = max(self.SMALLEST, min(self.LARGEST, self._free // 8))
        self._free -= size
        return size

    def put_back(self, size: int) -> None:
        """Return the share of a connection that has ended."""
        self._free += size
