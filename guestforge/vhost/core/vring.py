"""What the front end has told us about one ring, and the virtqueue made of it when it is complete."""

import contextlib
import os
from collections.abc import Callable, Sequence

from guestforge.vhost.core.errors import MemoryMapError, ProtocolError, RingError
from guestforge.vhost.core.memory import MemoryTable
from guestforge.vhost.core.protocol import MAX_RING_SIZE, RingAddresses
from guestforge.vhost.core.virtqueue import Chain, RingLayout, Virtqueue

_ONE = (1).to_bytes(8, "little")  # what an eventfd takes; its value has no meaning here


class Vring:
    """One ring of the device. It runs while `queue` is not None.

    A device uses `pop`, `push`, `give_back`, `want_kicks` and `flush` of this class: they are safe on a ring that has
    stopped, and a ring that the guest has wrecked is reported to `on_failure` and from then on has no chains.
    """

    __slots__ = (
        "_on_failure",
        "_out",
        "_stopped_at",
        "addresses",
        "base",
        "broken",
        "call_fd",
        "enabled",
        "error_fd",
        "index",
        "kick_fd",
        "queue",
        "resumed",
        "run",
        "size",
    )

    def __init__(self, index: int, on_failure: Callable[["Vring", str], None]) -> None:
        self.index = index
        self._on_failure = on_failure
        self.size = 0
        self.base = 0
        self.addresses: RingAddresses | None = None
        self.enabled = False
        self.broken = False  # the guest wrecked it; it stays stopped until the front end asks for its base
        self.kick_fd = self.call_fd = self.error_fd = -1
        self.queue: Virtqueue | None = None
        self.resumed = False  # whether it runs on from where it stopped: the guest was paused, its driver not reset
        self.run = 0  # counts the starts that were not resumptions: a chain belongs to the run in which it was popped
        self._stopped_at: tuple[int, int] | None = None
        self._out = bytearray()  # of the virtqueue that was stopped

    def set_size(self, size: int) -> None:
        """Set the number of descriptors. Raises ProtocolError unless it is a power of two up to 32768."""
        if not 0 < size <= MAX_RING_SIZE or size & (size - 1):
            raise ProtocolError(f"ring {self.index} of {size} descriptors")
        self.size = size

    def set_addresses(self, addresses: RingAddresses) -> None:
        """Set where the parts are. Raises ProtocolError when writes shall be logged."""
        if addresses.flags:
            raise ProtocolError(
                f"ring {self.index}: address flags {addresses.flags:#x} are not supported (1 is dirty logging)"
            )
        self.addresses = addresses

    def set_base(self, base: int) -> None:
        """Set the index of the next available chain. Raises ProtocolError for a number that is not 16 bits."""
        if base > 0xFFFF:
            raise ProtocolError(f"ring {self.index}: base {base:#x}")
        self.base = base

    def ready(self) -> bool:
        """Return whether all is there that a running ring needs."""
        return self.enabled and not self.broken and self.kick_fd >= 0 and self.size > 0 and self.addresses is not None

    def start(self, memory: MemoryTable, *, event_idx: bool) -> None:
        """Make the virtqueue, or find its parts anew in another memory table."""
        layout = self._layout()
        if self.queue is None:
            self.queue = Virtqueue(layout, memory, base=self.base, event_idx=event_idx)
            # The indices of a driver that begins anew are both 0; those of a ring that stopped with chains out differ.
            self.resumed = self.queue.position == self._stopped_at and self.size == len(self._out)
            if self.resumed:
                self.queue.out = self._out
            else:
                self.run += 1
        else:
            self.queue.map(layout, memory)

    def stop(self) -> None:
        """Drop the virtqueue; `base` then says where it was."""
        if self.queue is not None:
            self.base = self.queue.last_available
            self._stopped_at = self.queue.position
            self._out = self.queue.out
            self.queue = None

    def pop(self) -> Chain | None:
        """Take the next chain, None when there is none or the ring does not run (any more)."""
        if self.queue is None:
            return None
        try:
            return self.queue.pop()
        except (RingError, MemoryMapError) as error:
            self.fail(error.message)
            return None

    def push(self, head: int, written: int) -> None:
        """Give a chain back with the number of bytes written to it."""
        if self.queue is not None:
            self.queue.push(head, written)

    def give_back(self, heads: Sequence[int]) -> None:
        """Undo the last pops, whose chains have these heads and were not used."""
        if self.queue is not None:
            self.queue.give_back(heads)

    def want_kicks(self) -> bool:
        """Ask for a kick at the next chain; return whether there is one already."""
        if self.queue is None:
            return False
        try:
            return self.queue.want_kicks()
        except RingError as error:
            self.fail(error.message)
            return False

    def spare_kicks(self) -> None:
        """Tell the guest that kicks are not needed."""
        if self.queue is not None:
            self.queue.spare_kicks()

    def fail(self, reason: str) -> None:
        """Report that the guest wrecked the ring: the device stops."""
        self._on_failure(self, reason)

    def flush(self) -> None:
        """Publish what was pushed and tell the guest if it wants to know."""
        if self.queue is not None and self.queue.publish():
            _signal(self.call_fd)

    def report_error(self) -> None:
        """Tell the front end that the ring is broken."""
        _signal(self.error_fd)

    def drain_kick(self) -> bool:
        """Take the kicks that have come; return whether more can come."""
        try:
            return bool(os.read(self.kick_fd, 8))
        except BlockingIOError:
            return True
        except OSError:
            return False

    def close(self) -> None:
        """Close all descriptors."""
        for slot in ("kick_fd", "call_fd", "error_fd"):
            self.replace_fd(slot, -1)

    def replace_fd(self, slot: str, fd: int) -> None:
        """Put a descriptor in the place of an older one, which is closed."""
        old = getattr(self, slot)
        if old >= 0:
            os.close(old)
        setattr(self, slot, fd)

    def _layout(self) -> RingLayout:
        assert self.addresses is not None  # `ready` was asked
        return RingLayout(self.size, self.addresses.descriptors, self.addresses.available, self.addresses.used)


def _signal(fd: int) -> None:
    if fd >= 0:
        with contextlib.suppress(OSError):  # a full one is signalled already, a wrong one is the front end's
            os.write(fd, _ONE)
