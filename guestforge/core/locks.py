"""Locks of files and directories, by flock(2): they go with the process that has them, however it ends."""

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path


@contextlib.contextmanager
def locked(path: Path, busy: Callable[[], object] = lambda: None) -> Iterator[int]:
    """Hold a lock file, made where there is none, and yield its descriptor; `busy` is called before a wait for it.

    A link is not followed, and nothing is cut off. A program that is given the descriptor holds the lock too, until we
    leave the block.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        if not try_lock(descriptor):
            busy()
            lock(descriptor)
        try:
            yield descriptor
        finally:
            fcntl.flock(descriptor, fcntl.LOCK_UN)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def opened_directory(path: Path) -> Iterator[int]:
    """Yield a directory's descriptor, to be locked; raises OSError for what is none, or a link to one."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def lock(descriptor: int) -> None:
    """Lock what a descriptor is open on, until that is closed; wait for whoever has the lock."""
    fcntl.flock(descriptor, fcntl.LOCK_EX)


def try_lock(descriptor: int) -> bool:
    """Lock what a descriptor is open on, until that is closed; return False where somebody else has the lock."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
