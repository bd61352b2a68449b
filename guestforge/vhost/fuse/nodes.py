"""What the guest has heard of (nodes) and what it has open (handles): tables under ids that only they give out.

A node keeps its file open with O_PATH for as long as the guest's kernel refers to it: so the file can be renamed or
unlinked meanwhile, its inode is not given to another one, and no path is ever walked again.
"""

import contextlib
import errno
import itertools
import os
import stat
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from guestforge.vhost.fuse.protocol import ROOT_ID

MAX_NODES: Final = 1_000_000
MAX_HANDLES: Final = 100_000

_FREE_NAMES = frozenset({b"", b".", b".."})


def refuse(number: int) -> OSError:
    """Return the error that the guest is told."""
    return OSError(number, os.strerror(number))


@dataclass(slots=True, eq=False)
class Node:
    """A file that the guest knows; `lookups` counts how often it was told of it and has not forgotten it.

    `uses` counts its handles: while there are any it stays open, whatever the guest says that it forgets.
    """

    id: int
    descriptor: int  # O_PATH
    key: tuple[int, int]  # device and inode
    kind: int  # S_IFMT of its mode
    lookups: int = 0
    uses: int = 0
    locks: dict[int, int] = field(default_factory=dict)  # an open description of its own for each owner of POSIX locks


@dataclass(slots=True, eq=False)
class Handle:
    """An open file or directory."""

    descriptor: int
    node: Node
    directory: bool
    lock: threading.Lock = field(default_factory=threading.Lock)  # a directory's position is shared by its readers


class Nodes:
    """The nodes below a root. Its methods raise OSError with what the guest is to be told."""

    def __init__(self, root: int) -> None:
        self._lock = threading.Lock()
        self._ids = itertools.count(ROOT_ID + 1)
        status = os.fstat(root)
        self._root = Node(ROOT_ID, root, (status.st_dev, status.st_ino), stat.S_IFDIR, 1)
        self._by_id = {ROOT_ID: self._root}
        self._by_key = {self._root.key: self._root}

    def __getitem__(self, number: int) -> Node:
        node = self._by_id.get(number)
        if node is None:
            raise refuse(errno.ESTALE)
        return node

    def __len__(self) -> int:
        return len(self._by_id)

    def directory(self, number: int) -> Node:
        """Return a node that is a directory."""
        node = self[number]
        if node.kind != stat.S_IFDIR:
            raise refuse(errno.ENOTDIR)
        return node

    def take(self, descriptor: int) -> tuple[Node, os.stat_result]:
        """Return the node of an O_PATH descriptor, which becomes the table's; count that the guest is told of it."""
        try:
            status = os.fstat(descriptor)
            key = (status.st_dev, status.st_ino)
            with self._lock:
                node = self._by_key.get(key)
                if node is None:
                    if len(self._by_id) >= MAX_NODES:
                        raise refuse(errno.ENFILE)
                    node = Node(next(self._ids), descriptor, key, stat.S_IFMT(status.st_mode))
                    self._by_id[node.id] = self._by_key[key] = node
                    descriptor = -1
                node.lookups += 1
            return node, status
        finally:
            if descriptor >= 0:
                os.close(descriptor)

    def forget(self, number: int, count: int) -> None:
        """Take back what the guest was told of; what it does not know is left as it is."""
        with self._lock:
            node = self._by_id.get(number)
            if node is None or node is self._root:
                return
            node.lookups -= min(count, node.lookups)
            if node.lookups:
                return
            del self._by_id[number], self._by_key[node.key]
            unused = not node.uses
        if unused:
            _close(node)

    def hold(self, node: Node) -> None:
        """Count a use of a node."""
        with self._lock:
            node.uses += 1

    def drop(self, node: Node) -> None:
        """Take back a use; the last one of a node that was forgotten meanwhile closes it."""
        with self._lock:
            node.uses -= 1
            unused = not node.uses and not node.lookups
        if unused:
            _close(node)

    def clear(self) -> None:
        """Forget all nodes but the root."""
        with self._lock:
            nodes = [node for node in self._by_id.values() if node is not self._root]
            self._by_id = {ROOT_ID: self._root}
            self._by_key = {self._root.key: self._root}
        for node in nodes:
            node.lookups = 0
            if not node.uses:
                _close(node)
        release_locks(self._root)

    def close(self) -> None:
        """Forget everything."""
        self.clear()
        _close(self._root)


class Handles:
    """Open files and directories."""

    def __init__(self, nodes: Nodes) -> None:
        self._nodes = nodes
        self._ids = itertools.count(1)
        self._by_id: dict[int, Handle] = {}

    def add(self, descriptor: int, node: Node, *, directory: bool = False) -> int:
        """Take a descriptor in; return the handle's id."""
        if len(self._by_id) >= MAX_HANDLES:
            os.close(descriptor)
            raise refuse(errno.ENFILE)
        self._nodes.hold(node)
        number = next(self._ids)
        self._by_id[number] = Handle(descriptor, node, directory)
        return number

    def file(self, number: int) -> Handle:
        """Return the handle of an open file."""
        return self._get(number, directory=False)

    def directory(self, number: int) -> Handle:
        """Return the handle of an open directory."""
        return self._get(number, directory=True)

    def remove(self, number: int) -> None:
        """Close a handle."""
        handle = self._by_id.pop(number, None)
        if handle is None:
            raise refuse(errno.EBADF)
        self._close(handle)

    def clear(self) -> None:
        """Close all."""
        handles, self._by_id = self._by_id, {}
        for handle in handles.values():
            self._close(handle)

    def _close(self, handle: Handle) -> None:
        os.close(handle.descriptor)
        self._nodes.drop(handle.node)

    def _get(self, number: int, *, directory: bool) -> Handle:
        handle = self._by_id.get(number)
        if handle is None or handle.directory != directory:
            raise refuse(errno.EBADF)
        return handle


def check_name(name: bytes) -> bytes:
    """Return a name of one component; raises EINVAL for what could lead elsewhere."""
    if name in _FREE_NAMES or b"/" in name or b"\0" in name:
        raise refuse(errno.EINVAL)
    return name  # a longer one than 255 bytes is the host's to refuse


def release_locks(node: Node) -> None:
    """Give up all POSIX locks on a node."""
    locks, node.locks = node.locks, {}
    for descriptor in locks.values():
        with contextlib.suppress(OSError):
            os.close(descriptor)


def _close(node: Node) -> None:
    release_locks(node)
    os.close(node.descriptor)


@contextlib.contextmanager
def closing(descriptor: int) -> Iterator[int]:
    """Yield a descriptor, and close it afterwards."""
    try:
        yield descriptor
    finally:
        os.close(descriptor)
