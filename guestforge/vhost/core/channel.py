"""The vhost-user socket: whole messages with their file descriptors, without ever waiting."""

import array
import contextlib
import os
import socket
from dataclasses import dataclass

from guestforge.vhost.core import protocol
from guestforge.vhost.core.errors import ProtocolError
from guestforge.vhost.core.protocol import Header

_FD_SIZE = array.array("i").itemsize
_ANCILLARY = socket.CMSG_SPACE(protocol.MAX_FDS * _FD_SIZE)


@dataclass(frozen=True, slots=True)
class Message:
    """A request as it came. The descriptors belong to whoever has the message; what is not kept must be closed."""

    header: Header
    payload: bytes
    fds: list[int]


class Channel:
    """Reads requests and writes replies on a connected socket, which it makes non-blocking."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self.heard = False  # whether any byte has come
        sock.setblocking(False)
        self._buffer = b""
        self._fds: list[int] = []
        self._header: Header | None = None

    def receive(self) -> Message | None:
        """Return the next message, None when it is not complete yet.

        Raises EOFError when the front end has gone, ProtocolError for a message that can't be.
        """
        if self._header is None:
            if not self._fill(protocol.HEADER.size):
                return None
            self._header, self._buffer = protocol.parse_header(self._buffer), b""
        if not self._fill(self._header.size):
            return None
        message = Message(self._header, self._buffer, self._fds)
        self._header, self._buffer, self._fds = None, b"", []
        return message

    def send(self, data: bytes) -> None:
        """Write a reply whole. Raises ProtocolError when the front end leaves its replies unread."""
        try:
            sent = self.socket.send(data)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            raise EOFError from error
        if sent != len(data):
            raise ProtocolError("the front end does not read its replies")

    def close(self) -> None:
        """Close the socket and descriptors of a message that never became complete."""
        self.socket.close()
        close_fds(self._fds)

    def _fill(self, size: int) -> bool:
        """Read until the buffer has so many bytes; return whether it has."""
        while len(self._buffer) < size:
            try:
                data, ancillary, flags, _ = self.socket.recvmsg(
                    size - len(self._buffer), _ANCILLARY, socket.MSG_CMSG_CLOEXEC
                )
            except BlockingIOError:
                return False
            except ConnectionError as error:
                raise EOFError from error
            self._take_fds(ancillary)
            if not data:
                raise EOFError
            self.heard = True
            if flags & socket.MSG_CTRUNC or len(self._fds) > protocol.MAX_FDS:
                raise ProtocolError(f"more than {protocol.MAX_FDS} file descriptors in one message")
            self._buffer += data
        return True

    def _take_fds(self, ancillary: list[tuple[int, int, bytes]]) -> None:
        for level, kind, data in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                fds = array.array("i")
                fds.frombytes(data[: len(data) - len(data) % _FD_SIZE])
                self._fds += fds


def close_fds(fds: list[int]) -> None:
    """Close descriptors and empty the list."""
    while fds:
        with contextlib.suppress(OSError):
            os.close(fds.pop())
