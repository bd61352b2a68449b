"""What a connection needs of its device, and the words that both use."""

import socket
from collections.abc import Callable
from enum import Enum
from typing import TYPE_CHECKING, Protocol

from guestforge.vhost.inbox import Got

if TYPE_CHECKING:
    from guestforge.vhost.connection import Connection

Key = tuple[int, int]  # guest's port, host's port


class State(Enum):
    """Where a connection is in its life."""

    CONNECTING = "connecting"  # REQUEST is sent
    OPEN = "open"
    CLOSING = "closing"  # the socket is gone, the guest's RST is awaited
    DRAINING = "draining"  # the guest is gone, the host program has not read everything yet
    GONE = "gone"


class Link(Protocol):
    """A device, as its connections see it."""

    guest_cid: int

    def send(self, connection: "Connection", op: int, flags: int = 0) -> None:
        """Queue a packet without data."""

    def read_socket(self, sock: socket.socket, limit: int, header: Callable[[int], bytes]) -> Got:
        """Read a socket into the guest."""

    def wait_for_buffers(self, connection: "Connection") -> None:
        """Call `resume` when the guest has added buffers."""

    def forget(self, connection: "Connection") -> None:
        """Free the ports: no packet reaches this connection any more."""

    def gone(self, connection: "Connection") -> None:
        """Take note that everything has been released."""

    def note(self, message: str) -> None:
        """Log a line."""
