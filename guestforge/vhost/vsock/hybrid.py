"""The hybrid socket's first line: a host program says `CONNECT <port>` before it has a stream to the guest."""

import re
import socket
from collections.abc import Callable

from guestforge.vhost.core.errors import PacketError
from guestforge.vhost.core.loop import IN, Loop
from guestforge.vhost.vsock.packets import MAX_PORT

MAX_LINE = 32  # bytes; "CONNECT 4294967295\r\n" has 20
PATIENCE = 60.0  # seconds; a person may be typing
_LINE = re.compile(rb"connect +([0-9]{1,10})\r?\n", re.IGNORECASE)


def parse_connect(line: bytes) -> int:
    """Return the port of a `CONNECT <port>` line. Raises PacketError for anything else."""
    match = _LINE.fullmatch(line)
    port = int(match[1]) if match else -1
    if not 0 <= port <= MAX_PORT:
        raise PacketError(f"not a CONNECT line: {line[:MAX_LINE]!r}")
    return port


class Handshake:
    """A client that has connected and not yet said which port it wants.

    Ends with exactly one call: `asked(socket, port)` or `failed(reason)`; the socket is then the callee's or closed.
    """

    def __init__(
        self,
        loop: Loop,
        sock: socket.socket,
        asked: Callable[["Handshake", int], None],
        failed: Callable[["Handshake", str], None],
    ) -> None:
        self.socket = sock
        self._loop = loop
        self._asked = asked
        self._failed = failed
        self._line = b""
        self._timer = loop.call_later(PATIENCE, lambda: self._fail("no CONNECT line in time"))
        loop.add(sock.fileno(), IN, self._readable)

    def drop(self) -> None:
        """End without a call."""
        self._leave()
        self.socket.close()

    def _readable(self, _events: int) -> None:
        try:
            # Looked at first: what follows the line is the stream's, and stays in the socket.
            seen = self.socket.recv(MAX_LINE - len(self._line), socket.MSG_PEEK)
            end = seen.find(b"\n") + 1 or len(seen)
            self._line += self.socket.recv(end) if end else b""
        except BlockingIOError:
            return
        except OSError as error:
            self._fail(error.strerror or "read error")
            return
        if self._line.endswith(b"\n"):
            self._finish()
        elif not seen or len(self._line) >= MAX_LINE:
            self._fail(f"not a CONNECT line: {self._line!r}" if self._line else "")

    def _finish(self) -> None:
        try:
            port = parse_connect(self._line)
        except PacketError as error:
            self._fail(error.message)
            return
        self._leave()
        self._asked(self, port)

    def _fail(self, reason: str) -> None:
        self._leave()
        self.socket.close()
        self._failed(self, reason)

    def _leave(self) -> None:
        self._timer.cancel()
        self._loop.remove(self.socket.fileno())
