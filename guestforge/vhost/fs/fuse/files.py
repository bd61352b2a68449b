"""Operations on open files. Data goes between the host's file and the guest's memory without a copy of ours."""

import errno
import os
from typing import Final

from guestforge.vhost.core.scattered import limited, split
from guestforge.vhost.fs.fuse.abi import layout, opening
from guestforge.vhost.fs.fuse.attributes import drop_privileges
from guestforge.vhost.fs.fuse.inodes import refuse
from guestforge.vhost.fs.fuse.protocol import (
    COPY_IN,
    FALLOCATE_IN,
    FLUSH_IN,
    FSYNC_DATA,
    FSYNC_IN,
    LSEEK_IN,
    OPEN_KILL_SUIDGID,
    OPEN_OUT,
    READ_IN,
    RELEASE_FLOCK_UNLOCK,
    RELEASE_IN,
    WRITE_CACHE,
    WRITE_IN,
    WRITE_KILL_SUIDGID,
    Op,
)
from guestforge.vhost.fs.fuse.share import Operation, Request, Share
from guestforge.vhost.fs.fuse.syscalls import fallocate as host_fallocate
from guestforge.vhost.fs.fuse.syscalls import syncfs as host_syncfs

IOV_MAX: Final = 1024  # pieces that readv(2) and writev(2) take at once
CHANGING: Final = os.O_WRONLY | os.O_RDWR | os.O_TRUNC


def open_(share: Share, request: Request) -> bytes:
    """Open a file. Permissions are the guest's to check; O_DIRECT concerns the guest's page cache; the host's file
    is opened without it."""
    flags, asked = request.fields("2I")
    how = opening(flags, share.guest.open_flags)
    if how.flags & CHANGING:
        share.writable()
    inode = share.inodes[request.nodeid]
    descriptor = share.reopen(inode, how.flags & ~(os.O_CREAT | os.O_EXCL))
    if asked & OPEN_KILL_SUIDGID and how.flags & os.O_TRUNC:
        drop_privileges(descriptor)
    return request.pack(OPEN_OUT, share.handles.add(descriptor, inode), share.opened_how(direct=how.direct), 0)


def read(share: Share, request: Request) -> int:
    """Read straight into the guest's memory."""
    handle, offset, size, *_ = request.fields(READ_IN)
    if size > request.room:
        raise refuse(errno.EINVAL)
    descriptor = share.handles.file(handle).descriptor
    pieces = list(limited(request.payload, size))
    if len(pieces) <= IOV_MAX:
        return os.preadv(descriptor, pieces, offset) if pieces else 0
    return os.preadv(descriptor, pieces[:IOV_MAX], offset)  # a short read, after which the guest asks for the rest


def write(share: Share, request: Request) -> bytes:
    """Write straight from the guest's memory.

    Where O_APPEND counts is said in each write: a page of a shared mapping has its place even in a file that is open
    for appending, and fcntl(2) changes the flag.
    """
    share.writable()
    head, data = split(request.body, layout(request.order, WRITE_IN).size)
    number, offset, size, flags, _, opened, _ = layout(request.order, WRITE_IN).unpack(head)
    pieces = list(limited(data, size))
    if sum(map(len, pieces)) != size:
        raise refuse(errno.EINVAL)
    handle = share.handles.file(number)
    descriptor = handle.descriptor
    how = os.RWF_APPEND if opened & os.O_APPEND and not flags & WRITE_CACHE else 0
    share.space.write(handle.inode, descriptor, -1 if how else offset, size)
    written = os.pwritev(descriptor, pieces[:IOV_MAX], offset, how) if pieces else 0
    if flags & WRITE_KILL_SUIDGID:
        drop_privileges(descriptor)
    return request.pack("2I", written, 0)


def flush(share: Share, request: Request) -> bytes:
    """A process has closed one of its descriptors, which ends its POSIX locks on the file."""
    number, _, _, owner = request.fields(FLUSH_IN)
    handle = share.handles.file(number)
    share.inodes.locks.release_owner(handle.inode.id, owner)
    os.close(os.dup(handle.descriptor))  # tells what only close(2) does, such as a full quota of a network's disk
    return b""


def release(share: Share, request: Request) -> bytes:
    """The last descriptor has been closed; flock(2)'s locks end with the host's."""
    number, _, flags, owner = request.fields(RELEASE_IN)
    handle = share.handles.file(number)
    if flags & RELEASE_FLOCK_UNLOCK:
        share.inodes.locks.release_owner(handle.inode.id, owner)
    share.handles.remove(number)
    return b""


def fsync(share: Share, request: Request) -> bytes:
    """Write a file to the disk."""
    number, flags, _ = request.fields(FSYNC_IN)
    return synced(share.handles.file(number).descriptor, flags)


def synced(descriptor: int, flags: int) -> bytes:
    """Write a file or a directory to the disk, as FSYNC and FSYNCDIR ask for it by their flags."""
    if flags & FSYNC_DATA:
        os.fdatasync(descriptor)
    else:
        os.fsync(descriptor)
    return b""


def fallocate(share: Share, request: Request) -> bytes:
    """Allocate or free blocks."""
    share.writable()
    number, offset, length, mode, _ = request.fields(FALLOCATE_IN)
    handle = share.handles.file(number)
    share.space.allocate(handle.inode, mode, length)
    host_fallocate(handle.descriptor, mode, offset, length)
    return b""


def lseek(share: Share, request: Request) -> bytes:
    """Find data or a hole; every other seek is the guest's own."""
    number, offset, whence, _ = request.fields(LSEEK_IN)
    if whence not in (os.SEEK_DATA, os.SEEK_HOLE):
        raise refuse(errno.EINVAL)
    return request.pack("Q", os.lseek(share.handles.file(number).descriptor, offset, whence))


def copy_file_range(share: Share, request: Request) -> bytes:
    """Copy between two files without the guest."""
    share.writable()
    source, at, _, target, into, length, flags = request.fields(COPY_IN)
    if flags:
        raise refuse(errno.EINVAL)
    from_, to = share.handles.file(source).descriptor, share.handles.file(target)
    length = min(length, 0x7FFF_F000, max(0, os.fstat(from_).st_size - at))
    share.space.write(to.inode, to.descriptor, into, length)
    copied = os.copy_file_range(from_, to.descriptor, length, at, into)
    return request.pack("2I", copied, 0)


def syncfs(share: Share, request: Request) -> bytes:
    """Write all that the guest has written to the disk; and what else the host has on that file system."""
    if share.read_only:  # there is nothing of the guest's
        return b""
    with_files = share.reopen(share.inodes[request.nodeid], os.O_RDONLY)
    try:
        host_syncfs(with_files)
    finally:
        os.close(with_files)
    return b""


OPERATIONS: dict[int, Operation] = {
    Op.OPEN: open_,
    Op.READ: read,
    Op.WRITE: write,
    Op.FLUSH: flush,
    Op.RELEASE: release,
    Op.FSYNC: fsync,
    Op.FALLOCATE: fallocate,
    Op.LSEEK: lseek,
    Op.COPY_FILE_RANGE: copy_file_range,
    Op.SYNCFS: syncfs,
}
