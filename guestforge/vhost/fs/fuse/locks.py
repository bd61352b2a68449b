"""Locks, which hold against other guests and the host too.

flock(2)'s locks are those of the host's open file. POSIX locks belong to a process of the guest: each of their owners
has an open description of its own of the file, and locks that (fcntl(2), open file description locks). No request
waits in here: SETLKW tries once, as SETLK does, and who asked has it tried again (waiters.py).
"""

import errno
import fcntl
import os
import struct
from typing import Final

from guestforge.vhost.fs.fuse.inodes import Inode, closing, refuse
from guestforge.vhost.fs.fuse.protocol import LOCK_FLOCK, LOCK_IN, LOCK_OUT, Op
from guestforge.vhost.fs.fuse.share import Operation, Request, Share

F_OFD_GETLK: Final = 36  # fcntl.h
F_OFD_SETLK: Final = 37
FLOCK: Final = struct.Struct("hh4xqqi4x")  # struct flock of 64-bit hosts
END: Final = 0x7FFF_FFFF_FFFF_FFFF  # the last byte of a lock up to the end of the file
FLOCK_OPERATIONS: Final = {fcntl.F_RDLCK: fcntl.LOCK_SH, fcntl.F_WRLCK: fcntl.LOCK_EX, fcntl.F_UNLCK: fcntl.LOCK_UN}


def getlk(share: Share, request: Request) -> bytes:
    """Tell of a lock that is in the way of another."""
    number, owner, start, end, kind, _, _, _ = request.fields(LOCK_IN)
    asked = FLOCK.pack(kind, os.SEEK_SET, start, _length(start, end), 0)
    locks = share.inodes.locks
    with locks.mutex:
        inode = share.handles.file(number).inode
        own = locks.get(inode.id, owner)
        if own is not None:
            answer = fcntl.fcntl(own, F_OFD_GETLK, asked)
        else:
            with closing(_description(share, inode)) as descriptor:
                answer = fcntl.fcntl(descriptor, F_OFD_GETLK, asked)
    kind, _, start, length, _ = FLOCK.unpack(answer)
    if kind == fcntl.F_UNLCK:
        return request.pack(LOCK_OUT, 0, 0, fcntl.F_UNLCK, 0)
    return request.pack(LOCK_OUT, start, END if length == 0 else start + length - 1, kind, 0)


def setlk(share: Share, request: Request) -> bytes:
    """Lock or unlock. Raises EAGAIN or EACCES where somebody else's lock is in the way."""
    _lock(share, request)
    return b""


def interrupt(share: Share, request: Request) -> None:
    """End the wait of a request; one that does not wait is left alone. Nobody waits for an answer."""
    share.waiters.interrupt(request.fields("Q")[0])


def _lock(share: Share, request: Request) -> None:
    number, owner, start, end, kind, _, flags, _ = request.fields(LOCK_IN)
    if kind not in FLOCK_OPERATIONS:
        raise refuse(errno.EINVAL)
    if flags & LOCK_FLOCK:
        handle = share.handles.file(number)
        handle.flocked = True
        fcntl.flock(handle.descriptor, FLOCK_OPERATIONS[kind] | fcntl.LOCK_NB)
        if kind != fcntl.F_WRLCK:  # a lock for reading may have been one for writing
            share.waiters.released(handle.inode.id)
        return
    asked = FLOCK.pack(kind, os.SEEK_SET, start, _length(start, end), 0)
    locks = share.inodes.locks
    with locks.mutex:
        inode = share.handles.file(number).inode
        if kind == fcntl.F_UNLCK and locks.get(inode.id, owner) is None:
            return
        descriptor = locks.open(inode.id, owner, lambda: _description(share, inode))
        if descriptor is None:
            raise refuse(errno.ENOLCK)
        fcntl.fcntl(descriptor, F_OFD_SETLK, asked)
    if kind != fcntl.F_WRLCK:
        share.waiters.released(inode.id)


def _description(share: Share, inode: Inode) -> int:
    """Open a file for locks; one that is only read can be locked only for reading."""
    try:
        return share.reopen(inode, os.O_RDONLY if share.read_only else os.O_RDWR)
    except PermissionError:
        return share.reopen(inode, os.O_RDONLY)


def _length(start: int, end: int) -> int:
    if end < start:
        raise refuse(errno.EINVAL)
    return 0 if end >= END else end - start + 1


OPERATIONS: dict[int, Operation] = {
    Op.GETLK: getlk,
    Op.SETLK: setlk,
    Op.SETLKW: setlk,
    Op.INTERRUPT: interrupt,
}
