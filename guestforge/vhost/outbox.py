"""Data of the guest on its way into a host program's socket."""

import socket
from collections import deque

WRITE_VECTORS = 64


class Outbox:
    """Writes straight from guest memory and copies only what the socket does not take. Bounded by the caller's credit.

    Every method raises OSError when nobody reads any more.
    """

    __slots__ = ("_pending", "_sock")

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._pending: deque[memoryview] = deque()

    def __len__(self) -> int:
        """Return how many bytes wait."""
        return sum(map(len, self._pending))

    def __bool__(self) -> bool:
        return bool(self._pending)

    def clear(self) -> None:
        """Give up what waits."""
        self._pending.clear()

    def write(self, data: list[memoryview]) -> int:
        """Write or keep all of it; return how many bytes the socket took. The views are not used after that."""
        taken = sent = 0 if self._pending else self._send(data)
        for view in data:
            if sent < len(view):
                self._pending.append(memoryview(bytes(view[sent:])))
            sent = max(0, sent - len(view))
        return taken

    def flush(self) -> int:
        """Write what waits; return how many bytes the socket took."""
        taken = 0
        while self._pending:
            sent = self._send([self._pending[i] for i in range(min(len(self._pending), WRITE_VECTORS))])
            if not sent:
                break
            taken += sent
            self._drop(sent)
        return taken

    def _drop(self, count: int) -> None:
        while count:
            first = self._pending.popleft()
            if count < len(first):
                self._pending.appendleft(first[count:])
                return
            count -= len(first)

    def _send(self, data: list[memoryview]) -> int:
        try:
            return self._sock.sendmsg(data)
        except BlockingIOError:
            return 0
