"""vsock packets (virtio 1.2, section 5.10.6): bytes to values and back."""

import struct
from typing import NamedTuple

from guestforge.vhost.core.errors import PacketError

HEADER = struct.Struct("<QQIIIHHIII")
HEADER_SIZE = HEADER.size  # 44
MAX_PAYLOAD = 64 * 1024  # VIRTIO_VSOCK_MAX_PKT_BUF_SIZE of Linux

HOST_CID = 2  # VMADDR_CID_HOST
FIRST_GUEST_CID = 3
LAST_GUEST_CID = 0xFFFFFFFE  # 0xffffffff is VMADDR_CID_ANY
MAX_PORT = 0xFFFFFFFE  # 0xffffffff is VMADDR_PORT_ANY

TYPE_STREAM = 1

REQUEST = 1
RESPONSE = 2
RST = 3
SHUTDOWN = 4
RW = 5
CREDIT_UPDATE = 6
CREDIT_REQUEST = 7

SHUTDOWN_RCV = 1  # "I will not receive any more"
SHUTDOWN_SEND = 2  # "I will not send any more"
SHUTDOWN_BOTH = SHUTDOWN_RCV | SHUTDOWN_SEND


class Header(NamedTuple):
    """The 44 bytes before the data. A named tuple, not a dataclass: one is made for every packet."""

    src_cid: int
    dst_cid: int
    src_port: int
    dst_port: int
    length: int
    type: int
    op: int
    flags: int
    buf_alloc: int
    fwd_cnt: int


def split(pieces: list[memoryview]) -> tuple[Header, list[memoryview]]:
    """Return a packet's header and the views of its data, cut to the length that the header gives.

    Raises PacketError for a packet without a whole header, or with a length above 64 KiB or above what is there.
    """
    if not pieces or len(pieces[0]) < HEADER_SIZE:
        pieces = _joined(pieces)
    first = pieces[0]
    header = Header._make(HEADER.unpack_from(first))
    left = header.length
    if left > MAX_PAYLOAD:
        raise PacketError(f"length {left} is above {MAX_PAYLOAD}")
    data: list[memoryview] = []
    for piece in (first[HEADER_SIZE:], *pieces[1:]):
        if left and piece:
            data.append(piece[:left])
            left -= len(data[-1])
    if left:
        raise PacketError(f"length {header.length} with {header.length - left} bytes of data")
    return header, data


def _joined(pieces: list[memoryview]) -> list[memoryview]:
    """Return the pieces as one. Rare: drivers put the header into one piece."""
    total = sum(len(piece) for piece in pieces)
    if total < HEADER_SIZE:
        raise PacketError(f"packet of {total} bytes, its header alone has {HEADER_SIZE}")
    if total > HEADER_SIZE + MAX_PAYLOAD:
        raise PacketError(f"packet of {total} bytes")
    return [memoryview(b"".join(pieces))]
