"""The back end's side of the vhost-user protocol: one front end, its memory, its rings, and the device behind them."""

import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from guestforge.vhost import protocol
from guestforge.vhost.channel import Channel, Message, close_fds
from guestforge.vhost.errors import MemoryMapError, ProtocolError, RefusedError, RingError
from guestforge.vhost.log import Log
from guestforge.vhost.loop import IN, Loop
from guestforge.vhost.memory import MAX_SLOTS, MemoryTable, Region
from guestforge.vhost.protocol import ConfigAccess, Request, RingAddresses, RingState
from guestforge.vhost.vring import Vring

# Every device has these: virtio 1 (no legacy rings), indirect descriptors, event index.
RING_FEATURES = protocol.VIRTIO_F_VERSION_1 | protocol.VIRTIO_F_INDIRECT_DESC | protocol.VIRTIO_F_EVENT_IDX
PROTOCOL_FEATURES = (
    protocol.PROTOCOL_F_MQ
    | protocol.PROTOCOL_F_REPLY_ACK
    | protocol.PROTOCOL_F_CONFIG
    | protocol.PROTOCOL_F_CONFIGURE_MEM_SLOTS
)
MESSAGES_AT_ONCE = 32  # then the device's sockets have their turn
REFUSED = protocol.pack_u64(1)
DONE = protocol.pack_u64(0)


class Device(Protocol):
    """What a device is to the core. All calls come from the one thread of the loop.

    When the guest wrecks a ring, the core stops all rings until the front end sets them up anew.
    """

    features: int
    ring_count: int

    def config(self) -> bytes:
        """Return the configuration space, little-endian as virtio has it."""

    def started(self, ring: Vring) -> None:
        """Take note that a ring runs; `kicked` follows."""

    def stopped(self, ring: Vring) -> None:
        """Take note that a ring no longer runs: nothing of it may be touched any more."""

    def kicked(self, ring: Vring) -> None:
        """Serve a ring: the guest has kicked, or may have."""


@dataclass(frozen=True, slots=True)
class Handler:
    """How a request is parsed, how many descriptors it may bring, and what is done. A reply's payload or None."""

    parse: Callable[[bytes], Any]
    serve: Callable[["Backend", Any, list[int]], bytes | None]
    fds: tuple[int, int] = (0, 0)


class Backend:
    """Serves one front end on a connected socket until it goes; then calls `ended` with the reason.

    `ended(None)` means that the front end has left in order, a text says what it did wrong.
    """

    def __init__(
        self, sock: socket.socket, device: Device, loop: Loop, log: Log, ended: Callable[[str | None], None]
    ) -> None:
        self._channel = Channel(sock)
        self._device = device
        self._loop = loop
        self._log = log
        self._ended = ended
        self._features = 0
        self._protocol_features = 0
        self._memory = MemoryTable()
        self._rings = [Vring(index, self._break) for index in range(device.ring_count)]
        self._offered = device.features | RING_FEATURES | protocol.F_PROTOCOL_FEATURES
        loop.add(sock.fileno(), IN, lambda _events: self.serve())

    @property
    def heard(self) -> bool:
        """Whether the front end has ever said anything."""
        return self._channel.heard

    def close(self) -> None:
        """Stop all rings and release everything."""
        for ring in self._rings:
            self._halt(ring)
            self._set_kick(ring, -1)
            ring.close()
        self._loop.remove(self._channel.socket.fileno())
        self._channel.close()

    def serve(self) -> None:
        """Serve the requests that have come."""
        try:
            for _ in range(MESSAGES_AT_ONCE):
                message = self._channel.receive()
                if message is None:
                    return
                self._dispatch(message)
        except EOFError:
            self._ended(None)
        except ProtocolError as error:
            self._ended(error.message)

    # The socket

    def _dispatch(self, message: Message) -> None:
        """Serve one request; descriptors that its handler did not take are closed."""
        header = message.header
        try:
            answer = self._serve(message)
            if answer is None and self._must_ack(header):
                answer = DONE
        except RefusedError as error:
            self._log.say(f"refused: {protocol.name(header.request)}: {error.message}")
            answer = REFUSED if self._must_ack(header) else None
        finally:
            close_fds(message.fds)
        if answer is not None:
            self._channel.send(protocol.reply(header.request, answer))

    def _serve(self, message: Message) -> bytes | None:
        handler = HANDLERS.get(message.header.request)
        if handler is None:
            raise RefusedError("not supported")
        least, most = handler.fds
        try:
            if not least <= len(message.fds) <= most:
                raise ProtocolError(f"{len(message.fds)} file descriptors")
            return handler.serve(self, handler.parse(message.payload), message.fds)
        except (ProtocolError, RingError, MemoryMapError) as error:
            raise ProtocolError(f"{protocol.name(message.header.request)}: {error.message}") from None

    def _must_ack(self, header: protocol.Header) -> bool:
        return header.need_reply and bool(self._protocol_features & protocol.PROTOCOL_F_REPLY_ACK)

    # Requests about the device

    def get_features(self, _none: None, _fds: list[int]) -> bytes:
        """Say what the device and its rings can."""
        return protocol.pack_u64(self._offered)

    def set_features(self, features: int, _fds: list[int]) -> None:
        """Take what guest and front end chose."""
        if features & ~self._offered:
            raise ProtocolError(f"features {features & ~self._offered:#x} were not offered")
        self._features = features
        if not features & protocol.F_PROTOCOL_FEATURES:
            for ring in self._rings:
                ring.enabled = True

    def get_protocol_features(self, _none: None, _fds: list[int]) -> bytes:
        """Say which extensions of the protocol we have."""
        return protocol.pack_u64(PROTOCOL_FEATURES)

    def set_protocol_features(self, features: int, _fds: list[int]) -> None:
        """Take the extensions that the front end uses."""
        if features & ~PROTOCOL_FEATURES:
            raise ProtocolError(f"protocol features {features & ~PROTOCOL_FEATURES:#x} were not offered")
        self._protocol_features = features

    def get_queue_num(self, _none: None, _fds: list[int]) -> bytes:
        """Say how many rings there can be."""
        return protocol.pack_u64(self._device.ring_count)

    def set_owner(self, _none: None, _fds: list[int]) -> None:
        """Begin a session; nothing to do."""

    def reset_owner(self, _none: None, _fds: list[int]) -> None:
        """Disable all rings, as the specification recommends for this old request."""
        for ring in self._rings:
            ring.enabled = False
            self._halt(ring)

    def get_config(self, access: ConfigAccess, _fds: list[int]) -> bytes:
        """Read the configuration space; an empty payload says that the range is wrong."""
        config = self._device.config()
        if access.offset + access.size > len(config):
            self._log.say(f"refused: GET_CONFIG of {access.size} bytes at {access.offset}, space has {len(config)}")
            return b""
        return protocol.pack_config(access, config[access.offset : access.offset + access.size])

    def set_config(self, _access: ConfigAccess, _fds: list[int]) -> None:
        """Refuse: no field of our devices is writable."""
        raise RefusedError("the configuration space is read-only")

    # Requests about memory

    def set_mem_table(self, infos: tuple[protocol.RegionInfo, ...], fds: list[int]) -> None:
        """Replace the memory table."""
        if len(fds) != len(infos):
            raise ProtocolError(f"{len(infos)} regions with {len(fds)} file descriptors")
        self._use_memory(MemoryTable(tuple(Region(info, fd) for info, fd in zip(infos, fds, strict=True))))

    def get_max_mem_slots(self, _none: None, _fds: list[int]) -> bytes:
        """Say how many regions a table can have."""
        return protocol.pack_u64(MAX_SLOTS)

    def add_mem_reg(self, info: protocol.RegionInfo, fds: list[int]) -> None:
        """Add a region."""
        self._use_memory(self._memory.with_region(Region(info, fds[0])))

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
        ring.replace_fd("call_fd", fds.pop() if fds else -1)

    def set_vring_err(self, value: int, fds: list[int]) -> None:
        """Take the eventfd for a broken ring."""
        ring = self._ring_of(value, fds)
        ring.replace_fd("error_fd", fds.pop() if fds else -1)

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


HANDLERS: dict[int, Handler] = {
    Request.GET_FEATURES: Handler(protocol.parse_nothing, Backend.get_features),
    Request.SET_FEATURES: Handler(protocol.parse_u64, Backend.set_features),
    Request.SET_OWNER: Handler(protocol.parse_nothing, Backend.set_owner),
    Request.RESET_OWNER: Handler(protocol.parse_nothing, Backend.reset_owner),
    Request.SET_MEM_TABLE: Handler(protocol.parse_memory_table, Backend.set_mem_table, (1, protocol.MAX_REGIONS)),
    Request.SET_VRING_NUM: Handler(protocol.parse_ring_state, Backend.set_vring_num),
    Request.SET_VRING_ADDR: Handler(protocol.parse_ring_addresses, Backend.set_vring_addr),
    Request.SET_VRING_BASE: Handler(protocol.parse_ring_state, Backend.set_vring_base),
    Request.GET_VRING_BASE: Handler(protocol.parse_ring_state, Backend.get_vring_base),
    Request.SET_VRING_KICK: Handler(protocol.parse_u64, Backend.set_vring_kick, (0, 1)),
    Request.SET_VRING_CALL: Handler(protocol.parse_u64, Backend.set_vring_call, (0, 1)),
    Request.SET_VRING_ERR: Handler(protocol.parse_u64, Backend.set_vring_err, (0, 1)),
    Request.GET_PROTOCOL_FEATURES: Handler(protocol.parse_nothing, Backend.get_protocol_features),
    Request.SET_PROTOCOL_FEATURES: Handler(protocol.parse_u64, Backend.set_protocol_features),
    Request.GET_QUEUE_NUM: Handler(protocol.parse_nothing, Backend.get_queue_num),
    Request.SET_VRING_ENABLE: Handler(protocol.parse_ring_state, Backend.set_vring_enable),
    Request.GET_CONFIG: Handler(protocol.parse_config, Backend.get_config),
    Request.SET_CONFIG: Handler(protocol.parse_config, Backend.set_config),
    Request.GET_MAX_MEM_SLOTS: Handler(protocol.parse_nothing, Backend.get_max_mem_slots),
    Request.ADD_MEM_REG: Handler(protocol.parse_single_region, Backend.add_mem_reg, (1, 1)),
    Request.REM_MEM_REG: Handler(protocol.parse_single_region, Backend.rem_mem_reg, (0, 1)),
}
