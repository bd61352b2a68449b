"""Operations on names: looking them up and forgetting them, removing, renaming and linking them."""

import errno
import os
import stat
from typing import Final

from guestforge.vhost.fs.fuse.abi import layout
from guestforge.vhost.fs.fuse.inodes import check_name, refuse, undone
from guestforge.vhost.fs.fuse.protocol import Op
from guestforge.vhost.fs.fuse.share import Operation, Request, Share
from guestforge.vhost.fs.fuse.shown import entry
from guestforge.vhost.fs.fuse.syscalls import renameat2

MAX_FORGETS: Final = 100_000  # in one message; more do not fit in


def lookup(share: Share, request: Request) -> bytes:
    """Tell what is under a name."""
    return entry(share, request, *share.find(share.inodes.directory(request.nodeid), request.name()))


def forget(share: Share, request: Request) -> None:
    """Take an inode's lookup count down; nobody waits for an answer."""
    share.inodes.forget(request.nodeid, request.fields("Q")[0])


def batch_forget(share: Share, request: Request) -> None:
    """Do the same for many."""
    count, _ = request.fields("2I")
    one = layout(request.order, "2Q")
    for inode, lookups in one.iter_unpack(request.head(8 + one.size * min(count, MAX_FORGETS))[8:]):
        share.inodes.forget(inode, lookups)


def readlink(share: Share, request: Request) -> bytes:
    """Tell where a symbolic link leads; the guest follows it."""
    inode = share.inodes[request.nodeid]
    if inode.kind != stat.S_IFLNK:
        raise refuse(errno.EINVAL)
    return os.fsencode(os.readlink("", dir_fd=inode.descriptor))


def unlink(share: Share, request: Request) -> bytes:
    """Remove the name of a file."""
    share.writable()
    os.unlink(request.name(), dir_fd=share.inodes.directory(request.nodeid).descriptor)
    return b""


def rmdir(share: Share, request: Request) -> bytes:
    """Remove an empty directory."""
    share.writable()
    os.rmdir(request.name(), dir_fd=share.inodes.directory(request.nodeid).descriptor)
    return b""


def rename(share: Share, request: Request) -> bytes:
    """Rename, over what is there."""
    return _rename(share, request, "Q", 0)


def rename2(share: Share, request: Request) -> bytes:
    """Rename with flags."""
    return _rename(share, request, "Q2I", request.fields("Q2I")[1])


def _rename(share: Share, request: Request, fields: str, flags: int) -> bytes:
    share.writable()
    old, new = map(check_name, request.names(fields, 2))
    source = share.inodes.directory(request.nodeid)
    target = share.inodes.directory(request.fields(fields)[0])
    renameat2(source.descriptor, old, target.descriptor, new, flags)
    return b""


def link(share: Share, request: Request) -> bytes:
    """Give a file another name."""
    share.writable()
    inode = share.inodes[request.fields("Q")[0]]
    directory, name = share.inodes.directory(request.nodeid), request.name("Q")
    # what is behind the magic link is what the inode is, a symbolic link too: that one is not followed further
    os.link(str(inode.descriptor), name, src_dir_fd=share.proc, dst_dir_fd=directory.descriptor)
    with undone(lambda: os.unlink(name, dir_fd=directory.descriptor)):
        return entry(share, request, *share.find(directory, name))


OPERATIONS: dict[int, Operation] = {
    Op.LOOKUP: lookup,
    Op.FORGET: forget,
    Op.BATCH_FORGET: batch_forget,
    Op.READLINK: readlink,
    Op.UNLINK: unlink,
    Op.RMDIR: rmdir,
    Op.RENAME: rename,
    Op.RENAME2: rename2,
    Op.LINK: link,
}
