"""What the extended attributes of a guest are called on the host, and the other way round.

The host's kernel lets only an administrator set `trusted.*` and most of `security.*`, and obeys what is in them. The
server may not set them, and a guest should not: these are kept as `user.virtiofs.*`, as virtiofsd's documented map has
it, and the host's own are not there for the guest. security.capability is the host's as well: its kernel removes it
when the file changes, and checks who sets it.
"""

import errno
from typing import Final

from guestforge.vhost.fs.fuse.inodes import refuse

ENFORCED: Final = b"system."  # access control lists: the host's kernel enforces them and the guest's does not
PREFIX: Final = b"user.virtiofs."
_MAPPED: Final = (b"trusted.", b"security.")
_CAPABILITY: Final = b"security.capability"


def host_name(name: bytes, *, reading: bool = False) -> bytes:
    """Return the host's name of an attribute of the guest.

    Raises EOPNOTSUPP for those that are not offered; EPERM for names that are the map's own, which are not there
    (ENODATA) for who reads.
    """
    if name.startswith(ENFORCED):
        raise refuse(errno.EOPNOTSUPP)
    if name.startswith(PREFIX):
        raise refuse(errno.ENODATA if reading else errno.EPERM)
    return PREFIX + name if _is_mapped(name) else name


def guest_name(name: bytes) -> bytes | None:
    """Return the guest's name of an attribute of the host; None for one that the guest does not see."""
    if name.startswith(PREFIX):
        inner = name[len(PREFIX) :]
        return inner if _is_mapped(inner) else None
    return None if name.startswith(ENFORCED) or _is_mapped(name) else name


def _is_mapped(name: bytes) -> bool:
    return name.startswith(_MAPPED) and name != _CAPABILITY
