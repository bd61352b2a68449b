"""What the guest has heard of (nodes) and what it has open (handles): tables under ids that only they give out.

A node keeps its file open with O_PATH for as long as the guest's kernel refers to it: so the file can be renamed or
unlinked meanwhile, its inode is not given to another one, and no path is ever walked again.
"""

import contextlib
import errno
import fcntl
import itertools
import os
import stat
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from guestforge.vhost.fs.fuse.inodes import Inodes
from guestforge.vhost.fs.fuse.posix_locks import PosixLocks
from guestforge.vhost.fs.fuse.protocol import ROOT_ID
from guestforge.vhost.fs.fuse.retired import Retired

MAX_NODES: Final = 500_000  # each takes about 3 KB, nearly all of it the kernel's: a descriptor and its inode
MAX_HANDLES: Final = 100_000

_NO_NAMES = frozenset({b"", b".", b".."})


def refuse(number: int) -> OSError:
    """Return the error that the guest is told."""
    return OSError(number, os.strerror(number))


@dataclass(slots=True, eq=False)
class Node:
    """A file that the guest knows; `lookups` counts how often it was told of it and has not forgotten it.

    `uses` counts its handles: while there are any it stays open, whatever the guest says that it forgets. One that is
    closed comes to no new use: who has found it just before in another thread is late.
    """

    id: int
    descriptor: int  # O_PATH
    key: int  # of device and inode: one number, for there may be 1,000,000
    kind: int  # S_IFMT of its mode
    lookups: int = 0
    uses: int = 0
    closed: bool = False
    plain: int = -1  # the time of change, in ns, at which it had no access control list and no owner of the guest's

    @property
    def device(self) -> int:
        """The number of its file system."""
        return self.key >> 64


@dataclass(slots=True, eq=False)
class Handle:
    """An open file or directory. `lock`: a directory's position is shared by its readers."""

    descriptor: int
    node: Node
    lock: "threading.Lock | None" = None  # a directory has one
    flocked: bool = False  # it may have a lock of flock(2)


class Nodes:
    """The nodes below a root. Its methods raise OSError with what the guest is to be told."""

    def __init__(self, root: int, retired: Retired, released: Callable[[int], None], *, most: int = MAX_NODES) -> None:
        self._most = most
        self.locks = PosixLocks(released)
        self._retired = retired
        self._lock = threading.Lock()
        self._ids = itertools.count(ROOT_ID + 1)
        status = os.fstat(root)
        self._root = Node(ROOT_ID, root, _key(status), stat.S_IFDIR, 1)
        self._by_id = {ROOT_ID: self._root}
        self._by_key = {self._root.key: self._root}
        self.inodes = Inodes(status.st_dev)

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
            key = _key(status)
            with self._lock:
                node = self._by_key.get(key)
                if node is None:
                    if len(self._by_id) >= self._most:
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
            unused = _let_go(node)
        if unused:
            self._close(node)

    def hold(self, node: Node) -> None:
        """Count a use of a node; raises ESTALE for one that is closed by now."""
        with self._lock:
            if node.closed:
                raise refuse(errno.ESTALE)
            node.uses += 1

    def drop(self, node: Node) -> None:
        """Take back a use; the last one of a node that was forgotten meanwhile closes it."""
        with self._lock:
            node.uses -= 1
            unused = _let_go(node)
        if unused:
            self._close(node)

    def clear(self) -> None:
        """Forget all nodes but the root."""
        with self._lock:
            nodes = [node for node in self._by_id.values() if node is not self._root]
            self._by_id = {ROOT_ID: self._root}
            self._by_key = {self._root.key: self._root}
            for node in nodes:
                node.lookups = 0
            unused = [node for node in nodes if _let_go(node)]
        for node in unused:
            self._close(node)
        self.locks.release_all()

    def close(self) -> None:
        """Forget everything."""
        self.clear()
        self._close(self._root)

    def _close(self, node: Node) -> None:
        self.locks.release(node.id)
        self._retired.close(node.descriptor)


class Handles:
    """Open files and directories."""

    def __init__(self, nodes: Nodes, retired: Retired) -> None:
        self._nodes = nodes
        self._retired = retired
        self._lock = threading.Lock()
        self._ids = itertools.count(1)
        self._by_id: dict[int, Handle] = {}

    def add(self, descriptor: int, node: Node, *, directory: bool = False) -> int:
        """Take a descriptor in; return the handle's id."""
        with undone(lambda: os.close(descriptor)):
            if len(self._by_id) >= MAX_HANDLES:
                raise refuse(errno.ENFILE)
            self._nodes.hold(node)
        number = next(self._ids)
        handle = Handle(descriptor, node, threading.Lock() if directory else None)
        with self._lock:
            self._by_id[number] = handle
        return number

    def file(self, number: int) -> Handle:
        """Return the handle of an open file."""
        handle = self._by_id.get(number)
        if handle is None or handle.lock:
            raise refuse(errno.EBADF)
        return handle

    def directory(self, number: int) -> tuple[Handle, threading.Lock]:
        """Return the handle of an open directory, and the lock for whoever moves its position."""
        handle = self._by_id.get(number)
        if handle is None or not handle.lock:
            raise refuse(errno.EBADF)
        return handle, handle.lock

    def remove(self, number: int) -> None:
        """Close a handle."""
        with self._lock:
            handle = self._by_id.pop(number, None)
        if handle is None:
            raise refuse(errno.EBADF)
        self._close(handle)

    def clear(self) -> None:
        """Close all."""
        with self._lock:
            handles, self._by_id = self._by_id, {}
        for handle in handles.values():
            self._close(handle)

    def _close(self, handle: Handle) -> None:
        if handle.flocked:  # at once, though the descriptor may stay open for a moment
            fcntl.flock(handle.descriptor, fcntl.LOCK_UN)
            self._nodes.locks.released(handle.node.id)
        self._retired.close(handle.descriptor)
        self._nodes.drop(handle.node)


def check_name(name: bytes) -> bytes:
    """Return a name of one component; raises EINVAL for what could lead elsewhere."""
    if name in _NO_NAMES or b"/" in name or b"\0" in name:
        raise refuse(errno.EINVAL)
    return name  # a longer one than 255 bytes is the host's to refuse


def _let_go(node: Node) -> bool:
    """Return whether a node is to be closed now, once. Under the lock of its table."""
    if node.lookups or node.uses or node.closed:
        return False
    node.closed = True
    return True


def _key(status: os.stat_result) -> int:
    return status.st_dev << 64 | status.st_ino


@contextlib.contextmanager
def closing(descriptor: int) -> Iterator[int]:
    """Yield a descriptor, and close it afterwards."""
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def undone(undo: Callable[[], None]) -> Iterator[None]:
    """Undo what was done before, when what follows it fails."""
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):
            undo()
        raise
