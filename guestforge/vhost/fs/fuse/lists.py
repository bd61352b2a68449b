"""Access control lists of the host's files: what of a mode holds for a guest that knows nothing of them.

A file with a list shows the list's mask in the place of its group's rights, acl(5). The guest's kernel checks modes and
no lists, so it would give the group, and all others, what the list denies them.
"""

import errno
import os
import struct
from typing import Final

ACCESS: Final = "system.posix_acl_access"
# include/uapi/linux/posix_acl_xattr.h and posix_acl.h; little-endian on every host
VERSION: Final = 2
_HEAD: Final = struct.Struct("<I")
_ENTRY: Final = struct.Struct("<HHI")  # tag, rights, id
USER, GROUP_OBJ, GROUP, MASK, OTHER = 0x02, 0x04, 0x08, 0x10, 0x20

SHARED: Final = 0o077  # what a mode gives to others than the owner
_WITHOUT: Final = (errno.ENODATA, errno.EOPNOTSUPP)


def narrowed(file: str | int, mode: int) -> tuple[int, bool]:
    """Return the mode that gives nobody more than the list of a file (a path, or open), and whether it has one.

    A list that can't be read or understood leaves the owner's rights.
    """
    try:
        data = os.getxattr(file, ACCESS)
    except OSError as error:
        if error.errno in _WITHOUT:
            return mode, False
        return mode & ~SHARED, True
    return _narrowed(data, mode), True


def _narrowed(data: bytes, mode: int) -> int:
    if len(data) < _HEAD.size or (len(data) - _HEAD.size) % _ENTRY.size or _HEAD.unpack_from(data)[0] != VERSION:
        return mode & ~SHARED
    entries = list(_ENTRY.iter_unpack(data[_HEAD.size :]))
    mask = _least(entries, MASK)
    users = mask & _least(entries, USER) if any(tag == USER for tag, _, _ in entries) else 7
    groups = mask & _least(entries, GROUP) if any(tag == GROUP for tag, _, _ in entries) else 7
    # A user with an entry has no other rights, in whatever groups he is; and who is in a group with an entry has not
    # those of all others. The guest's kernel knows neither of them from the rest.
    group = mask & _least(entries, GROUP_OBJ) & users
    other = _least(entries, OTHER) & users & groups
    return mode & ~(SHARED & ~(group << 3 | other))


def _least(entries: list[tuple[int, int, int]], tag: int) -> int:
    """Return what all entries of a kind give; everything where there is none."""
    least = 7
    for found, rights, _ in entries:
        if found == tag:
            least &= rights
    return least
