"""Data of the guest on its way into a host program's socket."""

import itertools
import socket
from collections import deque

WRITE_VECTORS = 64
BLOCK = 16 * 1024  # bytes; what is smaller shares a block with what follows it


class Outbox:
    """Writes straight from guest memory and copies only what the socket does not take. Bounded by the caller's credit.

    The guest chooses the pieces in which it sends, down to a byte each, and an object for each byte would take hundreds
    of times the credit. So what waits lies in blocks, two neighbours of which began with more than BLOCK bytes: they
    take less than twice what waits, for a bytearray shrinks as what was sent leaves it.

    Every method but `clear` raises OSError when nobody reads any more.
    """

    __slots__ = ("_pending", "_sock")

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._pending: deque[bytearray] = deque()

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
                self._keep(view[sent:])
            sent = max(0, sent - len(view))
        return taken

    def flush(self) -> int:
        """Write what waits; return how many bytes the socket took."""
        taken = 0
        while self._pending:
            sent = self._send(list(itertools.islice(self._pending, WRITE_VECTORS)))
            if not sent:
                break
            taken += sent
            self._drop(sent)
        return taken

    def _keep(self, view: memoryview) -> None:
        if self._pending and len(self._pending[-1]) + len(view) <= BLOCK:
            self._pending[-1].extend(view)
        else:
            self._pending.append(bytearray(view))

    def _drop(self, count: int) -> None:
        while count:
            first = self._pending[0]
            if count < len(first):
                del first[:count]
                return
            count -= len(first)
            self._pending.popleft()

    def _send(self, data: list[memoryview] | list[bytearray]) -> int:
        try:
            return self._sock.sendmsg(data)
        except BlockingIOError:
            return 0
