"""The guest's binary interface: the byte order of FUSE messages and the values of open(2)'s flags in them.

The rest of what FUSE carries has the same value on all of Linux's architectures that we know (docs/storage.md lists
what was compared). Values: asm/fcntl.h of each architecture, include/uapi/asm-generic/fcntl.h.
"""

import os
import struct
from functools import cache
from typing import Final, NamedTuple

from guestforge.arch import OpenFlags

INIT_OPCODE: Final = 26  # FUSE_INIT, the first message of a session: its bytes tell the order

# The flags whose values differ: by architecture family, then by our name of the flag.
DIFFERENT: Final[dict[OpenFlags, dict[str, int]]] = {
    "generic": {"DIRECT": 0o40000, "LARGEFILE": 0o100000, "DIRECTORY": 0o200000, "NOFOLLOW": 0o400000},
    "arm64": {"DIRECTORY": 0o40000, "NOFOLLOW": 0o100000, "DIRECT": 0o200000, "LARGEFILE": 0o400000},
    "powerpc": {"DIRECTORY": 0o40000, "NOFOLLOW": 0o100000, "LARGEFILE": 0o200000, "DIRECT": 0o400000},
}
# Those that are the same everywhere, on the host too, and that are for the host's file. O_APPEND is not: each write
# says whether it appends. O_TMPFILE is an operation of its own, O_PATH and O_ASYNC are the guest's business.
COMMON: Final = os.O_ACCMODE | os.O_CREAT | os.O_EXCL | os.O_TRUNC | os.O_NONBLOCK | os.O_SYNC | os.O_NOATIME


class Opening(NamedTuple):
    """open(2)'s flags as the host has them; O_DIRECT is told apart, because the guest's cache is what it is about."""

    flags: int
    direct: bool


def opening(flags: int, family: OpenFlags) -> Opening:
    """Return a guest's flags in the host's values; what is no flag there is dropped."""
    values = DIFFERENT[family]
    own = flags & COMMON
    for name, host in (("DIRECTORY", os.O_DIRECTORY), ("NOFOLLOW", os.O_NOFOLLOW)):
        if flags & values[name]:
            own |= host
    return Opening(own, bool(flags & values["DIRECT"]))


def byte_order(header: bytes) -> str | None:
    """Return the order, as struct has it, in which a message's header is FUSE_INIT's; None where it is in neither."""
    return next((order for order in "<>" if struct.unpack_from(f"{order}I", header, 4)[0] == INIT_OPCODE), None)


def operation_of(header: bytes) -> int:
    """Return the operation of a request in either byte order: all numbers of operations fit into 16 bits."""
    number = int.from_bytes(header[4:8], "little")
    return number if number <= 0xFFFF else int.from_bytes(header[4:8], "big")


@cache
def layout(order: str, fields: str) -> struct.Struct:
    """Return a structure's layout; FUSE's are padded explicitly, so there is no alignment to add.

    All are kept: `fields` must be one of ours, not made of a guest's numbers.
    """
    return struct.Struct(order + fields)
