"""A vhost-user front end and a vsock driver for tests: shared memory, rings and packets of our own, no QEMU."""

import array
import contextlib
import fcntl
import itertools
import mmap
import os
import select
import socket
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from guestforge.vhost.core import protocol
from guestforge.vhost.core.backend import Backend
from guestforge.vhost.core.log import Log
from guestforge.vhost.core.loop import Loop
from guestforge.vhost.core.protocol import Request
from guestforge.vhost.core.virtqueue import fence
from guestforge.vhost.vsock import packets
from guestforge.vhost.vsock.device import RX, TX, VsockDevice

GUEST_CID = 7
GUEST_BASE = 0x4000_0000  # guest-physical address of the memory's first byte
USER_BASE = 0x7F00_0000_0000  # the same as the front end's address
MEMORY = 4 * 1024 * 1024
RING_SIZE = 64
RING_SPACE = 16 * 1024  # for each ring's three parts
STRIDE = 4  # descriptors that a head owns
BUFFERS = 0x10_0000  # where packet buffers begin
BUFFER = 4096 - 512  # like a Linux driver's receive buffers
TX_BUFFERS = 0x20_0000
TX_BUFFER = 0x1_1000
PATIENCE = 10.0


def sealed(size: int, seals: int = fcntl.F_SEAL_SHRINK) -> int:
    """Return a memory file that can't become shorter, as QEMU's can't."""
    descriptor = os.memfd_create("guest", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, size)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
    return descriptor


class DriverRing:
    """The driver's side of a split ring in shared memory, with knobs to do it wrong."""

    def __init__(self, memory: memoryview, index: int, *, event_idx: bool, indirect: bool) -> None:
        self.index = index
        self.event_idx = event_idx
        self.indirect = indirect
        self.memory = memory
        self.halves = memory.cast("H")
        self.base = index * RING_SPACE
        self.descriptors = self.base
        self.available = self.base + RING_SIZE * 16
        self.used = self.base + RING_SPACE // 4
        self.tables = self.base + RING_SPACE // 2  # indirect tables, 4 entries a head
        self.kick_fd = os.eventfd(0, os.EFD_NONBLOCK)
        self.call_fd = os.eventfd(0, os.EFD_NONBLOCK)
        self.error_fd = os.eventfd(0, os.EFD_NONBLOCK)
        self.kicks = 0
        self.reset()

    def reset(self) -> None:
        """Begin anew, as a driver does after a reset of the device."""
        self.memory[self.base : self.base + RING_SPACE] = bytes(RING_SPACE)
        self.next_available = 0
        self.seen_used = 0
        self.free = list(range(0, RING_SIZE, STRIDE))  # heads

    def descriptor(self, number: int, address: int, length: int, flags: int, following: int = 0) -> None:
        struct.pack_into("<QIHH", self.memory, self.descriptors + number * 16, address, length, flags, following)

    def add(self, parts: Sequence[tuple[int, int]], *, writable: bool) -> int:
        """Offer a chain of (guest address, length) parts; return its head."""
        return self.add_parts([(address, length, 2 if writable else 0) for address, length in parts])

    def add_parts(self, parts: Sequence[tuple[int, int, int]]) -> int:
        """Offer a chain of (guest address, length, flags without NEXT) parts, at most 4; return its head."""
        head = self.free.pop(0)
        table = head // STRIDE * 4 * 16
        for i, (address, length, flags) in enumerate(parts):
            fields = (address, length, flags | (i < len(parts) - 1))
            if self.indirect:
                struct.pack_into("<QIHH", self.memory, self.tables + table + i * 16, *fields, i + 1)
            else:
                self.descriptor(head + i, *fields, head + i + 1)
        if self.indirect:
            self.descriptor(head, GUEST_BASE + self.tables + table, len(parts) * 16, 4)
        self.offer(head)
        return head

    def offer(self, head: int) -> None:
        """Put a head into the available ring and kick if the device asks for it."""
        old = self.next_available
        struct.pack_into("<H", self.memory, self.available + 4 + 2 * (old % RING_SIZE), head)
        self.next_available = (old + 1) & 0xFFFF
        self._set(self.available + 2, self.next_available)
        if self.event_idx:
            event = self._u16(self.used + 4 + 8 * RING_SIZE)
            wanted = (self.next_available - event - 1) & 0xFFFF < (self.next_available - old) & 0xFFFF
        else:
            wanted = not self._u16(self.used) & 1
        if wanted:
            self.kick()

    def kick(self) -> None:
        self.kicks += 1
        os.eventfd_write(self.kick_fd, 1)

    def take_used(self) -> list[tuple[int, int]]:
        """Return what the device has given back, and ask for a call at the next."""
        out = []
        while self.seen_used != self._u16(self.used + 2):
            head, length = struct.unpack_from("<II", self.memory, self.used + 4 + 8 * (self.seen_used % RING_SIZE))
            self.seen_used = (self.seen_used + 1) & 0xFFFF
            out.append((head, length))
            self.free.append(head)
        self._set(self.available + 4 + 2 * RING_SIZE, self.seen_used)
        return out

    def _set(self, offset: int, value: int) -> None:
        """Write an index with one store, and let it be seen before anything is read.

        `struct` clears the place first: a device in another process could see that.
        """
        self.halves[offset // 2] = value
        fence()

    def _u16(self, offset: int) -> int:
        return self.halves[offset // 2]

    def close(self) -> None:
        for fd in (self.kick_fd, self.call_fd, self.error_fd):
            os.close(fd)


@dataclass(frozen=True)
class Packet:
    header: packets.Header
    data: bytes

    @property
    def op(self) -> int:
        return self.header.op


class FrontEnd:
    """Talks vhost-user on a socket. `pump` lets the device run: in this process a step of its loop, else a sleep."""

    def __init__(
        self, sock: socket.socket, pump: Callable[[], None], *, event_idx: bool = True, indirect: bool = True
    ) -> None:
        self.sock = sock
        self.pump = pump
        self.memfd = sealed(MEMORY)
        self.mapping = mmap.mmap(self.memfd, MEMORY)
        self.memory = memoryview(self.mapping)
        self.event_idx = event_idx
        self.rings = [DriverRing(self.memory, i, event_idx=event_idx, indirect=indirect) for i in range(3)]
        self.rx, self.tx = self.rings[RX], self.rings[TX]
        self.rx_buffers: dict[int, list[tuple[int, int]]] = {}  # head -> (offset, size) of its parts
        self.acks = False

    # Messages

    def send(self, request: int, payload: bytes = b"", fds: Sequence[int] = (), flags: int = protocol.VERSION) -> None:
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        self.sock.sendmsg([protocol.HEADER.pack(request, flags, len(payload)) + payload], ancillary)

    def ask(self, request: int, payload: bytes = b"", fds: Sequence[int] = (), *, ack: bool = False) -> bytes:
        """Send a request and return its reply's payload."""
        self.send(request, payload, fds, protocol.VERSION | (protocol.FLAG_NEED_REPLY if ack else 0))
        self.wait(lambda: select.select([self.sock], [], [], 0)[0])
        data = self.sock.recv(4096)
        got, flags, size = protocol.HEADER.unpack_from(data)
        assert (got, flags, size) == (request, protocol.VERSION | protocol.FLAG_REPLY, len(data) - 12)
        return data[12:]

    def tell(self, request: int, payload: bytes = b"", fds: Sequence[int] = ()) -> None:
        """Send a request that must succeed."""
        if self.acks:
            assert self.ask(request, payload, fds, ack=True) == protocol.pack_u64(0)
        else:
            self.send(request, payload, fds)

    def set_up(self) -> None:
        """Bring the device up as QEMU does."""
        offered = struct.unpack("=Q", self.ask(Request.GET_FEATURES))[0]
        assert offered & protocol.VIRTIO_F_VERSION_1
        protocol_features = struct.unpack("=Q", self.ask(Request.GET_PROTOCOL_FEATURES))[0]
        self.tell(Request.SET_PROTOCOL_FEATURES, protocol.pack_u64(protocol_features))
        self.acks = True
        self.tell(Request.SET_OWNER)
        self.tell(Request.SET_FEATURES, protocol.pack_u64(offered if self.event_idx else offered & ~(1 << 29)))
        self.set_memory()
        for ring in (self.rx, self.tx):
            self.start_ring(ring)

    def region(self, guest: int = GUEST_BASE, size: int = MEMORY, user: int = USER_BASE, offset: int = 0) -> bytes:
        return struct.pack("=QQQQ", guest, size, user, offset)

    def set_memory(self) -> None:
        self.tell(Request.SET_MEM_TABLE, struct.pack("=II", 1, 0) + self.region(), [self.memfd])

    def start_ring(self, ring: DriverRing, base: int = 0, *, enable: bool = True) -> None:
        state = struct.Struct("=II")
        self.tell(Request.SET_VRING_NUM, state.pack(ring.index, RING_SIZE))
        self.tell(Request.SET_VRING_BASE, state.pack(ring.index, base))
        self.tell(Request.SET_VRING_ADDR, self.addresses(ring))
        self.tell(Request.SET_VRING_CALL, protocol.pack_u64(ring.index), [ring.call_fd])
        self.tell(Request.SET_VRING_ERR, protocol.pack_u64(ring.index), [ring.error_fd])
        self.tell(Request.SET_VRING_KICK, protocol.pack_u64(ring.index), [ring.kick_fd])
        if enable:
            self.tell(Request.SET_VRING_ENABLE, state.pack(ring.index, 1))

    def addresses(self, ring: DriverRing) -> bytes:
        parts = (USER_BASE + ring.descriptors, USER_BASE + ring.used, USER_BASE + ring.available)
        return struct.pack("=IIQQQQ", ring.index, 0, *parts, 0)

    # The driver

    def fill(self, count: int = RING_SIZE // 4, split: bool = False) -> None:
        """Offer receive buffers; `split` makes header and data descriptors of their own."""
        for _ in range(count):
            offset = BUFFERS + self.rx.free[0] * 4096
            # not neighbours: the device would take those for one piece
            parts = [(offset, 20), (offset + 30, 40), (offset + 80, BUFFER - 60)] if split else [(offset, BUFFER)]
            head = self.rx.add([(GUEST_BASE + at, size) for at, size in parts], writable=True)
            self.rx_buffers[head] = parts

    def transmit(self, op: int, key: tuple[int, int], data: bytes = b"", **fields: Any) -> None:
        """Send a packet of the guest; `key` is (guest port, host port)."""
        values = {
            "src_cid": GUEST_CID,
            "dst_cid": packets.HOST_CID,
            "src_port": key[0],
            "dst_port": key[1],
            "length": len(data),
            "type": packets.TYPE_STREAM,
            "op": op,
            "flags": 0,
            "buf_alloc": 65536,
            "fwd_cnt": 0,
        } | fields
        self.transmit_raw(packets.HEADER.pack(*packets.Header(**values)) + data)

    def transmit_raw(self, packet: bytes, cuts: Sequence[int] = (44,)) -> None:
        """Send bytes as a chain cut into descriptors at these places."""
        self.wait(self._has_room)
        offset = TX_BUFFERS + (self.tx.free[0] // 4) * TX_BUFFER
        edges = [0, *(cut for cut in cuts if cut < len(packet)), len(packet)]
        parts = []
        for gap, (a, b) in enumerate(itertools.pairwise(edges)):  # not neighbours, as in `fill`
            self.memory[offset + gap + a : offset + gap + b] = packet[a:b]
            parts.append((GUEST_BASE + offset + gap + a, b - a))
        self.tx.add(parts, writable=False)

    def _has_room(self) -> bool:
        self.reclaim()
        return bool(self.tx.free)

    def reclaim(self) -> None:
        """Take sent buffers back and overwrite them at once: nobody may look at them any more."""
        for head, _ in self.tx.take_used():
            offset = TX_BUFFERS + (head // 4) * TX_BUFFER
            self.memory[offset : offset + TX_BUFFER] = b"\xa5" * TX_BUFFER

    def received(self, *, refill: bool = True) -> list[Packet]:
        """Return the packets that have come; their buffers are offered again."""
        out = []
        for head, length in self.rx.take_used():
            parts = self.rx_buffers.pop(head)
            raw = b"".join(self.memory[offset : offset + size] for offset, size in parts)[:length]
            header = packets.Header._make(packets.HEADER.unpack_from(raw))
            assert length == 44 + header.length
            assert (header.src_cid, header.dst_cid, header.type) == (packets.HOST_CID, GUEST_CID, 1)
            out.append(Packet(header, raw[44:]))
        if refill:
            self.fill(len(out))
        return out

    def expect(self, op: int) -> Packet:
        """Return the next packet, which must be this one."""
        got = self.next_packets()
        assert [packet.op for packet in got] == [op]
        return got[0]

    def next_packets(self) -> list[Packet]:
        got: list[Packet] = []

        def came() -> bool:
            got.extend(self.received())
            return bool(got)

        self.wait(came)
        return got

    def wait(self, condition: Callable[[], Any]) -> None:
        """Let the device run until the condition holds."""
        end = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < end, "the device did not do it in time"
            self.pump()

    def settle(self, steps: int = 5) -> None:
        for _ in range(steps):
            self.pump()

    def close(self) -> None:
        """Leave; once more is nothing."""
        if self.sock.fileno() < 0:
            return
        self.sock.close()
        os.close(self.memfd)
        for ring in self.rings:
            ring.close()


class Stream:
    """The guest's end of one vsock connection: keeps its counters and answers like a driver."""

    def __init__(self, front: FrontEnd, key: tuple[int, int], buf_alloc: int = 65536) -> None:
        self.front = front
        self.key = key
        self.buf_alloc = buf_alloc
        self.fwd_cnt = 0
        self.sent = 0
        self.peer_alloc = self.peer_forwarded = 0
        self.data = bytearray()
        self.ops: list[int] = []
        self.flags = 0

    def send(self, op: int, data: bytes = b"", **fields: Any) -> None:
        counters = {"buf_alloc": self.buf_alloc, "fwd_cnt": self.fwd_cnt} | fields
        self.front.transmit(op, self.key, data, **counters)
        self.sent = (self.sent + len(data)) & 0xFFFFFFFF

    def take(self, packet: Packet) -> None:
        assert (packet.header.dst_port, packet.header.src_port) == self.key
        self.peer_alloc, self.peer_forwarded = packet.header.buf_alloc, packet.header.fwd_cnt
        self.ops.append(packet.op)
        self.flags |= packet.header.flags if packet.op == packets.SHUTDOWN else 0
        in_buffer = len(packet.data) + len(self.data) - self.fwd_cnt
        assert in_buffer <= self.buf_alloc, "the device sent more than the credit allows"
        self.data += packet.data

    def credit(self) -> int:
        return self.peer_alloc - ((self.sent - self.peer_forwarded) & 0xFFFFFFFF)

    def read_all(self) -> None:
        """Take everything out of the buffer, and tell the device."""
        self.fwd_cnt = len(self.data)
        self.send(packets.CREDIT_UPDATE)


@dataclass
class Rig:
    """A device in this process with its front end."""

    front: FrontEnd
    device: VsockDevice
    backend: Backend
    loop: Loop
    uds: Path
    log: list[str]
    ended: list[str | None]

    def client(self, port: int) -> socket.socket:
        """Return a host program's socket on which CONNECT has been said."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        theirs.setblocking(False)
        self.device.client(theirs)
        ours.send(b"CONNECT %d\n" % port)
        return ours

    def connect(self, port: int = 1024, buf_alloc: int = 65536) -> tuple[socket.socket, Stream]:
        """Return both ends of a connection that a host program began."""
        sock = self.client(port)
        request = self.front.expect(packets.REQUEST)
        stream = Stream(self.front, (port, request.header.src_port), buf_alloc)
        stream.peer_alloc = request.header.buf_alloc
        stream.send(packets.RESPONSE)
        assert self.read(sock, until=b"\n") == b"OK %d\n" % request.header.src_port
        return sock, stream

    def read(self, sock: socket.socket, *, size: int = 0, until: bytes = b"") -> bytes:
        """Read from a host program's socket: so many bytes, up to an end mark, or to the end of the stream."""
        data = bytearray()

        def complete() -> bool:
            return bool(size and len(data) == size) or bool(until and data.endswith(until))

        def step() -> bool:
            while take():
                if complete():
                    return True
            return ended

        ended = False

        def take() -> bool:
            nonlocal ended
            try:
                chunk = sock.recv(size - len(data) if size else (1 if until else 65536))
            except BlockingIOError:
                return False
            except ConnectionResetError:
                chunk = b""
            data.extend(chunk)
            ended = not chunk
            return not ended

        self.front.wait(step)
        return bytes(data)

    def pass_packets(self, *streams: Stream) -> None:
        """Let the device run and hand each packet to its stream."""
        self.front.pump()
        by_key = {stream.key: stream for stream in streams}
        for packet in self.front.received():
            by_key[packet.header.dst_port, packet.header.src_port].take(packet)


@contextlib.contextmanager
def rig(tmp_path: Path, *, event_idx: bool = True, indirect: bool = True, up: bool = True) -> Iterator[Rig]:
    """Run a device in this process."""
    log = Log("test")
    lines: list[str] = []
    log.say = lines.append  # type: ignore[method-assign, assignment]
    loop = Loop()
    uds = tmp_path / "v.sock"
    device = VsockDevice(GUEST_CID, uds, loop, log)
    loop.after_batch = device.flush
    ours, theirs = socket.socketpair()
    ended: list[str | None] = []
    backend = Backend(theirs, device, loop, log, ended.append)
    front = FrontEnd(ours, lambda: loop.step(0.002), event_idx=event_idx, indirect=indirect)
    try:
        if up:
            front.set_up()
            front.fill()
        yield Rig(front, device, backend, loop, uds, lines, ended)
    finally:
        backend.close()
        device.close()
        loop.close()
        front.close()
