"""Linux system calls that Python has no function for, or not with the arguments that we need."""

import contextlib
import ctypes
import os
from typing import Any, Final

_libc = ctypes.CDLL(None, use_errno=True)

AT_EMPTY_PATH: Final = 0x1000  # fcntl.h
UTIME_NOW: Final = (1 << 30) - 1  # utimensat(2)
UTIME_OMIT: Final = (1 << 30) - 2
STATX_SIZE: Final = 256  # bytes of struct statx, statx(2)
# open_tree(2), Linux 5.2; calls that came after 5.0 have one number everywhere
SYS_OPEN_TREE: Final = 428
OPEN_TREE_CLONE: Final = 1
AT_FDCWD: Final = -100


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_int64), ("nanoseconds", ctypes.c_long))


def _check(result: int) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def fchown(descriptor: int, uid: int, gid: int) -> None:
    """Change the owner of what a descriptor (O_PATH will do) is open on; -1 leaves one as it is."""
    _check(_libc.fchownat(descriptor, b"", ctypes.c_uint(uid), ctypes.c_uint(gid), AT_EMPTY_PATH))


def utimens(directory: int, name: bytes, access: tuple[int, int], modification: tuple[int, int]) -> None:
    """Set times, each in seconds and nanoseconds or UTIME_NOW or UTIME_OMIT; follows a magic link of /proc/self/fd."""
    times = (_Timespec * 2)(_Timespec(*access), _Timespec(*modification))
    _check(_libc.utimensat(directory, name, times, 0))


def renameat2(old_directory: int, old: bytes, new_directory: int, new: bytes, flags: int) -> None:
    """Rename with RENAME_NOREPLACE and the like."""
    _check(_libc.renameat2(old_directory, old, new_directory, new, ctypes.c_uint(flags)))


def fallocate(descriptor: int, mode: int, offset: int, length: int) -> None:
    """Allocate or free a file's blocks."""
    _check(_libc.fallocate(descriptor, mode, ctypes.c_int64(offset), ctypes.c_int64(length)))


def syncfs(descriptor: int) -> None:
    """Write a file system to its disk."""
    _check(_libc.syncfs(descriptor))


def getdents(descriptor: int, buffer: ctypes.Array[ctypes.c_char]) -> int:
    """Fill a buffer with directory entries from the descriptor's position on; return how many bytes they take."""
    return _check(_libc.getdents64(descriptor, buffer, ctypes.sizeof(buffer)))


def statx(descriptor: int, flags: int, mask: int) -> bytes:
    """Return struct statx of what a descriptor is open on."""
    buffer: ctypes.Array[Any] = ctypes.create_string_buffer(STATX_SIZE)
    _check(_libc.statx(descriptor, b"", flags | AT_EMPTY_PATH, ctypes.c_uint(mask), buffer))
    return buffer.raw


def own_descriptors() -> int:
    """Open /proc/self/fd: where we may mount, as a mount of its own, so that `..` leads nowhere from there."""
    with contextlib.suppress(OSError):
        flags = ctypes.c_uint(OPEN_TREE_CLONE | os.O_CLOEXEC)
        return _check(_libc.syscall(ctypes.c_long(SYS_OPEN_TREE), AT_FDCWD, b"/proc/self/fd", flags))
    return os.open("/proc/self/fd", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
