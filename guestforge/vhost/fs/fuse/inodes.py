"""What the guest has looked up (inodes) and what it has open (handles): tables under ids that only they give out.

An inode keeps its file open with O_PATH for as long as the guest's kernel refers to it: so the file can be renamed or
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

from guestforge.vhost.fs.fuse.inode_numbers import InodeNumbers
from guestforge.vhost.fs.fuse.posix_locks import PosixLocks
from guestforge.vhost.fs.fuse.protocol import ROOT_ID
from guestforge.vhost.fs.fuse.retired import Retired

MAX_INODES: Final = 500_000  # each takes about 3 KB, nearly all of it the kernel's: a descriptor and its inode
MAX_HANDLES: Final = 100_000

_NO_NAMES = frozenset({b"", b".", b".."})


def refuse(number: int) -> OSError:
    """Return the error that the guest is told."""
    return OSError(number, os.strerror(number))


@dataclass(slots=True, eq=False)
class Inode:
    """A file that the guest has looked up; `lookups` is FUSE's lookup count, which FORGET takes down.

    `uses` counts its handles: while there are any it stays open, whatever the lookup count is. A closed inode cannot be
    used again; a thread that had just looked it up gets ESTALE.
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
    inode: Inode
    lock: "threading.Lock | None" = None  # a directory has one
    flocked: bool = False  # it may have a lock of flock(2)


class InodeTable:
    """The inodes below a root. Its methods raise OSError with what the guest is to be told."""

    def __init__(self, root: int, retired: Retired, released: Callable[[int], None], *, most: int = MAX_INODES) -> None:
        self._most = most
        self.locks = PosixLocks(released)
        self._retired = retired
        self._lock = threading.Lock()
        self._ids = itertools.count(ROOT_ID + 1)
        status = os.fstat(root)
        self._root = Inode(ROOT_ID, root, _key(status), stat.S_IFDIR, 1)
        self._by_id = {ROOT_ID: self._root}
        self._by_key = {self._root.key: self._root}
        self.numbers = InodeNumbers(status.st_dev)

    def __getitem__(self, number: int) -> Inode:
        inode = self._by_id.get(number)
        if inode is None:
            raise refuse(errno.ESTALE)
        return inode

    def __len__(self) -> int:
        return len(self._by_id)

    def directory(self, number: int) -> Inode:
        """Return an inode that is a directory."""
        inode = self[number]
        if inode.kind != stat.S_IFDIR:
            raise refuse(errno.ENOTDIR)
        return inode

    def take(self, descriptor: int) -> tuple[Inode, os.stat_result]:
        """Return the inode of an O_PATH descriptor, which becomes the table's; its lookup count goes up by one."""
        try:
            status = os.fstat(descriptor)
            key = _key(status)
            with self._lock:
                inode = self._by_key.get(key)
                if inode is None:
                    if len(self._by_id) >= self._most:
                        raise refuse(errno.ENFILE)
                    inode = Inode(next(self._ids), descriptor, key, stat.S_IFMT(status.st_mode))
                    self._by_id[inode.id] = self._by_key[key] = inode
                    descriptor = -1
                inode.lookups += 1
            return inode, status
        finally:
            if descriptor >= 0:
                os.close(descriptor)

    def forget(self, number: int, count: int) -> None:
        """Take a lookup count down; an inode whose count is 0 leaves the table. An unknown id is left as it is."""
        with self._lock:
            inode = self._by_id.get(number)
            if inode is None or inode is self._root:
                return
            inode.lookups -= min(count, inode.lookups)
            if inode.lookups:
                return
            del self._by_id[number], self._by_key[inode.key]
            unused = _let_go(inode)
        if unused:
            self._close(inode)

    def hold(self, inode: Inode) -> None:
        """Count a use of an inode; raises ESTALE for one that is closed by now."""
        with self._lock:
            if inode.closed:
                raise refuse(errno.ESTALE)
            inode.uses += 1

    def drop(self, inode: Inode) -> None:
        """Take back a use; the last one of an inode that was forgotten meanwhile closes it."""
        with self._lock:
            inode.uses -= 1
            unused = _let_go(inode)
        if unused:
            self._close(inode)

    def clear(self) -> None:
        """Forget all inodes but the root."""
        with self._lock:
            inodes = [inode for inode in self._by_id.values() if inode is not self._root]
            self._by_id = {ROOT_ID: self._root}
            self._by_key = {self._root.key: self._root}
            for inode in inodes:
                inode.lookups = 0
            unused = [inode for inode in inodes if _let_go(inode)]
        for inode in unused:
            self._close(inode)
        self.locks.release_all()

    def close(self) -> None:
        """Forget everything."""
        self.clear()
        self._close(self._root)

    def _close(self, inode: Inode) -> None:
        self.locks.release(inode.id)
        self._retired.close(inode.descriptor)


class Handles:
    """Open files and directories."""

    def __init__(self, inodes: InodeTable, retired: Retired) -> None:
        self._inodes = inodes
        self._retired = retired
        self._lock = threading.Lock()
        self._ids = itertools.count(1)
        self._by_id: dict[int, Handle] = {}

    def add(self, descriptor: int, inode: Inode, *, directory: bool = False) -> int:
        """Take a descriptor in; return the handle's id."""
        with undone(lambda: os.close(descriptor)):
            if len(self._by_id) >= MAX_HANDLES:
                raise refuse(errno.ENFILE)
            self._inodes.hold(inode)
        number = next(self._ids)
        handle = Handle(descriptor, inode, threading.Lock() if directory else None)
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
            self._inodes.locks.released(handle.inode.id)
        self._retired.close(handle.descriptor)
        self._inodes.drop(handle.inode)


def check_name(name: bytes) -> bytes:
    """Return a name of one component; raises EINVAL for what could lead elsewhere."""
    if name in _NO_NAMES or b"/" in name or b"\0" in name:
        raise refuse(errno.EINVAL)
    return name  # a longer one than 255 bytes is the host's to refuse


def _let_go(inode: Inode) -> bool:
    """Return whether an inode is to be closed now, once. Under the lock of its table."""
    if inode.lookups or inode.uses or inode.closed:
        return False
    inode.closed = True
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


class undone:
    """Undo what was done before, when what follows it fails.

    A class, for a generator's context takes three times as long, and each file that is made has three of them.
    """

    __slots__ = ("_undo",)

    def __init__(self, undo: Callable[[], None]) -> None:
        self._undo = undo

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, fault: object, trace: object) -> None:
        if kind is not None:
            with contextlib.suppress(OSError):
                self._undo()
