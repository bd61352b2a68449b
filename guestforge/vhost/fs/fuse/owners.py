"""Owners that a guest gives to files where the server can't give them on the host: without root.

They are kept in an attribute of the file. Only files and directories can have one (xattr(7)); whatever else is made
stays the server's, and can't be given away.
"""

import contextlib
import errno
import os
import re
import stat
from typing import Final

from guestforge.core.exposure import is_real_root
from guestforge.vhost.fs.fuse.inodes import closing, refuse
from guestforge.vhost.fs.fuse.syscalls import fchown

OWNER: Final = "user.virtiofs.owner"  # as all names below user.virtiofs. it is out of a guest's reach
IMPOSSIBLE: Final = (errno.EPERM, errno.EINVAL)  # no privilege, or no owners there; no such user in our namespace
LEAVE: Final = 0xFFFF_FFFF  # -1 as chown(2) takes it
_VALUE: Final = re.compile(rb"([0-9]{1,10}):([0-9]{1,10})")


def are_kept() -> bool:
    """Return whether owners are kept in an attribute: unless this process is root and has all users."""
    return not is_real_root()


def kept(file: str | int) -> tuple[int, int] | None:
    """Return the owner that a file (a path, or open) has for the guest; None for one that has the host's."""
    try:
        found = _VALUE.fullmatch(os.getxattr(file, OWNER))
    except OSError:
        return None
    owner = (int(found[1]), int(found[2])) if found else (LEAVE, LEAVE)
    return owner if max(owner) < LEAVE else None


def give(proc: int, descriptor: int, uid: int, gid: int) -> None:
    """Make a user the owner of what a descriptor (O_PATH will do) is open on: on the host, or else in the attribute.

    `proc` is /proc/self/fd. Raises EPERM where neither is possible.
    """
    try:
        fchown(descriptor, uid, gid)
    except OSError as error:
        if error.errno not in IMPOSSIBLE:
            raise
        _change(proc, descriptor, f"{uid}:{gid}".encode())
    else:
        with contextlib.suppress(OSError):
            _change(proc, descriptor, None)


def _change(proc: int, descriptor: int, value: bytes | None) -> None:
    """Set the attribute, or remove it. A new owner ends what the old one gave to a program, as chown(2) does."""
    mode = os.fstat(descriptor).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise refuse(errno.EPERM)
    name, before = str(descriptor), stat.S_IMODE(mode)
    after = before
    if stat.S_ISREG(mode):
        after &= ~(stat.S_ISUID | (stat.S_ISGID if mode & stat.S_IXGRP else 0))
    open_to_us = after | stat.S_IRUSR | stat.S_IWUSR  # or the host lets us neither open it nor set an attribute
    if open_to_us != before:
        os.chmod(name, open_to_us, dir_fd=proc)
    try:
        with closing(os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=proc)) as opened:
            with contextlib.suppress(OSError):
                os.removexattr(opened, "security.capability")
            if value is None:
                os.removexattr(opened, OWNER)
            else:
                os.setxattr(opened, OWNER, value)
    except OSError as error:
        raise refuse(
            errno.EPERM if error.errno in (errno.EACCES, errno.EOPNOTSUPP) else error.errno or errno.EIO
        ) from error
    finally:
        if open_to_us != after:
            os.chmod(name, after, dir_fd=proc)
