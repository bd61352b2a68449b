"""Shared directories for tests of the file server, and a client of one."""

import contextlib
import os
from pathlib import Path

from guestforge.arch import ARCHES
from guestforge.vhost.fuse.server import FuseServer
from tests.fuse_client import Client

NOBODY = 65534


@contextlib.contextmanager
def serving(root):
    """A guest of x86_64 that has mounted a directory, in our own process."""
    server = FuseServer(root, ARCHES["x86_64"])
    try:
        client = Client(server, "<", "generic", os.getuid(), os.getgid())
        client.init()
        yield client
    finally:
        server.close()


def share_of_nobody(place: Path) -> Path:
    """Make a directory that a user without rights can reach, and has where we are root."""
    share = place / "share"
    share.mkdir()
    for directory in (*share.parents, share):
        if directory.stat().st_uid == os.geteuid() and directory.is_relative_to("/tmp"):
            directory.chmod(directory.stat().st_mode | 0o755)
    if os.geteuid() == 0:
        os.chown(share, NOBODY, NOBODY)
    return share
