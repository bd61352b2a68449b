"""The rings and the memory of one front end: what it says about them, and when they run."""

import os
from typing import Protocol

from guestforge.vhost.core import protocol
from guestforge.vhost.core.errors import ProtocolError
from guestforge.vhost.core.log import Log
from guestforge.vhost.core.loop import IN, Loop
from guestforge.vhost.core.memory import MAX_SLOTS, MemoryTable, Region
from guestforge.vhost.core.protocol import RingAddresses, RingState
from guestforge.vhost.core.vring import Vring


class Device(Protocol):
    """What a device is to the core. All calls come from the one thread of the loop.

    When the guest wrecks a ring, the core stops all rings until the front end sets them up anew.
    """

    features: int
    ring_count: int

    def config(self) -> bytes:
        """Return the configuration space, little-endian as virtio has it; empty where it is the front end's."""

    def started(self, ring: Vring) -> None:
        """Take note that a ring runs; `kicked` follows."""

    def stopped(self, ring: Vring) -> None:
        """Take note that a ring no longer runs: nothing of it may be touched any more."""

    def kicked(self, ring: Vring) -> None:
        """Serve a ring: the guest has kicked, or may have."""


class Rings:
    """All rings of a device. The public methods are requests: each takes its parsed payload and its descriptors.

    They raise ProtocolError, RingError or MemoryMapError for what the front end may not do.
    """

    def __init__(self, device: Device, loop: Loop, log: Log, *, unsealed: bool = False) -> None:
        self._device = device
        self._loop = loop
        self._log = log
        self._unsealed = unsealed  # memory that its owner can make shorter is taken, too
        self._features = 0
        self._memory = MemoryTable()
        self._rings = [Vring(index, self._break) for index in range(device.ring_count)]

    def set_features(self, features: int) -> None:
        """Take the features of guest and front end; an old front end has no request to enable rings."""
        self._features = features
        if not features & protocol.F_PROTOCOL_FEATURES:
            for ring in self._rings:
                ring.enabled = True

    def disable(self) -> None:
        """Disable all rings."""
        for ring in self._rings:
            ring.enabled = False
            self._halt(ring)

    def close(self) -> None:
        """Stop all rings and release everything."""
        for ring in self._rings:
            self._halt(ring)
            self._set_kick(ring, -1)
            ring.close()

    # Requests about memory

    def set_mem_table(self, infos: tuple[protocol.RegionInfo, ...], fds: list[int]) -> None:
        """Replace the memory table."""
        if len(fds) != len(infos):
            raise ProtocolError(f"{len(infos)} regions with {len(fds)} file descriptors")
        pairs = zip(infos, fds, strict=True)
        self._use_memory(MemoryTable(tuple(Region(info, fd, unsealed=self._unsealed) for info, fd in pairs)))

    def get_max_mem_slots(self, _none: None, _fds: list[int]) -> bytes:
        """Say how many regions a table can have."""
        return protocol.pack_u64(MAX_SLOTS)

    def add_mem_reg(self, info: protocol.RegionInfo, fds: list[int]) -> None:
        """Add a region."""
        self._use_memory(self._memory.with_region(Region(info, fds[0], unsealed=self._unsealed)))

    def rem_mem_reg(self, info: protocol.RegionInfo, _fds: list[int]) -> None:
        """Remove a region."""
        self._use_memory(self._memory.without(info))

    def _use_memory(self, memory: MemoryTable) -> None:
        """Change the table under rings that may be running."""
        self._memory = memory
        for ring in self._rings:
            self._update(ring)

    # Requests about rings

    def set_vring_num(self, state: RingState, _fds: list[int]) -> None:
        """Set a ring's size."""
        ring = self._ring(state.index)
        self._must_be_stopped(ring)
        ring.set_size(state.number)

    def set_vring_addr(self, addresses: RingAddresses, _fds: list[int]) -> None:
        """Set where a ring's parts are."""
        ring = self._ring(addresses.index)
        ring.set_addresses(addresses)
        self._update(ring)

    def set_vring_base(self, state: RingState, _fds: list[int]) -> None:
        """Set where a ring goes on."""
        ring = self._ring(state.index)
        self._must_be_stopped(ring)
        ring.set_base(state.number)

    def get_vring_base(self, state: RingState, _fds: list[int]) -> bytes:
        """Stop a ring and say where it was."""
        ring = self._ring(state.index)
        self._halt(ring)
        self._set_kick(ring, -1)
        ring.replace_fd("call_fd", -1)
        ring.broken = False
        return protocol.pack_ring_state(ring.index, ring.base)

    def set_vring_kick(self, value: int, fds: list[int]) -> None:
        """Take the eventfd by which the guest kicks; the ring may start."""
        ring = self._ring_of(value, fds)
        if not fds:
            raise ProtocolError(f"ring {ring.index}: no kick descriptor, and polling is not supported")
        try:
            os.set_blocking(fds[0], False)
            self._set_kick(ring, fds[0])
            fds.clear()
        except OSError as error:
            raise ProtocolError(f"ring {ring.index}: unusable kick descriptor: {error.strerror}") from None
        self._update(ring)

    def set_vring_call(self, value: int, fds: list[int]) -> None:
        """Take the eventfd by which the guest is told."""
        ring = self._ring_of(value, fds)
        ring.replace_fd("call_fd", _taken(fds))

    def set_vring_err(self, value: int, fds: list[int]) -> None:
        """Take the eventfd for a broken ring."""
        ring = self._ring_of(value, fds)
        ring.replace_fd("error_fd", _taken(fds))

    def set_vring_enable(self, state: RingState, _fds: list[int]) -> None:
        """Let a ring be served, or not."""
        ring = self._ring(state.index)
        if state.number > 1:
            raise ProtocolError(f"ring {ring.index}: enable is {state.number}")
        ring.enabled = bool(state.number)
        self._update(ring)

    def _ring(self, index: int) -> Vring:
        if index >= len(self._rings):
            raise ProtocolError(f"ring {index} of {len(self._rings)}")
        return self._rings[index]

    def _ring_of(self, value: int, fds: list[int]) -> Vring:
        """Return the ring of a message that brings one descriptor or says that it brings none."""
        if value & ~(protocol.RING_INDEX_MASK | protocol.RING_NO_FD) or bool(value & protocol.RING_NO_FD) == bool(fds):
            raise ProtocolError(f"payload {value:#x} with {len(fds)} file descriptors")
        return self._ring(value & protocol.RING_INDEX_MASK)

    def _must_be_stopped(self, ring: Vring) -> None:
        if ring.queue is not None:
            raise ProtocolError(f"ring {ring.index} is running")

    # Rings start and stop

    def _update(self, ring: Vring) -> None:
        """Start, move or stop a ring after something about it has changed."""
        if not ring.ready() or not self._memory.regions:
            self._halt(ring)
            return
        if not self._features & protocol.VIRTIO_F_VERSION_1:
            raise ProtocolError("the guest's driver is for virtio before 1.0, which is not supported")
        running = ring.queue is not None
        ring.start(self._memory, event_idx=bool(self._features & protocol.VIRTIO_F_EVENT_IDX))
        if not running:
            self._device.started(ring)
        self._device.kicked(ring)

    def _halt(self, ring: Vring) -> None:
        if ring.queue is not None:
            self._device.stopped(ring)
            ring.stop()

    def _break(self, culprit: Vring, reason: str) -> None:
        """Stop the whole device: after a wrecked ring nothing that the driver says can be relied on."""
        self._log.say(f"ring {culprit.index} is malformed, device stopped until it is set up anew: {reason}")
        for ring in self._rings:
            ring.broken = True
            self._halt(ring)
        culprit.report_error()

    def _set_kick(self, ring: Vring, fd: int) -> None:
        if ring.kick_fd >= 0:
            self._loop.remove(ring.kick_fd)
        ring.replace_fd("kick_fd", -1)
        if fd >= 0:
            self._loop.add(fd, IN, lambda _events: self._kicked(ring))
            ring.replace_fd("kick_fd", fd)

    def _kicked(self, ring: Vring) -> None:
        if not ring.drain_kick():
            self._set_kick(ring, -1)  # its other end is gone: it would be ready for ever
        if ring.queue is not None:
            self._device.kicked(ring)


def _taken(fds: list[int]) -> int:
    """Take the descriptor of a message, made non-blocking, or -1 where it has none.

    Whoever does not read it, or whatever else it is than an eventfd, must not stop us. Raises ProtocolError for one
    that can't be used.
    """
    if not fds:
        return -1
    try:
        os.set_blocking(fds[0], False)
    except OSError as error:
        raise ProtocolError(f"unusable descriptor: {error.strerror}") from None
    return fds.pop()
