"""The vsock device: connections, and which packet of the guest belongs to which."""

import socket
from collections.abc import Callable
from itertools import count
from pathlib import Path

from guestforge.vhost.core.errors import PacketError
from guestforge.vhost.core.log import Log
from guestforge.vhost.core.loop import Loop
from guestforge.vhost.core.sockets import connect_to_friend
from guestforge.vhost.core.vring import Vring
from guestforge.vhost.vsock import packets
from guestforge.vhost.vsock.connection import Connection, Key
from guestforge.vhost.vsock.credit import Budget, Credit
from guestforge.vhost.vsock.hybrid import Handshake
from guestforge.vhost.vsock.inbox import Got, Inbox
from guestforge.vhost.vsock.packets import Header

RX, TX, EVENT = 0, 1, 2  # rings, as the guest names them; nothing is ever sent on the event ring
RING_COUNT = 3

MAX_CONNECTIONS = 1024
MAX_HANDSHAKES = 64
BUFFER_BUDGET = 16 * 1024 * 1024  # bytes for data that host programs have not read yet
FIRST_HOST_PORT = 1 << 30  # above what people choose; the guest sees it as the peer's port
LAST_HOST_PORT = (1 << 31) - 1
PACKETS_AT_ONCE = 256  # of the transmit ring, then sockets have their turn
PACKETS_A_FLUSH = 32


class VsockDevice:
    """A vsock device for one guest. Host programs are reached at `<uds_path>_<port>`."""

    features = 0  # streams only: that is what no feature bit means (virtio 1.2, 5.10.3)
    ring_count = RING_COUNT

    def __init__(self, guest_cid: int, uds_path: Path, loop: Loop, log: Log) -> None:
        self.guest_cid = guest_cid
        self._uds_path = uds_path
        self._loop = loop
        self._log = log
        self._tx: Vring | None = None
        self._inbox = Inbox()
        self._connections: dict[Key, Connection] = {}
        self._all: set[Connection] = set()  # with those that are no longer in the table
        self._waiting: dict[Connection, None] = {}  # for receive buffers; in order
        self._handshakes: set[Handshake] = set()
        self._budget = Budget(BUFFER_BUDGET)
        self._next_port = count(FIRST_HOST_PORT)
        self._told_absent = False
        self._tx_held = False  # the transmit ring waits until control packets have gone out

    # From the core

    def config(self) -> bytes:
        """Return the configuration space: the guest's CID."""
        return self.guest_cid.to_bytes(8, "little")

    def started(self, ring: Vring) -> None:
        """Begin to use a ring; one that does not go on where it stopped has a new driver without any connections."""
        self._told_absent = False
        if ring.index != EVENT and not ring.resumed:
            self._forget_all()
        if ring.index == RX:
            self._inbox.ring = ring
        elif ring.index == TX:
            self._tx = ring

    def stopped(self, ring: Vring) -> None:
        """Stop using a ring. A paused guest keeps its connections; whether it was that shows when the ring starts."""
        ring.flush()
        if ring.index == RX:
            self._inbox.ring = None
        elif ring.index == TX:
            self._tx = None
        if ring.broken:
            self._forget_all()

    def kicked(self, ring: Vring) -> None:
        """Serve a ring."""
        if ring.index == RX:
            ring.spare_kicks()  # `flush` uses the buffers; the next kick is of interest when one is missing
        elif ring.index == TX:
            self._serve_tx()

    def flush(self) -> None:
        """Send what is queued and tell the guest once: called after each batch of events."""
        if self._inbox.ring is not None:
            all_sent = self._inbox.write_control()
            if self._tx_held and not self._inbox.full:
                self._serve_tx_later()
            if all_sent and self._waiting:
                self._wake_waiting()
        for ring in (self._inbox.ring, self._tx):
            if ring is not None:
                ring.flush()

    def close(self) -> None:
        """Release every socket."""
        self._forget_all()
        for handshake in list(self._handshakes):
            handshake.drop()

    def _forget_all(self) -> None:
        self._tx_held = False
        for connection in list(self._all):
            connection.discard()
        self._inbox.clear()

    # Host programs

    def client(self, sock: socket.socket) -> None:
        """Take a host program that has connected to the hybrid socket."""
        if len(self._handshakes) >= MAX_HANDSHAKES:
            self._log.say(f"more than {MAX_HANDSHAKES} clients that have not said CONNECT: one refused")
            sock.close()
            return
        self._handshakes.add(Handshake(self._loop, sock, self._asked, self._handshake_failed))

    def _asked(self, handshake: Handshake, port: int) -> None:
        self._handshakes.discard(handshake)
        if self._inbox.ring is None or self._tx is None:
            if not self._told_absent:  # clients try again until it is: once is enough
                self._log.say(f"CONNECT {port} refused: the guest's driver is not up")
            self._told_absent = True
            handshake.socket.close()
            return
        if len(self._all) >= MAX_CONNECTIONS or self._inbox.full:
            why = "the guest takes no packets" if self._inbox.full else f"{MAX_CONNECTIONS} connections"
            self._log.say(f"CONNECT {port} refused: {why}")
            handshake.socket.close()
            return
        self._open((port, self._free_port(port)), handshake.socket).request()

    def _handshake_failed(self, handshake: Handshake, reason: str) -> None:
        self._handshakes.discard(handshake)
        if reason:
            self._log.say(f"client closed: {reason}")

    def _free_port(self, guest_port: int) -> int:
        """Return a host port that is not in use with this port of the guest."""
        while True:
            port = next(self._next_port)
            if port >= LAST_HOST_PORT:
                self._next_port = count(FIRST_HOST_PORT)
            if (guest_port, port) not in self._connections:
                return port

    def _open(self, key: Key, sock: socket.socket) -> Connection:
        connection = Connection(self, self._loop, sock, key, Credit(self._budget.take()))
        self._connections[key] = connection
        self._all.add(connection)
        return connection

    # What connections need

    def send(self, connection: Connection, op: int, flags: int = 0) -> None:
        """Queue a packet without data."""
        self._inbox.put(connection.header(op, flags))

    def read_socket(self, sock: socket.socket, limit: int, header: Callable[[int], bytes]) -> Got:
        """Read a socket into the guest."""
        return self._inbox.read_socket(sock, limit, header)

    def wait_for_buffers(self, connection: Connection) -> None:
        """Resume a connection when the guest has added receive buffers."""
        self._waiting[connection] = None

    def forget(self, connection: Connection) -> None:
        """Free a connection's ports."""
        self._connections.pop(connection.key, None)
        self._waiting.pop(connection, None)

    def gone(self, connection: Connection) -> None:
        """Free a connection's share of the memory."""
        self._all.discard(connection)
        self._budget.put_back(connection.credit.buf_alloc)

    def note(self, message: str) -> None:
        """Log a line."""
        self._log.say(message)

    # The guest's packets

    def _wake_waiting(self) -> None:
        """Let each connection that waits for buffers try once; those that get none wait again."""
        for connection in list(self._waiting):
            if self._waiting.pop(connection, connection) is None:
                connection.resume()
                if connection in self._waiting:
                    return  # the buffers are used up

    def _serve_tx_later(self) -> None:
        self._tx_held = False
        self._loop.call_soon(self._serve_tx)

    def _serve_tx(self) -> None:
        """Serve packets of the guest, not too many at once."""
        ring = self._tx
        if ring is None or self._tx_held:
            return
        ring.spare_kicks()
        for done in range(PACKETS_AT_ONCE):
            if self._inbox.full:
                self._tx_held = True
                return
            chain = ring.pop()
            if chain is None:
                if ring.want_kicks():
                    continue
                return
            self._packet(chain.readable)
            ring.push(chain.head, 0)
            if done % PACKETS_A_FLUSH == PACKETS_A_FLUSH - 1:
                ring.flush()
        self._serve_tx_later()

    def _packet(self, pieces: list[memoryview]) -> None:
        """Serve one packet; a malformed one is dropped with a line in the log."""
        try:
            header, data = packets.split(pieces)
            if (header.src_cid, header.dst_cid) != (self.guest_cid, packets.HOST_CID):
                raise PacketError(f"from CID {header.src_cid} to CID {header.dst_cid}")
        except PacketError as error:
            self._log.say(f"packet dropped: {error.message}")
            return
        connection = self._connections.get((header.src_port, header.dst_port))
        if header.type != packets.TYPE_STREAM:
            self._refuse(header, f"socket type {header.type} is not supported")
        elif connection is not None:
            connection.packet(header, data)
        elif header.op == packets.REQUEST:
            self._dial(header)
        else:
            self._refuse(header, "")

    def _dial(self, header: Header) -> None:
        """Connect a guest to the host program that listens for this port."""
        if len(self._all) >= MAX_CONNECTIONS:
            self._refuse(header, f"{MAX_CONNECTIONS} connections")
            return
        try:
            sock = connect_to_friend(f"{self._uds_path}_{header.dst_port}")
        except OSError as error:
            self._refuse(header, f"host port {header.dst_port}: {error.strerror}")
            return
        connection = self._open((header.src_port, header.dst_port), sock)
        connection.credit.heard(header.buf_alloc, header.fwd_cnt)
        connection.accept()

    def _refuse(self, header: Header, reason: str) -> None:
        """Answer with RST; an RST itself is never answered."""
        if reason:
            self._log.say(f"guest port {header.src_port} refused: {reason}")
        if header.op != packets.RST:
            self._inbox.put(
                packets.HEADER.pack(
                    packets.HOST_CID,
                    self.guest_cid,
                    header.dst_port,
                    header.src_port,
                    0,
                    header.type,
                    packets.RST,
                    0,
                    0,
                    0,
                )
            )
