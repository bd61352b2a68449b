"""Listening Unix sockets that appear ready and leave nothing behind."""

import contextlib
import errno
import os
import signal
import socket
import stat
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from guestforge.core.errors import UserError

PATH_LIMIT = 107  # bytes in sockaddr_un.sun_path without the final NUL, unix(7)


_PEER = struct.Struct("iII")  # struct ucred: pid, uid, gid of who called listen(2)


class Listener:
    """A listening Unix stream socket and its path; `close` removes the path if it is still ours."""

    def __init__(self, path: Path, backlog: int) -> None:
        self.path = path
        try:
            self._directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise UserError(f"can't listen at {path}: {error.strerror}") from None
        try:
            _refuse_open_to_others(path.parent, self._directory)
        except UserError:
            os.close(self._directory)
            raise
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
        """Stop listening, and remove the path where that is not another's task."""
        self.socket.close()
        if place := self.hand_over():
            place.remove()
            os.close(place.directory)

    def hand_over(self) -> "Place | None":
        """Return what it takes to remove the path, which is the caller's task from here on; None the second time."""
        if self._directory < 0:
            return None
        place = Place(self.path.name, self._directory, self._identity)
        self._directory = -1
        return place


@dataclass(frozen=True, slots=True)
class Place:
    """Where a socket is: its name in a directory that is open, and its device and inode."""

    name: str
    directory: int
    identity: tuple[int, int]

    def remove(self) -> None:
        """Remove the socket if it is still that one."""
        with contextlib.suppress(OSError):
            if _identity(self.name, self.directory) == self.identity:
                os.unlink(self.name, dir_fd=self.directory)


class Remover:
    """A process that removes sockets when this one ends, however it ends: in a sandbox it can't, and has no directory.

    It hears nothing but the end of a pipe. To be made before there are threads.
    """

    def __init__(self, *listeners: Listener) -> None:
        places = [place for listener in listeners if (place := listener.hand_over())]
        heard, self._pipe = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            _remove_at_the_end(heard, places)
        os.close(heard)
        for place in places:
            os.close(place.directory)

    def close(self) -> None:
        """Have the sockets removed, and wait for it."""
        os.close(self._pipe)
        os.waitpid(self._pid, 0)


def _remove_at_the_end(pipe: int, places: Sequence[Place]) -> NoReturn:
    try:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):  # a terminal sends them to both of us
            signal.signal(number, signal.SIG_IGN)
        kept = {pipe, *(place.directory for place in places)}
        for descriptor in [int(path.name) for path in Path("/proc/self/fd").iterdir()]:
            if descriptor not in kept:
                with contextlib.suppress(OSError):  # the listing's own
                    os.close(descriptor)
        os.read(pipe, 1)
        for place in places:
            place.remove()
    finally:
        os._exit(0)


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


def connect_to_friend(path: str) -> socket.socket:
    """Return a non-blocking socket that is connected to who listens at a path: our user, or root, and nobody else.

    A Unix socket is connected at once or not at all. Raises OSError, EPERM for another user's. In a user namespace only
    our own user can be told from the others: root of the host is one of those.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        sock.connect(path)
        _, uid, _ = _PEER.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
        if uid not in (os.geteuid(), 0):
            raise PermissionError(errno.EPERM, f"another user's socket (uid {uid})")
    except OSError:
        sock.close()
        raise
    return sock


def _refuse_open_to_others(path: Path, directory: int) -> None:
    """Raise UserError for a directory where other users could put a socket of their own in our socket's place."""
    status = os.fstat(directory)
    if status.st_uid not in (os.geteuid(), 0):
        raise UserError(f"{path} belongs to user {status.st_uid}", hint="use a directory of your own, with mode 0700")
    theirs = stat.S_IWOTH if status.st_gid == os.getegid() else stat.S_IWOTH | stat.S_IWGRP
    if status.st_mode & theirs and not status.st_mode & stat.S_ISVTX:
        raise UserError(
            f"{path} can be written by other users (mode {stat.S_IMODE(status.st_mode):04o})",
            hint="use a directory of your own, with mode 0700",
        )


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
