"""Descriptors that no table has any more, but that a request in another thread may be about to use.

Closed at once, such a number could be another file's by the time of that request's system call. So it is closed when
all requests have ended that began before it left its table: they may have found it there, later ones can't.
"""

import os
import threading
from collections import deque
from threading import get_ident


class Retired:
    """Epoch-based reclamation: the epoch is the number of descriptors retired so far.

    Each request knows the epoch in which it began, each descriptor the one in which it was retired.

    `begin` and `end` are on every request's way, so they take no lock. A request that begins while a descriptor is
    retired may be missed by who looks for the oldest; but it has looked nothing up yet, and won't find the descriptor.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()  # around what follows but `_since`
        self._now = 0
        self._since: dict[int, int] = {}  # when the request of a thread began
        self._waiting: deque[tuple[int, int]] = deque()  # when, and the descriptor; in order

    def begin(self) -> None:
        """Keep all descriptors that this thread finds from being closed until `end`, or until it begins again."""
        self._since[get_ident()] = self._now
        if self._waiting:
            self._close_ready()

    def end(self) -> None:
        """Say that this thread's request is done."""
        del self._since[get_ident()]
        if self._waiting:
            self._close_ready()

    def close(self, descriptor: int) -> None:
        """Close a descriptor, which is in no table any more, as soon as that can't hurt."""
        with self._lock:
            self._waiting.append((self._now, descriptor))
            self._now += 1
        if get_ident() not in self._since:  # else it can't be before this thread's `end`
            self._close_ready()

    def _close_ready(self) -> None:
        ready: list[int] = []
        with self._lock:
            oldest = min(list(self._since.values()), default=self._now) if self._since else self._now
            while self._waiting and self._waiting[0][0] < oldest:
                ready.append(self._waiting.popleft()[1])
        for descriptor in ready:
            _shut(descriptor)


def _shut(descriptor: int) -> None:
    try:  # noqa: SIM105 - on the way of every FORGET, and `suppress` takes twice as long
        os.close(descriptor)
    except OSError:  # what a close can tell of a file's content FLUSH has told
        pass
