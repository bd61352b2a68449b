"""Listening Unix sockets that appear ready and leave nothing behind."""

import errno
import os
import socket
import stat
from pathlib import Path

from guestforge.errors import UserError

PATH_LIMIT = 107  # bytes in sockaddr_un.sun_path without the final NUL, unix(7)


class Listener:
    """A listening Unix stream socket and its path; `close` removes the path if it is still ours."""

    def __init__(self, path: Path, backlog: int) -> None:
        self.path = path
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            self._identity = _publish(self.socket, path, backlog)
        except OSError as error:
            self.socket.close()
            raise UserError(f"can't listen at {path}: {error.strerror}") from None
        except UserError:
            self.socket.close()
            raise

    def close(self) -> None:
        """Stop listening and remove the path."""
        self.socket.close()
        try:
            if _identity(self.path) == self._identity:
                self.path.unlink()
        except FileNotFoundError:
            pass


def check_length(path: Path, room: int = 0) -> None:
    """Raise UserError when a socket path, with `room` bytes to be added to it, is longer than the kernel takes."""
    limit = PATH_LIMIT - room
    if len(os.fsencode(path)) > limit:
        raise UserError(f"socket path is longer than {limit} bytes: {path}", hint="use a directory with a shorter name")


def _publish(sock: socket.socket, path: Path, backlog: int) -> tuple[int, int]:
    """Bind under a temporary name, set the mode, listen, then link to the final name.

    So whoever sees the final name can connect at once, and an existing file is never replaced by accident.
    """
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    temporary = Path(f"/proc/self/fd/{directory}/.vhost-{os.urandom(6).hex()}")  # short, however long the directory is
    try:
        sock.bind(os.fspath(temporary))
        try:
            temporary.chmod(0o600)  # nobody can connect before listen()
            sock.listen(backlog)
            _remove_stale(path)
            os.link(temporary, path)
        finally:
            temporary.unlink()
    finally:
        os.close(directory)
    return _identity(path)


def _remove_stale(path: Path) -> None:
    """Remove a socket that nobody serves any more; anything else at that place is the user's and stays."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise UserError(f"{path} exists and is not a socket", hint="remove it or choose another path")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        if probe.connect_ex(os.fspath(path)) != errno.ECONNREFUSED:
            raise UserError(f"{path} is in use by another process", hint="end that process or choose another path")
    path.unlink(missing_ok=True)


def _identity(path: Path) -> tuple[int, int]:
    status = path.lstat()
    return status.st_dev, status.st_ino
