"""Ways to a port of a guest: the hybrid Unix socket, AF_VSOCK, and a plain Unix socket for tests without a machine."""

import contextlib
import errno
import os
import re
import select
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

from guestforge.agent.errors import ConnectError, printable

AGENT_PORT = 1024
SLICE = 0.02  # seconds: how long we wait before we ask again whether there is still something to wait for
MAX_ANSWER = 64  # bytes of the hybrid socket's answer; "OK 4294967295\n" has 14
_OK = re.compile(rb"OK(?: +[0-9]{1,10})? *\r?\n", re.IGNORECASE)

# Says why waiting is in vain ("QEMU ended with exit code 1"), None while it is not.
GiveUp = Callable[[], str | None]


class Dial(Protocol):
    """Connects to one port of one guest, such as `functools.partial(hybrid_connect, path, AGENT_PORT)`."""

    def __call__(self, *, timeout: float, give_up: GiveUp | None = None) -> socket.socket:
        """Raises ConnectError."""


def hybrid_connect(path: Path, port: int, *, timeout: float, give_up: GiveUp | None = None) -> socket.socket:
    """Connect to a guest's vsock port through the hybrid Unix socket of its vsock device.

    That is Firecracker's protocol, which Cloud Hypervisor and our own device have too: `CONNECT <port>`, answered by
    `OK <host port>`; https://github.com/firecracker-microvm/firecracker/blob/main/docs/vsock.md. `timeout` in seconds.
    Raises ConnectError; while the guest boots that is the normal answer.
    """
    wait = _Wait(f"port {port} of the guest behind {path}", timeout, give_up)
    sock = _connected(socket.AF_UNIX, str(path), wait)
    with _closed_on_error(sock, wait):
        sock.send(b"CONNECT %d\n" % port)  # the socket is new: there is room for 19 bytes
        _read_ok(sock, wait)
    return sock


def vsock_connect(cid: int, port: int, *, timeout: float, give_up: GiveUp | None = None) -> socket.socket:
    """Connect to a guest's vsock port through the host kernel; `timeout` in seconds. Raises ConnectError."""
    return _connected(socket.AF_VSOCK, (cid, port), _Wait(f"port {port} of the guest with CID {cid}", timeout, give_up))


def unix_connect(path: Path | str, *, timeout: float, give_up: GiveUp | None = None) -> socket.socket:
    """Connect to a Unix socket; `@name` is an abstract one. `timeout` in seconds. Raises ConnectError."""
    text = str(path)
    address = "\0" + text[1:] if text.startswith("@") else text
    return _connected(socket.AF_UNIX, address, _Wait(text, timeout, give_up))


class _Wait:
    """What is waited for: until when, and until what."""

    def __init__(self, goal: str, timeout: float, give_up: GiveUp | None) -> None:
        self._goal = goal
        self._timeout = timeout
        self._deadline = time.monotonic() + timeout
        self._give_up = give_up

    def until(self, sock: socket.socket, event: int) -> None:
        """Wait until a socket is ready for an event. Raises ConnectError when waiting is over."""
        poll = select.poll()
        poll.register(sock, event)
        while not poll.poll(self._next() * 1000):
            pass

    def pause(self) -> None:
        """Wait a moment. Raises ConnectError when waiting is over."""
        time.sleep(min(self._next(), SLICE))

    def failed(self, why: str) -> ConnectError:
        """Return the error of an attempt that failed."""
        return ConnectError(f"no connection to {self._goal}: {why}")

    def _next(self) -> float:
        """Return how many seconds may be waited before this is asked again."""
        if self._give_up is not None and (why := self._give_up()):
            raise self.failed(why)
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise self.failed(f"no answer within {self._timeout:g} s")
        return left if self._give_up is None else min(left, SLICE)


def _connected(family: int, address: str | tuple[int, int], wait: _Wait) -> socket.socket:
    try:
        sock = socket.socket(family, socket.SOCK_STREAM)
    except OSError as e:
        raise wait.failed(_reason(e)) from e
    with _closed_on_error(sock, wait):
        sock.setblocking(False)
        _connect(sock, address, wait)
    return sock


@contextlib.contextmanager
def _closed_on_error(sock: socket.socket, wait: _Wait) -> Iterator[None]:
    try:
        yield
    except OSError as e:
        sock.close()
        raise wait.failed(_reason(e)) from e
    except BaseException:
        sock.close()
        raise


def _reason(e: OSError) -> str:
    return e.strerror or str(e)  # Python's own errors, of a path that is too long, have no strerror


def _connect(sock: socket.socket, address: str | tuple[int, int], wait: _Wait) -> None:
    while (code := sock.connect_ex(address)) == errno.EAGAIN:
        wait.pause()  # a Unix socket's backlog is full: nothing is under way that could be waited for
    if code == errno.EINPROGRESS:
        wait.until(sock, select.POLLOUT)
        code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if code:
        raise OSError(code, os.strerror(code))


def _read_ok(sock: socket.socket, wait: _Wait) -> None:
    """Read the answer's line and not a byte more: what follows is the guest's."""
    line = b""
    while not line.endswith(b"\n"):
        wait.until(sock, select.POLLIN)
        seen = sock.recv(MAX_ANSWER - len(line), socket.MSG_PEEK)
        if not seen:
            raise wait.failed(f"the device closed it after {line!r}" if line else "nobody listens there yet")
        line += sock.recv(seen.find(b"\n") + 1 or len(seen))
        if len(line) >= MAX_ANSWER:
            break
    if not _OK.fullmatch(line):
        raise wait.failed(f"the device answered {printable(line.decode('ascii', 'replace'))!r}, not OK")
