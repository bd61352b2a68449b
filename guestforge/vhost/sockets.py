"""Listening Unix sockets that appear ready and leave nothing behind."""

import contextlib
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
        try:
            self._directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise UserError(f"can't listen at {path}: {error.strerror}") from None
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            self._identity = _publish(self.socket, path, self._directory, backlog)
        except BaseException as error:
            self.socket.close()
            os.close(self._directory)
            if isinstance(error, OSError):
                raise UserError(f"can't listen at {path}: {error.strerror}") from None
            raise

    def close(self) -> None:
        """Stop listening and remove the path, through its directory's descriptor: our root may be another one now."""
        self.socket.close()
        with contextlib.suppress(FileNotFoundError):
            if _identity(self.path.name, self._directory) == self._identity:
                os.unlink(self.path.name, dir_fd=self._directory)
        os.close(self._directory)


class Inherited:
    """A listening Unix socket that whoever started us has made, and whose path is theirs to remove."""

    def __init__(self, descriptor: int) -> None:
        try:
            self.socket = socket.socket(fileno=descriptor)
        except OSError as error:
            raise UserError(f"descriptor {descriptor} is no socket: {error.strerror}") from None
        listens = self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        if self.socket.family != socket.AF_UNIX or self.socket.type != socket.SOCK_STREAM or not listens:
            raise UserError(f"descriptor {descriptor} is not a listening Unix stream socket")
        os.set_inheritable(descriptor, False)
        self.socket.setblocking(False)

    def close(self) -> None:
        """Stop listening."""
        self.socket.close()


def check_length(path: Path, room: int = 0) -> None:
    """Raise UserError when a socket path, with `room` bytes to be added to it, is longer than the kernel takes."""
    limit = PATH_LIMIT - room
    if len(os.fsencode(path)) > limit:
        raise UserError(f"socket path is longer than {limit} bytes: {path}", hint="use a directory with a shorter name")


def _publish(sock: socket.socket, path: Path, directory: int, backlog: int) -> tuple[int, int]:
    """Bind under a temporary name, set the mode, listen, then link to the final name.

    So whoever sees the final name can connect at once, and an existing file is never replaced by accident.
    """
    temporary = Path(f"/proc/self/fd/{directory}/.vhost-{os.urandom(6).hex()}")  # short, however long the directory is
    sock.bind(os.fspath(temporary))
    try:
        temporary.chmod(0o600)  # nobody can connect before listen()
        sock.listen(backlog)
        _remove_stale(path)
        os.link(temporary, path)
    finally:
        temporary.unlink()
    return _identity(path.name, directory)


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


def _identity(name: str, directory: int) -> tuple[int, int]:
    status = os.stat(name, dir_fd=directory, follow_symlinks=False)
    return status.st_dev, status.st_ino
