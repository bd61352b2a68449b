"""The directory of a running machine's sockets, and a socket that listens in it."""

import contextlib
import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from guestforge.core.errors import UserError
from guestforge.core.scratch import scratch_directory

SOCKET_LIMIT: Final = 107  # bytes of a Unix socket's path, unix(7)
LONGEST_NAME: Final = "/vsock_4294967295"


@contextlib.contextmanager
def runtime_directory() -> Iterator[Path]:
    """Yield a new private directory whose sockets have paths that are short enough, and remove it afterwards."""
    bases = [os.environ.get("XDG_RUNTIME_DIR"), tempfile.gettempdir(), "/tmp"]  # noqa: S108 - what is made there is private
    for base in bases:
        longest = len(os.fsencode(base or "")) + len("/gf-12345678") + len(LONGEST_NAME)
        if base and longest <= SOCKET_LIMIT and Path(base).is_absolute() and _may_write(Path(base)):
            with scratch_directory("gf-", Path(base)) as directory:
                yield directory
            return
    raise UserError("no directory for sockets: XDG_RUNTIME_DIR, TMPDIR and /tmp are too long or not ours to write to")


def _may_write(directory: Path) -> bool:
    """Whether a directory is there and takes new files: the one of a user's session may be another user's, or full."""
    try:
        with tempfile.TemporaryFile(dir=directory):
            return True
    except OSError:
        return False


@contextlib.contextmanager
def listen(path: Path, *, blocking: bool = False) -> Iterator[socket.socket]:
    """Yield a listening Unix socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.bind(os.fspath(path))
        sock.listen(1)
        sock.setblocking(blocking)
        yield sock
