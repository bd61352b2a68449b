"""One vsock connection: a stream socket of a host program on one side, packets of the guest on the other."""

import contextlib
import socket
from collections.abc import Callable
from enum import Enum
from typing import Protocol

from guestforge.vhost.core.loop import HUP, IN, OUT, Loop, Timer, Watch
from guestforge.vhost.vsock import packets
from guestforge.vhost.vsock.credit import Credit
from guestforge.vhost.vsock.inbox import Got
from guestforge.vhost.vsock.outbox import Outbox
from guestforge.vhost.vsock.packets import Header

Key = tuple[int, int]  # guest's port, host's port

READ_AT_ONCE = 256 * 1024  # bytes from one socket before the others have their turn
CONNECT_PATIENCE = 5.0  # seconds for the guest's answer; Linux gives a connection attempt 2
CLOSE_PATIENCE = 8.0  # seconds for the guest's RST after our SHUTDOWN, as Linux waits for ours


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


class Connection:
    """The state machine. Every method may be called in every state."""

    def __init__(self, link: Link, loop: Loop, sock: socket.socket, key: Key, credit: Credit) -> None:
        self.key = key
        self.credit = credit
        self.state = State.OPEN
        self._link = link
        self._loop = loop
        self._sock = sock
        self._outbox = Outbox(sock)
        self._events = Watch(loop, sock.fileno(), self._ready)
        self._timer: Timer | None = None
        self._ended = False  # the host program will send no more
        self._deaf = False  # the host program will read no more
        self._hung_up = False  # the host program has closed, perhaps with data left to read
        self._blocked = False  # there may be data to read, but no credit or no buffer for it
        self._guest_done = 0  # SHUTDOWN flags that the guest has sent

    # From the device

    def request(self) -> None:
        """Ask the guest for a connection on behalf of a host program."""
        self.state = State.CONNECTING
        self._timer = self._loop.call_later(CONNECT_PATIENCE, lambda: self.reset("the guest does not answer"))
        self._link.send(self, packets.REQUEST)
        self._watch()

    def accept(self) -> None:
        """Accept the guest's request: the host program has been reached."""
        self._link.send(self, packets.RESPONSE)
        self._watch()

    def packet(self, header: Header, data: list[memoryview]) -> None:
        """Serve a packet of the guest for this connection."""
        if not self.credit.heard(header.buf_alloc, header.fwd_cnt):
            self.reset(f"impossible credit: fwd_cnt {header.fwd_cnt}, sent {self.credit.sent}")
            return
        OPERATIONS.get(header.op, Connection._unexpected)(self, header, data)
        if self._blocked and self.credit.free():
            self.resume()

    def resume(self) -> None:
        """Go on reading: there is credit, or there are buffers, again."""
        if self._blocked and self.state is State.OPEN:
            self._blocked = False
            self._read()
            self._watch()

    def reset(self, reason: str) -> None:
        """End at once and tell the guest."""
        if self.state in (State.GONE, State.DRAINING):
            return
        if reason:
            self._link.note(f"{self}: {reason}")
        self._link.send(self, packets.RST)
        self.discard()

    def discard(self) -> None:
        """End at once and tell nobody."""
        if self.state is State.GONE:
            return
        if self.state is not State.DRAINING:
            self._link.forget(self)
        self._close_socket()
        self._cancel_timer()
        self.state = State.GONE
        self._link.gone(self)

    def header(self, op: int, flags: int = 0, length: int = 0) -> bytes:
        """Return a packet's header with the counters of this moment."""
        guest_port, host_port = self.key
        return packets.HEADER.pack(
            packets.HOST_CID,
            self._link.guest_cid,
            host_port,
            guest_port,
            length,
            packets.TYPE_STREAM,
            op,
            flags,
            *self.credit.announce(),
        )

    def __str__(self) -> str:
        return f"connection of guest port {self.key[0]} and host port {self.key[1]}"

    # Packets

    def _on_response(self, _header: Header, _data: list[memoryview]) -> None:
        if self.state is not State.CONNECTING:
            self.reset("RESPONSE without a REQUEST")
            return
        self._cancel_timer()
        self.state = State.OPEN
        line = b"OK %d\n" % self.key[1]
        try:
            whole = self._sock.send(line) == len(line)
        except OSError:
            whole = False
        if not whole:
            self.reset("the host program has gone")
            return
        self._watch()

    def _on_reset(self, _header: Header, _data: list[memoryview]) -> None:
        self._guest_gone()

    def _on_shutdown(self, header: Header, _data: list[memoryview]) -> None:
        if self.state is State.CONNECTING:
            self.reset("SHUTDOWN before RESPONSE")
            return
        self._guest_done |= header.flags & packets.SHUTDOWN_BOTH
        if self._guest_done == packets.SHUTDOWN_BOTH:
            self._link.send(self, packets.RST)
            self._guest_gone()
        elif self.state is State.OPEN:
            self._pass_on_shutdown()
            self._watch()

    def _on_data(self, header: Header, data: list[memoryview]) -> None:
        if self.state is State.CLOSING:
            return  # sent before our SHUTDOWN arrived
        if self.state is not State.OPEN or self._guest_done & packets.SHUTDOWN_SEND:
            self.reset("data before RESPONSE or after SHUTDOWN")
        elif not self.credit.took(header.length):
            self.reset(f"{header.length} bytes without credit")
        elif data:
            self._write(data, header.length)

    def _on_credit_update(self, _header: Header, _data: list[memoryview]) -> None:
        """Do nothing more: every packet's counters have been taken already."""

    def _on_credit_request(self, _header: Header, _data: list[memoryview]) -> None:
        self._link.send(self, packets.CREDIT_UPDATE)

    def _unexpected(self, header: Header, _data: list[memoryview]) -> None:
        self.reset(f"unexpected operation {header.op}")

    # Guest to host

    def _write(self, data: list[memoryview], length: int) -> None:
        """Hand data to the socket, or to nobody when nobody reads."""
        if self._deaf:
            self.credit.forward(length)  # sent before the guest heard of it
            return
        try:
            self._forwarded(self._outbox.write(data))
        except OSError:
            self._reader_gone()
        if self._outbox:
            self._watch()

    def _flush(self) -> None:
        """Hand over what waits, as far as the socket takes it."""
        try:
            self._forwarded(self._outbox.flush())
        except OSError:
            self._reader_gone()
            return
        if self._outbox:
            return
        self._pass_on_shutdown()
        if self.state is State.DRAINING:
            self.discard()

    def _forwarded(self, count: int) -> None:
        if self.credit.forward(count) and self.state is State.OPEN:
            self._link.send(self, packets.CREDIT_UPDATE)

    def _reader_gone(self) -> None:
        """Give up what is pending. What the host program sent before it closed still goes to the guest."""
        self._outbox.clear()
        if self.state is State.DRAINING:
            self.discard()
        elif self._ended:
            self._finish()
        else:
            self._deaf = self._hung_up = True
            self._link.send(self, packets.SHUTDOWN, packets.SHUTDOWN_RCV)

    def _pass_on_shutdown(self) -> None:
        """Tell the socket what the guest has ended, once all its data is out."""
        with contextlib.suppress(OSError):
            if self._guest_done & packets.SHUTDOWN_SEND and not self._outbox:
                self._sock.shutdown(socket.SHUT_WR)
            if self._guest_done & packets.SHUTDOWN_RCV:
                self._sock.shutdown(socket.SHUT_RD)

    # Host to guest

    def _ready(self, events: int) -> None:
        """Serve the socket's events."""
        if events & (OUT | HUP) and self._outbox:
            self._flush()
        if self._wants_to_read() and events & (IN | HUP):
            self._read()
        elif events & HUP:
            self._on_hang_up()
        self._watch()

    def _wants_to_read(self) -> bool:
        return (
            self.state is State.OPEN
            and not self._ended
            and not self._blocked
            and not self._guest_done & packets.SHUTDOWN_RCV
        )

    def _on_hang_up(self) -> None:
        self._hung_up = True
        if self.state is State.CONNECTING:
            self.reset("")
        elif self.state is State.DRAINING:
            self.discard()
        elif self._ended or self._guest_done & packets.SHUTDOWN_RCV:
            self._finish()

    def _read(self) -> None:
        """Move what the socket has to the guest, as far as there are credit and buffers."""
        free = self.credit.free()
        try:
            if free:
                got = self._link.read_socket(self._sock, min(free, READ_AT_ONCE), self._data_header)
            else:
                got = Got.DATA if self._sock.recv(1, socket.MSG_PEEK) else Got.END  # an end needs no credit
        except BlockingIOError:
            return
        except OSError:
            self._finish()  # the host program closed with data of the guest unread; all that it sent has been read
            return
        if got is Got.END:
            self._on_end()
        elif got is Got.NO_BUFFERS and self.state is State.OPEN:
            self._blocked = True
            self._link.wait_for_buffers(self)
        elif not free:
            self._blocked = True
            self._link.send(self, packets.CREDIT_REQUEST)

    def _on_end(self) -> None:
        """The host program has sent its last byte."""
        self._ended = True
        if self._hung_up:
            self._finish()
        else:
            self._link.send(self, packets.SHUTDOWN, packets.SHUTDOWN_SEND)

    def _data_header(self, length: int) -> bytes:
        self.credit.sent = (self.credit.sent + length) & 0xFFFFFFFF
        return self.header(packets.RW, length=length)

    # Ends

    def _finish(self) -> None:
        """End in order: the host program has closed and all that it sent is with the guest."""
        if self.state is not State.OPEN:
            return
        self._link.send(self, packets.SHUTDOWN, packets.SHUTDOWN_BOTH)
        self._close_socket()
        self.state = State.CLOSING
        self._timer = self._loop.call_later(CLOSE_PATIENCE, lambda: self.reset(""))

    def _guest_gone(self) -> None:
        """End because the guest has; what it sent before still goes to the host program."""
        if self.state is State.OPEN and self._outbox:
            self._link.forget(self)
            self.state = State.DRAINING
            self._watch()
        else:
            self.discard()

    def _close_socket(self) -> None:
        self._outbox.clear()
        self._events.want(None)
        self._sock.close()

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _watch(self) -> None:
        """Watch the socket for what can be served now, and for nothing else: epoll would return at once for ever."""
        if self.state in (State.CLOSING, State.GONE):
            return
        wanted = (IN if self._wants_to_read() else 0) | (OUT if self._outbox else 0)
        # A hang-up can't be masked, only left out.
        self._events.want(None if not wanted and self._hung_up else wanted)


OPERATIONS: dict[int, Callable[[Connection, Header, list[memoryview]], None]] = {
    packets.RESPONSE: Connection._on_response,
    packets.RST: Connection._on_reset,
    packets.SHUTDOWN: Connection._on_shutdown,
    packets.RW: Connection._on_data,
    packets.CREDIT_UPDATE: Connection._on_credit_update,
    packets.CREDIT_REQUEST: Connection._on_credit_request,
}
