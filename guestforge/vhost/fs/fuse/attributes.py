"""Operations on what is known of a file besides its content."""

import errno
import os
import stat
from typing import Any

from guestforge.vhost.fs.fuse.abi import layout
from guestforge.vhost.fs.fuse.inodes import Inode, closing, refuse
from guestforge.vhost.fs.fuse.owners import LEAVE, give
from guestforge.vhost.fs.fuse.protocol import (
    SETATTR_IN,
    STATFS_OUT,
    STATX,
    STATX_GID,
    STATX_IN,
    STATX_INODE,
    STATX_MODE,
    STATX_OUT,
    STATX_UID,
    Op,
    SetAttr,
    SetattrIn,
)
from guestforge.vhost.fs.fuse.share import VALID, Operation, Request, Share
from guestforge.vhost.fs.fuse.shown import Rights, attr, rights
from guestforge.vhost.fs.fuse.syscalls import UTIME_NOW, UTIME_OMIT, fchown, statx, utimens


def getattr_(share: Share, request: Request) -> bytes:
    """Tell a file's attributes."""
    return attr(share, request, share.inodes[request.nodeid])


def setattr_(share: Share, request: Request) -> bytes:
    """Change owner, mode, size and times, whichever are asked for; a change of owner would clear some of the mode."""
    share.writable()
    inode = share.inodes[request.nodeid]
    new = SetattrIn._make(request.fields(SETATTR_IN))
    valid = new.valid
    if (valid & SetAttr.UID and new.uid == LEAVE) or (valid & SetAttr.GID and new.gid == LEAVE):
        raise refuse(errno.EINVAL)  # nobody's number, chown(2)
    if valid & (SetAttr.UID | SetAttr.GID):
        _chown(share, inode, new.uid if valid & SetAttr.UID else LEAVE, new.gid if valid & SetAttr.GID else LEAVE)
    if valid & SetAttr.MODE:
        os.chmod(str(inode.descriptor), new.mode & 0o7777, dir_fd=share.proc)
    if valid & SetAttr.SIZE:
        handle = new.fh if valid & SetAttr.FH else None
        _truncate(share, inode, new.size, handle, drop=bool(valid & SetAttr.KILL_SUIDGID))
    if valid & (SetAttr.ATIME | SetAttr.MTIME):
        access = _time(valid, SetAttr.ATIME, SetAttr.ATIME_NOW, new.atime, new.atimensec)
        modification = _time(valid, SetAttr.MTIME, SetAttr.MTIME_NOW, new.mtime, new.mtimensec)
        utimens(share.proc, str(inode.descriptor).encode(), access, modification)
    return attr(share, request, inode)


def _chown(share: Share, inode: Inode, uid: int, gid: int) -> None:
    """Change owner and group, or one of them. What can't be is EPERM, whatever the host says of it."""
    if share.keeps_owners:
        before = rights(share, inode, os.fstat(inode.descriptor))
        new = (before.uid if uid == LEAVE else uid, before.gid if gid == LEAVE else gid)
        give(share.proc, inode.descriptor, *new)
        return
    try:
        fchown(inode.descriptor, uid, gid)
    except OSError as error:
        raise refuse(errno.EPERM if error.errno == errno.EINVAL else error.errno or errno.EIO) from error


def _truncate(share: Share, inode: Inode, size: int, handle: int | None, *, drop: bool) -> None:
    if handle is not None:
        descriptor = share.handles.file(handle).descriptor
        os.ftruncate(descriptor, size)
        if drop:
            drop_privileges(descriptor)
        return
    with closing(share.reopen(inode, os.O_WRONLY)) as descriptor:
        os.ftruncate(descriptor, size)
        if drop:
            drop_privileges(descriptor)


def drop_privileges(descriptor: int) -> None:
    """Clear what makes a program run as its owner: a change of its content by others must do so.

    The host's kernel does it only for those who lack CAP_FSETID, which we may have.
    """
    mode = os.fstat(descriptor).st_mode
    bits = stat.S_ISUID | (stat.S_ISGID if mode & stat.S_IXGRP else 0)
    if mode & bits:
        os.fchmod(descriptor, stat.S_IMODE(mode) & ~bits)


def _time(valid: int, given: int, now: int, seconds: int, nanoseconds: int) -> tuple[int, int]:
    if not valid & given:
        return 0, UTIME_OMIT
    if valid & now:
        return 0, UTIME_NOW
    signed = seconds - (1 << 64) if seconds >> 63 else seconds  # before 1970
    return signed, nanoseconds


def access(share: Share, request: Request) -> bytes:
    """Tell whether the guest's user may read, write or execute, as far as owner and mode say.

    Linux's virtio-fs checks that itself and does not ask. Groups besides the user's first are not in the message.
    """
    wanted, _ = request.fields("2I")
    inode = share.inodes[request.nodeid]
    if wanted & ~(os.R_OK | os.W_OK | os.X_OK):
        raise refuse(errno.EINVAL)
    if wanted & os.W_OK and inode.kind in (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK):
        share.writable()
    status = os.fstat(inode.descriptor)
    if wanted & ~_granted(rights(share, inode, status), request.uid, request.gid):
        raise refuse(errno.EACCES)
    return b""


def _granted(found: Rights, uid: int, gid: int) -> int:
    mode = found.mode
    if uid == 0:
        return 7 if stat.S_ISDIR(mode) or mode & 0o111 else os.R_OK | os.W_OK
    if uid == found.uid:
        return mode >> 6 & 7
    return (mode >> 3 if gid == found.gid else mode) & 7


def statx_(share: Share, request: Request) -> bytes:
    """Tell statx(2)'s attributes, the time of birth among them. The host's structure has the same fields as FUSE's."""
    _, _, _, flags, mask = request.fields(STATX_IN)
    inode, host = share.inodes[request.nodeid], layout("=", STATX)
    fields: list[Any] = list(host.unpack(statx(inode.descriptor, flags & 0x6000, mask)[: host.size]))
    status = os.fstat(inode.descriptor)
    given = rights(share, inode, status)
    fields[STATX_UID], fields[STATX_GID], fields[STATX_MODE] = given.uid, given.gid, given.mode
    fields[STATX_INODE] = share.inodes.numbers.shown(status.st_dev, status.st_ino)
    return request.pack(STATX_OUT, VALID, 0, 0, *fields)


def statfs(share: Share, request: Request) -> bytes:
    """Tell how full the file system is."""
    found = os.fstatvfs(share.inodes[request.nodeid].descriptor)
    return request.pack(
        STATFS_OUT, found.f_blocks, found.f_bfree, found.f_bavail, found.f_files, found.f_ffree, found.f_bsize,
        found.f_namemax, found.f_frsize, 0,
    )  # fmt: skip


OPERATIONS: dict[int, Operation] = {
    Op.GETATTR: getattr_,
    Op.SETATTR: setattr_,
    Op.ACCESS: access,
    Op.STATX: statx_,
    Op.STATFS: statfs,
}
