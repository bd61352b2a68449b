"""The back end's side of the vhost-user protocol: one front end and its requests."""

import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from guestforge.vhost.core import protocol
from guestforge.vhost.core.channel import Channel, Message, close_fds
from guestforge.vhost.core.errors import MemoryMapError, ProtocolError, RefusedError, RingError
from guestforge.vhost.core.log import Log
from guestforge.vhost.core.loop import IN, Loop
from guestforge.vhost.core.protocol import ConfigAccess, Request
from guestforge.vhost.core.rings import Device, Rings

# Every device has these: virtio 1 (no legacy rings), indirect descriptors, event index.
RING_FEATURES = protocol.VIRTIO_F_VERSION_1 | protocol.VIRTIO_F_INDIRECT_DESC | protocol.VIRTIO_F_EVENT_IDX
PROTOCOL_FEATURES = protocol.PROTOCOL_F_MQ | protocol.PROTOCOL_F_REPLY_ACK | protocol.PROTOCOL_F_CONFIGURE_MEM_SLOTS
MESSAGES_AT_ONCE = 32  # then the device's sockets have their turn
REFUSED = protocol.pack_u64(1)
DONE = protocol.pack_u64(0)


Serve = Callable[["Backend", Any, list[int]], bytes | None]  # takes value and descriptors; a reply's payload or None


@dataclass(frozen=True, slots=True)
class Handler:
    """How a request is parsed, what is done, and how many descriptors it may bring."""

    parse: Callable[[bytes], Any]
    serve: Serve
    fds: tuple[int, int] = (0, 0)


class Backend:
    """Serves one front end on a connected socket until it goes; then calls `ended` with the reason.

    `ended(None)` means that the front end has left in order, a text says what it did wrong.
    """

    def __init__(
        self,
        sock: socket.socket,
        device: Device,
        loop: Loop,
        log: Log,
        ended: Callable[[str | None], None],
        *,
        unsealed: bool = False,
    ) -> None:
        self._channel = Channel(sock)
        self._device = device
        self._loop = loop
        self._log = log
        self._ended = ended
        self._protocol_features = 0
        # A device that leaves its configuration space to the front end does not offer it: QEMU, which has that of a
        # virtio-fs device from its own options, would warn.
        self._protocol_offered = PROTOCOL_FEATURES | (protocol.PROTOCOL_F_CONFIG if device.config() else 0)
        self.rings = Rings(device, loop, log, unsealed=unsealed)
        self._offered = device.features | RING_FEATURES | protocol.F_PROTOCOL_FEATURES
        loop.add(sock.fileno(), IN, lambda _events: self.serve())

    @property
    def heard(self) -> bool:
        """Whether the front end has ever said anything."""
        return self._channel.heard

    def close(self) -> None:
        """Stop all rings and release everything."""
        self.rings.close()
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
        self.rings.set_features(features)

    def get_protocol_features(self, _none: None, _fds: list[int]) -> bytes:
        """Say which extensions of the protocol we have."""
        return protocol.pack_u64(self._protocol_offered)

    def set_protocol_features(self, features: int, _fds: list[int]) -> None:
        """Take the extensions that the front end uses."""
        if unknown := features & ~self._protocol_offered:
            raise ProtocolError(f"protocol features {unknown:#x} were not offered")
        self._protocol_features = features

    def get_queue_num(self, _none: None, _fds: list[int]) -> bytes:
        """Say how many rings there can be."""
        return protocol.pack_u64(self._device.ring_count)

    def set_owner(self, _none: None, _fds: list[int]) -> None:
        """Begin a session; nothing to do."""

    def reset_owner(self, _none: None, _fds: list[int]) -> None:
        """Disable all rings, as the specification recommends for this old request."""
        self.rings.disable()

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


def _of_rings(
    serve: Callable[[Rings, Any, list[int]], bytes | None],
) -> Callable[[Backend, Any, list[int]], bytes | None]:
    return lambda backend, value, fds: serve(backend.rings, value, fds)


HANDLERS: dict[int, Handler] = {
    Request.GET_FEATURES: Handler(protocol.parse_nothing, Backend.get_features),
    Request.SET_FEATURES: Handler(protocol.parse_u64, Backend.set_features),
    Request.SET_OWNER: Handler(protocol.parse_nothing, Backend.set_owner),
    Request.RESET_OWNER: Handler(protocol.parse_nothing, Backend.reset_owner),
    Request.SET_MEM_TABLE: Handler(
        protocol.parse_memory_table, _of_rings(Rings.set_mem_table), (1, protocol.MAX_REGIONS)
    ),
    Request.SET_VRING_NUM: Handler(protocol.parse_ring_state, _of_rings(Rings.set_vring_num)),
    Request.SET_VRING_ADDR: Handler(protocol.parse_ring_addresses, _of_rings(Rings.set_vring_addr)),
    Request.SET_VRING_BASE: Handler(protocol.parse_ring_state, _of_rings(Rings.set_vring_base)),
    Request.GET_VRING_BASE: Handler(protocol.parse_ring_state, _of_rings(Rings.get_vring_base)),
    Request.SET_VRING_KICK: Handler(protocol.parse_u64, _of_rings(Rings.set_vring_kick), (0, 1)),
    Request.SET_VRING_CALL: Handler(protocol.parse_u64, _of_rings(Rings.set_vring_call), (0, 1)),
    Request.SET_VRING_ERR: Handler(protocol.parse_u64, _of_rings(Rings.set_vring_err), (0, 1)),
    Request.GET_PROTOCOL_FEATURES: Handler(protocol.parse_nothing, Backend.get_protocol_features),
    Request.SET_PROTOCOL_FEATURES: Handler(protocol.parse_u64, Backend.set_protocol_features),
    Request.GET_QUEUE_NUM: Handler(protocol.parse_nothing, Backend.get_queue_num),
    Request.SET_VRING_ENABLE: Handler(protocol.parse_ring_state, _of_rings(Rings.set_vring_enable)),
    Request.GET_CONFIG: Handler(protocol.parse_config, Backend.get_config),
    Request.SET_CONFIG: Handler(protocol.parse_config, Backend.set_config),
    Request.GET_MAX_MEM_SLOTS: Handler(protocol.parse_nothing, _of_rings(Rings.get_max_mem_slots)),
    Request.ADD_MEM_REG: Handler(protocol.parse_single_region, _of_rings(Rings.add_mem_reg), (1, 1)),
    Request.REM_MEM_REG: Handler(protocol.parse_single_region, _of_rings(Rings.rem_mem_reg), (0, 1)),
}
