"""What a guest is shown of a file: the host's attributes, less what it would understand otherwise than the host."""

import errno
import os
import stat
import time
from typing import Final, NamedTuple

from guestforge.vhost.fs.fuse.lists import SHARED, narrowed
from guestforge.vhost.fs.fuse.nodes import Node
from guestforge.vhost.fs.fuse.owners import kept
from guestforge.vhost.fs.fuse.protocol import ATTR_OUT, ENTRY_OUT
from guestforge.vhost.fs.fuse.share import VALID, Request, Share

# Nanoseconds after which a change of a file gives it another time of change: those of a tick of the kernel's clock, and
# some more, and those of a file system that keeps whole seconds, or every second one.
SECOND: Final = 1_000_000_000
TICK: Final = SECOND // 20
COARSE: Final = 2 * SECOND


class Rights(NamedTuple):
    """Whose a file is, and what its mode gives."""

    mode: int
    uid: int
    gid: int


def rights(share: Share, node: Node, status: os.stat_result) -> Rights:
    """Return the rights of a file: the mode gives no more than the host's access control list does.

    A file that has neither a list nor an owner of the guest's is remembered until its time of change is another; a
    change of either changes that. Pipes, sockets and devices are left as they are: what a guest does with them never
    reaches the host's.
    """
    mode, changed = status.st_mode, status.st_ctime_ns
    as_is = Rights(mode, status.st_uid, status.st_gid)
    if changed == node.plain or not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        return as_is
    if not mode & SHARED and not share.keeps_owners:
        return as_is
    try:
        descriptor = share.reopen(node, os.O_RDONLY | os.O_NONBLOCK)
    except OSError as error:
        # what we may not read the host checks for us, with our rights; where it can't be opened for now nobody gets it
        return as_is if error.errno == errno.EACCES else as_is._replace(mode=mode & ~SHARED)
    try:  # every file that is new to the guest comes here
        mode, listed = narrowed(descriptor, mode)
        owner = kept(descriptor) if share.keeps_owners else None
    finally:
        os.close(descriptor)
    if not listed and not owner and settled(changed, time.time_ns()):
        node.plain = changed
    return Rights(mode, *(owner or (status.st_uid, status.st_gid)))


def settled(changed: int, now: int) -> bool:
    """Whether a file that is changed now gets another time of change than it has, both in nanoseconds."""
    return now - changed > (TICK if changed % SECOND else COARSE)


def attributes(share: Share, node: Node, status: os.stat_result) -> tuple[int, ...]:
    """Return the fields of ATTR."""
    nanoseconds = (status.st_atime_ns, status.st_mtime_ns, status.st_ctime_ns)
    seconds = [time // 1_000_000_000 & 0xFFFF_FFFF_FFFF_FFFF for time in nanoseconds]
    rest = [time % 1_000_000_000 for time in nanoseconds]
    given = rights(share, node, status)
    return (
        share.nodes.inodes.shown(status.st_dev, status.st_ino), status.st_size, status.st_blocks, *seconds, *rest,
        given.mode, status.st_nlink, given.uid, given.gid,
        encode_device(status.st_rdev), status.st_blksize, 0,
    )  # fmt: skip


def entry(share: Share, request: Request, node: Node, status: os.stat_result) -> bytes:
    """Return ENTRY_OUT."""
    return request.pack(ENTRY_OUT, node.id, 0, VALID, VALID, 0, 0, *attributes(share, node, status))


def attr(share: Share, request: Request, node: Node) -> bytes:
    """Return ATTR_OUT."""
    return request.pack(ATTR_OUT, VALID, 0, 0, *attributes(share, node, os.fstat(node.descriptor)))


def encode_device(device: int) -> int:
    """Return a device's number as FUSE carries it: new_encode_dev of the kernel's include/linux/kdev_t.h."""
    major, minor = os.major(device), os.minor(device)
    return (minor & 0xFF) | (major & 0xFFF) << 8 | (minor & 0xFFF00) << 12
