"""Which open descriptions hold a guest's POSIX locks: one for each owner on each file."""

import os
import threading
from collections.abc import Callable
from typing import Final

MAX_OWNERS: Final = 10_000  # of locks on one file


class PosixLocks:
    """Descriptions by node and owner. Whoever uses one, or lets it go, holds the mutex for as long.

    So does whoever looks for the handle that a new one is for: a handle that is found under the mutex is let go of
    later, and then its node's locks with it.
    """

    def __init__(self, released: Callable[[int], None]) -> None:
        self.mutex = threading.Lock()
        self.released = released  # called with the node of which locks have gone
        self._by_node: dict[int, dict[int, int]] = {}

    def get(self, node: int, owner: int) -> int | None:
        """Return an owner's description of a file, None where it has none. Under the mutex."""
        return self._by_node.get(node, {}).get(owner)

    def open(self, node: int, owner: int, description: Callable[[], int]) -> int | None:
        """Return an owner's description, a new one at need; None if there are too many. Under the mutex."""
        owners = self._by_node.setdefault(node, {})
        if owner not in owners:
            if len(owners) >= MAX_OWNERS:
                return None
            owners[owner] = description()
        return owners[owner]

    def release_owner(self, node: int, owner: int) -> None:
        """End all locks of an owner on a file."""
        if node not in self._by_node:  # as nearly always
            return
        with self.mutex:
            descriptor = self._by_node.get(node, {}).pop(owner, None)
            if descriptor is not None:
                os.close(descriptor)
        self.released(node)

    def release(self, node: int) -> None:
        """End all locks on a file."""
        with self.mutex:
            for descriptor in self._by_node.pop(node, {}).values():
                os.close(descriptor)

    def release_all(self) -> None:
        """End all locks."""
        with self.mutex:
            for owners in self._by_node.values():
                for descriptor in owners.values():
                    os.close(descriptor)
            self._by_node.clear()
