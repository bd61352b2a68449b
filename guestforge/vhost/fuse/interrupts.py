"""Which requests wait, and which of them the guest does not wait for any more."""

import threading
from typing import Final

MAX_EARLY: Final = 1024  # interrupts of requests that have not been heard of


class Interrupts:
    """Requests by their unique numbers, which a session uses once. For all threads.

    An interrupt may overtake its request, which comes through another ring and is served in another thread. So one that
    hits nothing is kept for a while; a request that has been answered already never comes again.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: set[int] = set()
        self._interrupted: dict[int, None] = {}  # in the order in which they came

    def begin(self, unique: int) -> None:
        """Count a request as one that waits."""
        with self._lock:
            self._waiting.add(unique)

    def end(self, unique: int) -> None:
        """Count it no more."""
        with self._lock:
            self._waiting.discard(unique)
            self._interrupted.pop(unique, None)

    def interrupt(self, unique: int) -> None:
        """Note that a request is to end."""
        with self._lock:
            self._interrupted[unique] = None
            if len(self._interrupted) > MAX_EARLY + len(self._waiting):
                del self._interrupted[next(one for one in self._interrupted if one not in self._waiting)]

    def interrupt_all(self) -> None:
        """End all that wait, and forget of the others: the guest begins anew."""
        with self._lock:
            self._interrupted = dict.fromkeys(self._waiting)

    def __contains__(self, unique: int) -> bool:
        return unique in self._interrupted
