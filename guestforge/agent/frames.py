"""ttRPC's frames: a 10-byte header and up to 4 MiB of data.

The format is that of https://github.com/containerd/ttrpc/blob/main/PROTOCOL.md: data length and stream id as big-endian
32-bit numbers, a byte for the kind, a byte of flags.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

from guestforge.agent.errors import ProtocolError

HEADER = struct.Struct(">IIBB")
MAX_DATA = 4 * 1024 * 1024  # bytes, without the header
MAX_STREAM = 0xFFFF_FFFF


class Kind(IntEnum):
    """The kinds of frames. A peer may send others; they are well delimited all the same."""

    REQUEST = 1
    RESPONSE = 2
    DATA = 3


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame. `kind` is a Kind or a number that we do not know."""

    stream: int
    kind: int
    data: bytes
    flags: int = 0


def encode_frame(frame: Frame) -> bytes:
    """Return a frame's bytes. Raises ProtocolError for more data than a frame may have."""
    _check_length(len(frame.data))
    return HEADER.pack(len(frame.data), frame.stream, frame.kind, frame.flags) + frame.data


class FrameParser:
    """Cuts a byte stream into frames, however it comes in pieces; holds at most one frame and one piece."""

    def __init__(self) -> None:
        self._held = bytearray()

    @property
    def inside_frame(self) -> bool:
        """Whether the bytes so far end within a frame."""
        return bool(self._held)

    def feed(self, piece: bytes) -> Iterator[Frame]:
        """Take the next bytes and yield the frames that they complete; go through all of them before the next call.

        Raises ProtocolError at a header that announces too much; the stream is beyond use then.
        """
        self._held += piece
        start = 0
        while (frame := _parse(self._held, start)) is not None:
            yield frame
            start += HEADER.size + len(frame.data)
        del self._held[:start]


def _parse(held: bytearray, start: int) -> Frame | None:
    if len(held) - start < HEADER.size:
        return None
    length, stream, kind, flags = HEADER.unpack_from(held, start)
    _check_length(length)
    begin = start + HEADER.size
    if len(held) < begin + length:
        return None
    return Frame(stream, kind, bytes(held[begin : begin + length]), flags)


def _check_length(length: int) -> None:
    if length > MAX_DATA:
        raise ProtocolError(f"a ttRPC frame with {length} bytes of data; {MAX_DATA} are allowed")
