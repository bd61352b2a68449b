"""Operations that make something new."""

import contextlib
import errno
import os
import stat
from collections.abc import Callable
from typing import Final

from guestforge.vhost.fs.fuse.abi import Opening, opening
from guestforge.vhost.fs.fuse.attributes import drop_privileges
from guestforge.vhost.fs.fuse.inodes import check_name, refuse, undone
from guestforge.vhost.fs.fuse.owners import IMPOSSIBLE, LEAVE, give
from guestforge.vhost.fs.fuse.protocol import OPEN_KILL_SUIDGID, OPEN_OUT, Op
from guestforge.vhost.fs.fuse.share import Operation, Request, Share, decode_device
from guestforge.vhost.fs.fuse.shown import entry, rights
from guestforge.vhost.fs.fuse.syscalls import fchown

CREATE_IN: Final = "4I"  # flags mode umask open_flags
NEW: Final = os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
SPECIAL_BITS: Final = stat.S_ISUID | stat.S_ISGID


def mknod(share: Share, request: Request) -> bytes:
    """Make a file, a pipe, a socket or a device; a device only where we may."""
    mode, device, _, _ = request.fields("4I")
    name = request.name("4I")
    return _made(share, request, name, mode, lambda parent: os.mknod(name, mode, decode_device(device), dir_fd=parent))


def mkdir(share: Share, request: Request) -> bytes:
    """Make a directory."""
    mode, _ = request.fields("2I")
    name = request.name("2I")
    return _made(share, request, name, mode, lambda parent: os.mkdir(name, mode, dir_fd=parent), remove=os.rmdir)


def symlink(share: Share, request: Request) -> bytes:
    """Make a symbolic link; where it leads is text, which the guest interprets."""
    name, target = request.names("", 2)
    check_name(name)
    return _made(share, request, name, 0, lambda parent: os.symlink(target, name, dir_fd=parent))


def create(share: Share, request: Request) -> bytes:
    """Make a file where there is none, and open it."""
    share.writable()
    flags, mode, _, asked = request.fields(CREATE_IN)
    name = request.name(CREATE_IN)
    parent = share.inodes.directory(request.nodeid)
    how = opening(flags, share.guest.open_flags)
    try:
        descriptor = os.open(name, how.flags | NEW, mode & 0o7777, dir_fd=parent.descriptor)
    except FileExistsError:
        if how.flags & os.O_EXCL:
            raise
        return _open_existing(share, request, how, asked)
    with undone(lambda: os.unlink(name, dir_fd=parent.descriptor)):
        return _opened(share, request, descriptor, how, mode)


def _open_existing(share: Share, request: Request, how: Opening, asked: int) -> bytes:
    """Open what is under a name already.

    It is looked at before it is opened: it may be a device of the host, which the guest has made itself, or a pipe.
    """
    inode, _ = share.find(share.inodes.directory(request.nodeid), request.name(CREATE_IN))
    try:
        descriptor = share.reopen(inode, how.flags & ~os.O_CREAT)
        if asked & OPEN_KILL_SUIDGID and how.flags & os.O_TRUNC:
            with undone(lambda: os.close(descriptor)):
                drop_privileges(descriptor)
        return _opened(share, request, descriptor, how, None)
    finally:
        share.inodes.forget(inode.id, 1)  # _opened counts one lookup, and the reply is one


def tmpfile(share: Share, request: Request) -> bytes:
    """Make a file without a name, and open it."""
    share.writable()
    flags, mode, _, _ = request.fields(CREATE_IN)
    parent = share.inodes.directory(request.nodeid)
    how = opening(flags, share.guest.open_flags)
    descriptor = os.open(
        str(parent.descriptor),
        (how.flags & ~(os.O_CREAT | os.O_NOFOLLOW)) | os.O_TMPFILE | os.O_CLOEXEC,
        mode & 0o7777,
        dir_fd=share.proc,
    )
    return _opened(share, request, descriptor, how, mode)


def _opened(share: Share, request: Request, descriptor: int, how: Opening, mode: int | None) -> bytes:
    """Return the answer for a file that is open now; `mode` is that of one that we made."""
    with undone(lambda: os.close(descriptor)):
        if mode is not None:
            _own(share, request, descriptor)
            if mode & SPECIAL_BITS:
                os.fchmod(descriptor, mode & 0o7777)
        inode, status = share.inodes.take(os.open(str(descriptor), os.O_PATH | os.O_CLOEXEC, dir_fd=share.proc))
    with undone(lambda: share.inodes.forget(inode.id, 1)):
        number = share.handles.add(descriptor, inode)
    return entry(share, request, inode, status) + request.pack(OPEN_OUT, number, share.opened_how(direct=how.direct), 0)


def _made(
    share: Share,
    request: Request,
    name: bytes,
    mode: int,
    make: Callable[[int], None],
    *,
    remove: Callable[..., None] = os.unlink,
) -> bytes:
    """Make something under a name, give it to who asked, and tell of it; where that fails, nothing is left."""
    share.writable()
    parent = share.inodes.directory(request.nodeid)
    make(parent.descriptor)
    with undone(lambda: remove(name, dir_fd=parent.descriptor)):
        inode, _ = share.find(parent, name)
        with undone(lambda: share.inodes.forget(inode.id, 1)):
            _own(share, request, inode.descriptor)
            if mode & SPECIAL_BITS and inode.kind == stat.S_IFREG:  # chown(2) has cleared them
                os.chmod(str(inode.descriptor), mode & 0o7777, dir_fd=share.proc)
            return entry(share, request, inode, os.fstat(inode.descriptor))


def _own(share: Share, request: Request, descriptor: int) -> None:
    """Give something new to the user who asked; its group is the directory's where that is set-group-ID.

    What we may not give away stays ours: where the file system has no owners, and what can't have them kept for it.
    """
    if LEAVE in (request.uid, request.gid):
        raise refuse(errno.EOVERFLOW)  # nobody's number: what is made would stay ours
    if share.keeps_owners:
        directory = share.inodes[request.nodeid]
        about = rights(share, directory, os.fstat(directory.descriptor))
        gid = about.gid if about.mode & stat.S_ISGID else request.gid
        status = os.fstat(descriptor)
        if (status.st_uid, status.st_gid) != (request.uid, gid):
            with contextlib.suppress(PermissionError):
                give(share.proc, descriptor, request.uid, gid)
        return
    inherited = os.fstat(share.inodes[request.nodeid].descriptor).st_mode & stat.S_ISGID
    gid = -1 if inherited else request.gid
    if not request.uid and gid <= 0:
        return  # it is
    try:
        fchown(descriptor, request.uid, gid)
    except OSError as e:
        if e.errno not in IMPOSSIBLE:
            raise


OPERATIONS: dict[int, Operation] = {
    Op.MKNOD: mknod,
    Op.MKDIR: mkdir,
    Op.SYMLINK: symlink,
    Op.CREATE: create,
    Op.TMPFILE: tmpfile,
}
