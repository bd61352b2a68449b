"""What a guest is shown of a file: the host's attributes, less what it would understand otherwise than the host."""

import os
from time import time_ns
from typing import Any, Final, NamedTuple

from guestforge.vhost.fs.fuse.changes import SECOND, settled
from guestforge.vhost.fs.fuse.inodes import Inode
from guestforge.vhost.fs.fuse.lists import SHARED, narrowed
from guestforge.vhost.fs.fuse.owners import kept
from guestforge.vhost.fs.fuse.protocol import ATTR_OUT, ENTRY_OUT
from guestforge.vhost.fs.fuse.share import OPENED, VALID, Request, Share

TIME: Final = 0xFFFF_FFFF_FFFF_FFFF  # a time before 1970 travels as a number without a sign


class Rights(NamedTuple):
    """Whose a file is, and what its mode gives."""

    mode: int
    uid: int
    gid: int


def rights(share: Share, inode: Inode, status: os.stat_result) -> Rights:
    """Return the rights of a file."""
    return Rights._make(_rights(share, inode, status))


def _rights(share: Share, inode: Inode, status: os.stat_result) -> tuple[int, int, int]:
    """Return mode, owner and group of a file: the mode gives no more than the host's access control list does.

    A file that has neither a list nor an owner of the guest's is remembered until its time of change is another; a
    change of either changes that. Pipes, sockets and devices are left as they are: what a guest does with them never
    reaches the host's.
    """
    mode, changed = status.st_mode, status.st_ctime_ns
    if changed == inode.plain or inode.kind not in OPENED or not (mode & SHARED or share.keeps_owners):
        return mode, status.st_uid, status.st_gid
    path = share.path(inode)  # every file that is new to the guest comes here
    mode, listed = narrowed(path, mode)
    owner = kept(path) if share.keeps_owners else None
    if not listed and not owner and (share.changes_show_on == status.st_dev or settled(changed, time_ns())):
        inode.plain = changed
    return mode, *(owner or (status.st_uid, status.st_gid))


def attributes(share: Share, inode: Inode, status: os.stat_result) -> tuple[int, ...]:
    """Return the fields of ATTR."""
    whole: Any = status  # its items are whole seconds, which typeshed takes for fractions
    access, change, meta = whole[7:]
    mode, uid, gid = _rights(share, inode, status)
    device = status.st_rdev
    return (
        share.inodes.numbers.shown(status.st_dev, status.st_ino), status.st_size, status.st_blocks,
        access & TIME, change & TIME, meta & TIME,
        status.st_atime_ns % SECOND, status.st_mtime_ns % SECOND, status.st_ctime_ns % SECOND,
        mode, status.st_nlink, uid, gid, encode_device(device) if device else 0, status.st_blksize, 0,
    )  # fmt: skip


def entry(share: Share, request: Request, inode: Inode, status: os.stat_result) -> bytes:
    """Return ENTRY_OUT."""
    return request.pack(ENTRY_OUT, inode.id, 0, VALID, VALID, 0, 0, *attributes(share, inode, status))


def attr(share: Share, request: Request, inode: Inode) -> bytes:
    """Return ATTR_OUT."""
    return request.pack(ATTR_OUT, VALID, 0, 0, *attributes(share, inode, os.fstat(inode.descriptor)))


def encode_device(device: int) -> int:
    """Return a device's number as FUSE carries it: new_encode_dev of the kernel's include/linux/kdev_t.h."""
    major, minor = os.major(device), os.minor(device)
    return (minor & 0xFF) | (major & 0xFFF) << 8 | (minor & 0xFFF00) << 12
