"""The way to the guest: its receive ring, filled with control packets first, then straight from sockets."""

import fcntl
import socket
import struct
import termios
from collections import deque
from collections.abc import Callable
from enum import Enum

from guestforge.vhost.core.scattered import scatter
from guestforge.vhost.core.vring import Vring
from guestforge.vhost.vsock.packets import HEADER_SIZE, MAX_PAYLOAD

MAX_WAITING = 1024  # control packets; above it the transmit ring is left alone until the guest takes some
SMALLEST_BUFFER = HEADER_SIZE + 1
MAX_VECTORS = 1024  # IOV_MAX of Linux


class Got(Enum):
    """What became of an attempt to read a socket into the guest."""

    DATA = 1
    NOTHING_YET = 2
    END = 3
    NO_BUFFERS = 4


class Buffer:
    """A chain of the receive ring: where its header goes and where its data goes."""

    __slots__ = ("capacity", "head", "pieces", "views")

    def __init__(self, head: int, pieces: list[memoryview], limit: int) -> None:
        self.head = head
        self.pieces = pieces
        self.views = [pieces[0][HEADER_SIZE : HEADER_SIZE + limit]] if len(pieces) == 1 else _tail(pieces, limit)
        self.capacity = sum(map(len, self.views))


class Inbox:
    """The guest's receive ring. Without a running ring it takes nothing."""

    ring: Vring | None

    def __init__(self) -> None:
        self.ring = None
        self._control: deque[bytes] = deque()

    def clear(self) -> None:
        """Drop what waits: it was for a driver that is no more."""
        self._control.clear()

    @property
    def full(self) -> bool:
        """Whether so many control packets wait that no more should be caused."""
        return len(self._control) >= MAX_WAITING

    def put(self, packet: bytes) -> None:
        """Queue a packet without data; it is written with the next `write_control`."""
        self._control.append(packet)

    def write_control(self) -> bool:
        """Write what is queued while there are buffers; return whether all went."""
        while self._control:
            buffer = self._take(0)
            if buffer is None or self.ring is None:
                return False
            scatter(buffer.pieces, self._control.popleft())
            self.ring.push(buffer.head, HEADER_SIZE)
        return True

    def read_socket(self, sock: socket.socket, limit: int, header: Callable[[int], bytes]) -> Got:
        """Read a socket straight into the guest's buffers, at most `limit` bytes, as packets with `header(length)`.

        Raises OSError for what the socket reports.
        """
        if not self.write_control():  # whatever waits was decided before this data
            return Got.NO_BUFFERS
        buffers = self._buffers(min(limit, max(1, _readable_bytes(sock))))
        if not buffers or self.ring is None:
            return Got.NO_BUFFERS
        used, got = 0, Got.NOTHING_YET
        try:
            count = sock.recvmsg_into([view for buffer in buffers for view in buffer.views])[0]
            got = Got.DATA if count else Got.END
            while count:
                buffer = buffers[used]
                length = min(count, buffer.capacity)
                scatter(buffer.pieces, header(length))
                self.ring.push(buffer.head, HEADER_SIZE + length)
                used, count = used + 1, count - length
        except BlockingIOError:
            pass
        finally:
            self.ring.give_back([buffer.head for buffer in buffers[used:]])
        return got

    def _buffers(self, size: int) -> list[Buffer]:
        """Take buffers for so many bytes, or as many as there are."""
        buffers: list[Buffer] = []
        vectors = 0
        while size > 0:
            buffer = self._take(size)
            if buffer is None:
                break
            vectors += len(buffer.views)
            if vectors > MAX_VECTORS and buffers and self.ring is not None:
                self.ring.give_back([buffer.head])
                break
            buffers.append(buffer)
            size -= buffer.capacity
        return buffers

    def _take(self, limit: int) -> Buffer | None:
        """Take one buffer. When there is none, the guest will kick as soon as there is."""
        if self.ring is None:
            return None
        chain = self.ring.pop()
        if chain is None:
            if self.ring is None or not self.ring.want_kicks():
                return None
            chain = self.ring.pop()
            if chain is None:
                return None
        size = sum(map(len, chain.writable))
        if chain.readable or size < SMALLEST_BUFFER:
            if self.ring is not None:
                self.ring.fail(f"receive buffer of {size} writable bytes")
            return None
        return Buffer(chain.head, chain.writable, min(limit, MAX_PAYLOAD))


def _tail(pieces: list[memoryview], limit: int) -> list[memoryview]:
    """Return views of at most `limit` bytes after the header."""
    views: list[memoryview] = []
    skip = HEADER_SIZE
    for piece in pieces:
        view = piece[skip : skip + limit]
        skip = max(0, skip - len(piece))
        if view:
            views.append(view)
            limit -= len(view)
    return views


def _readable_bytes(sock: socket.socket) -> int:
    """Return how many bytes wait in a socket, so that no more buffers are taken than will be filled."""
    return int(struct.unpack("i", fcntl.ioctl(sock.fileno(), termios.FIONREAD, b"\0\0\0\0"))[0])
