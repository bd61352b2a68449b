"""A vhost-user front end and a virtio-fs driver for tests, on top of the one for vsock: requests in, replies out."""

import contextlib
import itertools
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from guestforge.testing import vhost_frontend
from guestforge.testing.vhost_frontend import GUEST_BASE, DriverRing, FrontEnd
from guestforge.vhost.core import protocol
from guestforge.vhost.core.backend import Backend
from guestforge.vhost.core.log import Log
from guestforge.vhost.core.loop import Loop
from guestforge.vhost.core.protocol import Request
from guestforge.vhost.fs.device import FileServer, FsDevice
from guestforge.vhost.fs.fuse.server import FuseServer

HIPRIO, REQUESTS = 0, 1
LARGE_RING = 512
AREA = 0x10_0000  # where the heads' buffers begin
SPACE = 0x2_0000  # bytes for each head: half of it for the request
HEADER = struct.Struct("<IIQQIIIHH")


def message(opcode: int, body: bytes = b"", *, unique: int = 1, node: int = 1, order: str = "<") -> bytes:
    """Return a request as a guest of a byte order (`<` or `>`) writes it."""
    size = HEADER.size + len(body)
    return struct.pack(f"{order}IIQQIIIHH", size, opcode, unique, node, 0, 0, 1, 0, 0) + body


class FsFrontEnd(FrontEnd):
    """Brings a virtio-fs device up, and speaks as the guest's driver."""

    def set_up(self) -> None:
        offered = struct.unpack("=Q", self.ask(Request.GET_FEATURES))[0]
        self.tell(Request.SET_PROTOCOL_FEATURES, self.ask(Request.GET_PROTOCOL_FEATURES))
        self.acks = True
        self.tell(Request.SET_OWNER)
        self.tell(Request.SET_FEATURES, protocol.pack_u64(offered if self.event_idx else offered & ~(1 << 29)))
        self.set_memory()
        for ring in self.rings[:2]:
            self.start_ring(ring)

    def stop_rings(self) -> list[int]:
        """Stop the rings as a front end does that pauses its guest; return their bases."""
        return [self.stop_ring(ring) for ring in self.rings[:2]]

    def stop_ring(self, ring: DriverRing) -> int:
        """Stop one ring; return its base."""
        self.tell(Request.SET_VRING_ENABLE, struct.pack("=II", ring.index, 0))
        return int(struct.unpack("=II", self.ask(Request.GET_VRING_BASE, struct.pack("=II", ring.index, 0)))[1])

    def go_on(self, bases: Sequence[int]) -> None:
        for ring, base in zip(self.rings, bases, strict=False):
            self.start_ring(ring, base)

    def reset(self) -> None:
        """Be a guest that was reset: the rings begin anew."""
        self.stop_rings()
        for ring in self.rings[:2]:
            ring.reset()
        self.go_on([0, 0])

    def submit(
        self, request: bytes, room: int = 4096, *, ring: int = REQUESTS, cuts: Sequence[int] = (), pieces: int = 1
    ) -> int:
        """Offer a request, cut at these places, with room for a reply in so many pieces; return the chain's head."""
        driver = self.rings[ring]
        at = place(driver, driver.free[0])
        parts, offset = [], at
        edges = [0, *(cut for cut in cuts if 0 < cut < len(request)), len(request)]
        for a, b in itertools.pairwise(edges):
            self.memory[offset : offset + b - a] = request[a:b]
            parts.append((GUEST_BASE + offset, b - a, 0))
            offset += b - a + 16  # not neighbours
        for piece in range(pieces if room else 0):
            size = room // pieces + (room % pieces if piece == pieces - 1 else 0)
            parts.append((GUEST_BASE + at + SPACE // 2 + piece * (room // pieces + 16), size, 2))
        return driver.add_parts(parts)

    def replies(self, ring: int = REQUESTS) -> dict[int, bytes]:
        """Return what has come back: the first piece of each reply, by its chain's head."""
        driver = self.rings[ring]
        out = {}
        for head, length in driver.take_used():
            at = place(driver, head) + SPACE // 2
            out[head] = bytes(self.memory[at : at + length])
        return out

    def call(self, request: bytes, room: int = 4096, *, ring: int = REQUESTS, cuts: Sequence[int] = ()) -> bytes:
        """Send a request and return its reply."""
        head = self.submit(request, room, ring=ring, cuts=cuts)
        got: dict[int, bytes] = {}
        self.wait(lambda: got.update(self.replies(ring)) or head in got)
        assert list(got) == [head]
        return got[head]


def place(driver: DriverRing, head: int) -> int:
    """Return where in memory the buffers of a head are."""
    return AREA + (driver.index * 0x10 + head // vhost_frontend.STRIDE) % (0x2C_0000 // SPACE) * SPACE


@contextlib.contextmanager
def large_rings() -> Iterator[None]:
    """Have rings of LARGE_RING descriptors, each with a request of its own, which is short. Only with `indirect`."""
    global SPACE
    before = (vhost_frontend.RING_SIZE, vhost_frontend.RING_SPACE, vhost_frontend.STRIDE, SPACE)
    try:
        vhost_frontend.RING_SIZE, vhost_frontend.RING_SPACE = LARGE_RING, 0x1_0000
        vhost_frontend.STRIDE, SPACE = 1, 1024
        yield
    finally:
        vhost_frontend.RING_SIZE, vhost_frontend.RING_SPACE, vhost_frontend.STRIDE, SPACE = before


@dataclass
class FakeServer:
    """Answers with what it got, reversed; holds FSYNC until told; keeps count."""

    BLOCKS: ClassVar[int] = 20  # FSYNC
    seen: list[bytes] = field(default_factory=list)
    resets: int = 0
    release: threading.Event = field(default_factory=threading.Event)
    blocked: int = 0
    waiting: list[tuple[bytes, Callable[[bytes], None]]] = field(default_factory=list)

    accept = FuseServer.accept  # which reads nothing but the request

    def serve(self, request: Sequence[memoryview], reply: Sequence[memoryview]) -> int:
        data = b"".join(request)
        self.seen.append(data)
        if int.from_bytes(data[4:8], "little") == self.BLOCKS:
            self.blocked += 1
            assert self.release.wait(20)
        answer, done = data[::-1], 0
        for piece in reply:
            part = answer[done : done + len(piece)]
            piece[: len(part)] = part
            done += len(part)
        return done

    def wait(self, request: bytes, room: int, done: Callable[[bytes], None], *, patient: bool) -> bytes | None:
        """Keep a request that waits for a lock, for `unlock` to answer."""
        if not patient:
            return b"refused"[:room]
        self.waiting.append((request, done))
        return None

    def unlock(self) -> None:
        for request, done in self.waiting:
            done(request[::-1])
        self.waiting.clear()

    def reset(self) -> None:
        self.unlock()
        self.resets += 1

    def close(self) -> None:
        self.release.set()


@dataclass
class FsRig:
    """A device in this process with its front end."""

    front: FsFrontEnd
    device: FsDevice
    backend: Backend
    loop: Loop
    log: list[str]
    ended: list[str | None]

    def _has_ended(self) -> bool:
        if not self.ended:
            self.loop.step(0.002)
        return bool(self.ended)

    def reconnect(self) -> FsFrontEnd:
        """Let the front end leave, and another one come to the same device."""
        self.front.close()
        self.front.wait(self._has_ended)
        self.backend.close()
        ours, theirs = socket.socketpair()
        self.backend = Backend(theirs, self.device, self.loop, Log("test"), self.ended.append)
        self.front = FsFrontEnd(ours, lambda: self.loop.step(0.002))
        return self.front


@contextlib.contextmanager
def fs_rig(
    server: FileServer, *, event_idx: bool = True, indirect: bool = True, up: bool = True, tag: str = ""
) -> Iterator[FsRig]:
    """Run a device on a file server in this process."""
    log = Log("test")
    lines: list[str] = []
    log.say = lines.append  # type: ignore[method-assign, assignment]
    loop = Loop()
    device = FsDevice(server, loop, log, tag=tag)
    loop.after_batch = device.flush
    ours, theirs = socket.socketpair()
    ended: list[str | None] = []
    backend = Backend(theirs, device, loop, log, ended.append)
    front = FsFrontEnd(ours, lambda: loop.step(0.002), event_idx=event_idx, indirect=indirect)
    rig = FsRig(front, device, backend, loop, lines, ended)
    try:
        if up:
            front.set_up()
        yield rig
    finally:
        rig.backend.close()
        device.close()
        loop.close()
        rig.front.close()


def until(condition: Callable[[], object], limit: float = 10.0) -> None:
    end = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)
