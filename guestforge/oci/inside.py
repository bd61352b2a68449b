"""Opens a file of an unpacked image as a process in it would: no symbolic link leads out of the image."""

import errno
import os
import stat
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Final

from guestforge.core.files import open_regular

MAX_LINKS: Final = 40  # the kernel's own limit, path_resolution(7)
_HERE: Final = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


def open_inside(root: Path, path: str) -> IO[bytes] | None:
    """Open a file below a root to read; None for what is no regular file. Raises OSError where there is nothing.

    An absolute link begins at the root, and `..` does not lead above it.
    """
    with ExitStack() as stack:
        top = os.open(root, _HERE | os.O_DIRECTORY)
        stack.callback(os.close, top)
        directories = [top]
        rest, links = _names(path), 0
        while rest:
            name = rest.pop()
            if name == "..":
                directories = directories[:-1] or [top]
                continue
            found = os.open(name, _HERE, dir_fd=directories[-1])
            stack.callback(os.close, found)
            mode = os.fstat(found).st_mode
            if stat.S_ISLNK(mode):
                links += 1
                if links > MAX_LINKS:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
                target = os.readlink("", dir_fd=found)
                directories = [top] if target.startswith("/") else directories
                rest += _names(target)
            elif stat.S_ISDIR(mode):
                directories.append(found)
            elif rest:
                raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
            else:
                return open_regular(name, directories[-1])
        return None


def _names(path: str) -> list[str]:
    """Return the names in a path, the first one last."""
    return [name for name in reversed(path.split("/")) if name not in {"", "."}]
