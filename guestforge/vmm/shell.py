"""A guest's debug shell on this terminal: `python -m guestforge.vmm.shell SOCKET|CID`."""

import argparse
import os
import select
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from guestforge.agent.transport import hybrid_connect, vsock_connect
from guestforge.core.errors import GuestforgeError
from guestforge.vmm import terminal
from guestforge.vmm.interactive import SHELL_PORT

LEAVE: Final = b"\x1d"  # Ctrl-]
CONNECT_LIMIT: Final = 10.0  # seconds
READ_SIZE: Final = 4096


def connect(place: str, port: int) -> socket.socket:
    """Connect to a port of the guest behind a hybrid socket, or with a CID. Raises ConnectError."""
    if place.isdecimal():
        return vsock_connect(int(place), port, timeout=CONNECT_LIMIT)
    return hybrid_connect(Path(place), port, timeout=CONNECT_LIMIT)


def converse(sock: socket.socket, keys: int, screen: int) -> None:
    """Pass bytes on in both directions until the guest's side ends, or the user types Ctrl-]."""
    sock.setblocking(True)
    sources: list[int] = [sock.fileno(), keys]
    while True:
        ready, _, _ = select.select(sources, [], [])
        if sock.fileno() in ready:
            data = sock.recv(READ_SIZE)
            if not data:
                return
            _write(screen, data)
        if keys in ready:
            typed = os.read(keys, READ_SIZE)
            before, left, _ = typed.partition(LEAVE)
            sock.sendall(before)
            if left:
                return
            if not typed:  # the end of a pipe: the answer to what came through it is still to come
                sources.remove(keys)
                sock.shutdown(socket.SHUT_WR)


def main(argv: Sequence[str] | None = None) -> int:
    """Open the shell; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m guestforge.vmm.shell", description=__doc__)
    parser.add_argument("place", metavar="SOCKET|CID", help="the vsock device's hybrid socket, or the guest's CID")
    parser.add_argument("--port", type=int, default=SHELL_PORT, help=f"where the shell listens (default: {SHELL_PORT})")
    options = parser.parse_args(argv)
    try:
        with connect(options.place, options.port) as sock, terminal.raw():
            converse(sock, 0, 1)
    except GuestforgeError as error:
        print(error.report(), file=sys.stderr)
        return error.exit_code
    return 0


def _write(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


if __name__ == "__main__":
    sys.exit(main())
