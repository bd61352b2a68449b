"""The vhost-user messages: bytes to values and back, nothing else.

Format: https://www.qemu.org/docs/master/interop/vhost-user.html. All numbers are in the host's byte order.
"""

import enum
import struct
from dataclasses import dataclass

from guestforge.vhost.core.errors import ProtocolError

HEADER = struct.Struct("=III")  # request, flags, size of the payload
VERSION = 1
VERSION_MASK = 0x3
FLAG_REPLY = 0x4
FLAG_NEED_REPLY = 0x8

MAX_PAYLOAD = 1024  # the longest that we know, a table of 8 regions or a configuration space of 256 bytes, is < 280
MAX_REGIONS = 8  # in one SET_MEM_TABLE
MAX_CONFIG = 256  # bytes of configuration space in one message
MAX_FDS = MAX_REGIONS
MAX_RING_SIZE = 32768  # virtio 1.2, 2.7

_U64 = struct.Struct("=Q")
_STATE = struct.Struct("=II")
_ADDRESSES = struct.Struct("=IIQQQQ")
_REGION = struct.Struct("=QQQQ")
_CONFIG = struct.Struct("=III")

F_PROTOCOL_FEATURES = 1 << 30
VIRTIO_F_INDIRECT_DESC = 1 << 28
VIRTIO_F_EVENT_IDX = 1 << 29
VIRTIO_F_VERSION_1 = 1 << 32

PROTOCOL_F_MQ = 1 << 0
PROTOCOL_F_REPLY_ACK = 1 << 3
PROTOCOL_F_CONFIG = 1 << 9
PROTOCOL_F_CONFIGURE_MEM_SLOTS = 1 << 15

RING_INDEX_MASK = 0xFF
RING_NO_FD = 0x100


class Request(enum.IntEnum):
    """The requests of a front end that we serve."""

    GET_FEATURES = 1
    SET_FEATURES = 2
    SET_OWNER = 3
    RESET_OWNER = 4
    SET_MEM_TABLE = 5
    SET_VRING_NUM = 8
    SET_VRING_ADDR = 9
    SET_VRING_BASE = 10
    GET_VRING_BASE = 11
    SET_VRING_KICK = 12
    SET_VRING_CALL = 13
    SET_VRING_ERR = 14
    GET_PROTOCOL_FEATURES = 15
    SET_PROTOCOL_FEATURES = 16
    GET_QUEUE_NUM = 17
    SET_VRING_ENABLE = 18
    GET_CONFIG = 24
    SET_CONFIG = 25
    GET_MAX_MEM_SLOTS = 36
    ADD_MEM_REG = 37
    REM_MEM_REG = 38


@dataclass(frozen=True, slots=True)
class Header:
    """The first 12 bytes of a message."""

    request: int
    need_reply: bool
    size: int


@dataclass(frozen=True, slots=True)
class RingState:
    """A ring's index and one number about it."""

    index: int
    number: int


@dataclass(frozen=True, slots=True)
class RingAddresses:
    """Where a ring's three parts are, as addresses in the front end's own address space."""

    index: int
    flags: int
    descriptors: int
    used: int
    available: int
    log: int


@dataclass(frozen=True, slots=True)
class RegionInfo:
    """A piece of guest memory: `offset` is where it starts in its file, the rest are addresses and bytes."""

    guest: int
    size: int
    user: int
    offset: int


@dataclass(frozen=True, slots=True)
class ConfigAccess:
    """An access to the device's configuration space."""

    offset: int
    size: int
    flags: int
    data: bytes


def name(request: int) -> str:
    """Return a request's name for a person."""
    try:
        return Request(request).name
    except ValueError:
        return f"request {request}"


def parse_header(data: bytes) -> Header:
    """Parse the 12 bytes before the payload. Raises ProtocolError on a version, flag or size that can't be."""
    request, flags, size = HEADER.unpack(data)
    if flags & VERSION_MASK != VERSION:
        raise ProtocolError(f"{name(request)}: protocol version {flags & VERSION_MASK}, not {VERSION}")
    if flags & FLAG_REPLY:
        raise ProtocolError(f"{name(request)}: a reply where a request belongs")
    if size > MAX_PAYLOAD:
        raise ProtocolError(f"{name(request)}: payload of {size} bytes, more than {MAX_PAYLOAD}")
    return Header(request, bool(flags & FLAG_NEED_REPLY), size)


def reply(request: int, payload: bytes) -> bytes:
    """Return the whole reply message to a request."""
    return HEADER.pack(request, VERSION | FLAG_REPLY, len(payload)) + payload


def pack_u64(value: int) -> bytes:
    """Return the payload of one 64-bit number."""
    return _U64.pack(value)


def pack_ring_state(index: int, number: int) -> bytes:
    """Return the payload of a ring state."""
    return _STATE.pack(index, number)


def pack_config(access: ConfigAccess, data: bytes) -> bytes:
    """Return the payload of a configuration reply."""
    return _CONFIG.pack(access.offset, len(data), access.flags) + data


def parse_nothing(payload: bytes) -> None:
    """Accept only an empty payload."""
    _exactly(payload, 0)


def parse_u64(payload: bytes) -> int:
    """Parse one 64-bit number."""
    _exactly(payload, _U64.size)
    return int(_U64.unpack(payload)[0])


def parse_ring_state(payload: bytes) -> RingState:
    """Parse a ring's index and a number."""
    _exactly(payload, _STATE.size)
    return RingState(*_STATE.unpack(payload))


def parse_ring_addresses(payload: bytes) -> RingAddresses:
    """Parse the addresses of a ring's parts."""
    _exactly(payload, _ADDRESSES.size)
    return RingAddresses(*_ADDRESSES.unpack(payload))


def parse_memory_table(payload: bytes) -> tuple[RegionInfo, ...]:
    """Parse a table of at most 8 regions; QEMU sends only as many as there are, others send all 8 slots."""
    if len(payload) < _STATE.size:
        raise ProtocolError(f"memory table of {len(payload)} bytes")
    count, _padding = _STATE.unpack_from(payload)
    if not 1 <= count <= MAX_REGIONS:
        raise ProtocolError(f"memory table of {count} regions, not 1 to {MAX_REGIONS}")
    if len(payload) not in (_STATE.size + count * _REGION.size, _STATE.size + MAX_REGIONS * _REGION.size):
        raise ProtocolError(f"memory table of {count} regions in {len(payload)} bytes")
    return tuple(RegionInfo(*_REGION.unpack_from(payload, _STATE.size + i * _REGION.size)) for i in range(count))


def parse_single_region(payload: bytes) -> RegionInfo:
    """Parse one region after 8 bytes of padding."""
    _exactly(payload, 8 + _REGION.size)
    return RegionInfo(*_REGION.unpack_from(payload, 8))


def parse_config(payload: bytes) -> ConfigAccess:
    """Parse an access to the configuration space with its data."""
    if len(payload) < _CONFIG.size:
        raise ProtocolError(f"configuration access of {len(payload)} bytes")
    offset, size, flags = _CONFIG.unpack_from(payload)
    data = payload[_CONFIG.size :]
    if size > MAX_CONFIG or len(data) != size:
        raise ProtocolError(f"configuration access of {size} bytes with {len(data)} bytes of data")
    return ConfigAccess(offset, size, flags, data)


def _exactly(payload: bytes, size: int) -> None:
    if len(payload) != size:
        raise ProtocolError(f"payload of {len(payload)} bytes, not {size}")
