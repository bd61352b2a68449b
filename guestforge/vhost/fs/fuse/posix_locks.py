"""Which open file descriptions hold a guest's POSIX locks: one for each owner on each file."""

import os
import threading
from collections.abc import Callable
from typing import Final

MAX_OWNERS: Final = 10_000  # of locks on one file


class PosixLocks:
    """Descriptors of open file descriptions, by inode (its nodeid) and owner.

    Callers hold `mutex` while they use or release a descriptor, and from looking up a handle until the descriptor that
    is for it is opened: a handle found under the mutex is closed later, and its inode's locks are released then.
    """

    def __init__(self, released: Callable[[int], None]) -> None:
        self.mutex = threading.Lock()
        self.released = released  # called with the nodeid of an inode of which locks have gone
        self._by_nodeid: dict[int, dict[int, int]] = {}

    def get(self, nodeid: int, owner: int) -> int | None:
        """Return an owner's open file description of a file, None where it has none. Under the mutex."""
        return self._by_nodeid.get(nodeid, {}).get(owner)

    def open(self, nodeid: int, owner: int, description: Callable[[], int]) -> int | None:
        """Return an owner's open file description, a new one at need; None if there are too many. Under the mutex."""
        owners = self._by_nodeid.setdefault(nodeid, {})
        if owner not in owners:
            if len(owners) >= MAX_OWNERS:
                return None
            owners[owner] = description()
        return owners[owner]

    def release_owner(self, nodeid: int, owner: int) -> None:
        """End all locks of an owner on a file."""
        if nodeid not in self._by_nodeid:  # as nearly always
            return
        with self.mutex:
            descriptor = self._by_nodeid.get(nodeid, {}).pop(owner, None)
            if descriptor is not None:
                os.close(descriptor)
        self.released(nodeid)

    def release(self, nodeid: int) -> None:
        """End all locks on a file."""
        with self.mutex:
            for descriptor in self._by_nodeid.pop(nodeid, {}).values():
                os.close(descriptor)

    def release_all(self) -> None:
        """End all locks."""
        with self.mutex:
            for owners in self._by_nodeid.values():
                for descriptor in owners.values():
                    os.close(descriptor)
            self._by_nodeid.clear()
