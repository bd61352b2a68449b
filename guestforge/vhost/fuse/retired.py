"""Descriptors that no table has any more, but that a request in another thread may be about to use.

Closed at once, such a number could be another file's by the time of that request's system call. So it is closed when
all requests have ended that began before it left its table: they may have found it there, later ones can't.
"""

import contextlib
import os
import threading
from collections import deque
from collections.abc import Iterator


class Retired:
    """Counts time in descriptors retired: a request knows when it began, a descriptor when it was retired."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._now = 0
        self._since: dict[int, int] = {}  # when the request of a thread began
        self._waiting: deque[tuple[int, int]] = deque()  # when, and the descriptor; in order

    @contextlib.contextmanager
    def request(self) -> Iterator[None]:
        """Keep all descriptors that a request of this thread may find from being closed."""
        with self._lock:
            self._since[threading.get_ident()] = self._now
        try:
            yield
        finally:
            with self._lock:
                del self._since[threading.get_ident()]
                ready = self._ready()
            _close(ready)

    def renew(self) -> None:
        """Say that this thread's request holds nothing that it found before: for one that waits long."""
        with self._lock:
            self._since[threading.get_ident()] = self._now
            ready = self._ready()
        _close(ready)

    def close(self, descriptor: int) -> None:
        """Close a descriptor, which is in no table any more, as soon as that can't hurt."""
        with self._lock:
            self._waiting.append((self._now, descriptor))
            self._now += 1
            ready = self._ready()
        _close(ready)

    def _ready(self) -> list[int]:
        if not self._waiting:
            return []
        oldest, ready = min(self._since.values(), default=self._now), []
        while self._waiting and self._waiting[0][0] < oldest:
            ready.append(self._waiting.popleft()[1])
        return ready


def _close(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        with contextlib.suppress(OSError):  # what a close can tell of a file's content FLUSH has told
            os.close(descriptor)
