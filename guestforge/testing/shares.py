"""Shared directories for tests of the file server, and a client of one."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from guestforge.arch import ARCHES
from guestforge.testing.fuse_client import Client
from guestforge.vhost.fs.fuse.server import FuseServer

NOBODY = 65534


@contextlib.contextmanager
def serving(root: Path) -> Iterator[Client]:
    """A guest of x86_64 that has mounted a directory, in our own process."""
    server = FuseServer(root, ARCHES["x86_64"])
    try:
        client = Client(server, "<", "generic", os.getuid(), os.getgid())
        client.init()
        yield client
    finally:
        server.close()


@contextlib.contextmanager
def share_of_nobody() -> Iterator[Path]:
    """Yield a directory that a user without rights can reach, and has where we are root."""
    with tempfile.TemporaryDirectory() as place:
        Path(place).chmod(0o755)
        share = Path(place) / "share"
        share.mkdir()
        if os.geteuid() == 0:
            os.chown(share, NOBODY, NOBODY)
        yield share
