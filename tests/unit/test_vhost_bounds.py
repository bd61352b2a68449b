"""What a guest can make a device hold: chains that are out, memory, threads, processor time."""

import contextlib
import errno
import fcntl
import os
import select
import socket
import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guestforge.testing.fs_frontend import (
    HIPRIO,
    LARGE_RING,
    REQUESTS,
    FakeServer,
    FsFrontEnd,
    FsRig,
    fs_rig,
    large_rings,
    message,
)
from guestforge.testing.vhost_frontend import GUEST_BASE, GUEST_CID, RING_SIZE, TX_BUFFERS, FrontEnd
from guestforge.testing.vhost_frontend import rig as vsock_rig
from guestforge.vhost.core.errors import RingError
from guestforge.vhost.core.memory import MemoryTable
from guestforge.vhost.core.virtqueue import RingLayout, Virtqueue
from guestforge.vhost.fs import device as fsdevice
from guestforge.vhost.vsock import inbox, packets
from guestforge.vhost.vsock.outbox import BLOCK, Outbox
from tests.unit.test_vhost_fs_program import F_UNLCK, F_WRLCK, SETLK, SETLKW, Guest, Program, running
from tests.unit.test_vhost_parsing import region
from tests.unit.test_vhost_program import arguments, program, wait_for

# include/uapi/linux/fuse.h
RELEASE, FSYNC, FSYNCDIR, INTERRUPT, DESTROY, FALLOCATE, COPY_FILE_RANGE, SYNCFS = 18, 20, 30, 36, 38, 43, 47, 50
EINTR, EBADF, ENOLCK = errno.EINTR, errno.EBADF, errno.ENOLCK
MIB = 1024 * 1024


@pytest.fixture
def server() -> Iterator[FakeServer]:
    made = FakeServer()
    yield made
    made.close()


@pytest.fixture
def rig(server: FakeServer) -> Iterator[FsRig]:
    with fs_rig(server) as made:
        yield made


@pytest.fixture
def share(tmp_path: Path) -> Path:
    share = tmp_path / "share"
    share.mkdir()
    (share / "file").write_text("for guests")
    return share


def memory_of(pid: int) -> int:
    """Return how many bytes of anonymous memory a process has: what is the guest's is not counted."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


# Chains that are out

SIZE = 8
TABLE = MemoryTable((region(0x4000),))
LAYOUT = RingLayout(SIZE, 0x7000, 0x7100, 0x7200)


def guests_ring() -> tuple[memoryview, MemoryTable]:
    """Return a guest's memory, with one readable descriptor at each head, and the table of it."""
    memory = TABLE.regions[0].view
    memory[:] = bytes(len(memory))
    for head in range(SIZE):
        struct.pack_into("<QIHH", memory, head * 16, 0x2000, 40, 0, 0)
    return memory, TABLE


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["offer", "push", "undo"]), st.integers(0, SIZE - 1)), max_size=80))
def test_a_head_is_out_once_whatever_is_offered(script: list[tuple[str, int]]) -> None:
    memory, table = guests_ring()
    queue = Virtqueue(LAYOUT, table, base=0, event_idx=False)
    out: list[int] = []
    for action, number in script:
        if action == "offer":
            struct.pack_into("<H", memory, 0x104 + 2 * (queue.last_available % SIZE), number)
            struct.pack_into("<H", memory, 0x102, (queue.last_available + 1) & 0xFFFF)
            if number in out:
                with pytest.raises(RingError, match="offered again"):
                    queue.pop()
                return
            chain = queue.pop()
            assert chain is not None
            out.append(chain.head)
        elif action == "push" and out:
            queue.push(out.pop(number % len(out)), 0)
            queue.publish()
        elif action == "undo" and out:
            queue.give_back([out.pop()])
            queue._known = queue.last_available  # the driver has taken its offer back
        assert len(out) <= SIZE
        assert [head for head in range(SIZE) if queue.out[head]] == sorted(out)


def test_a_request_that_is_offered_again_before_its_reply_stops_the_device(rig: FsRig, server: FakeServer) -> None:
    head = rig.front.submit(message(FakeServer.BLOCKS))
    rig.front.wait(lambda: server.blocked)
    rig.front.rings[REQUESTS].offer(head)
    rig.front.wait(lambda: rig.log)
    assert "offered again" in rig.log[0]
    assert server.blocked == 1


def test_a_ring_that_goes_on_knows_what_is_out(rig: FsRig, server: FakeServer) -> None:
    rig.front.call(message(1))
    head = rig.front.submit(message(FakeServer.BLOCKS))
    rig.front.wait(lambda: server.blocked)
    rig.front.go_on(rig.front.stop_rings())
    rig.front.rings[REQUESTS].offer(head)
    rig.front.wait(lambda: rig.log)
    assert "offered again" in rig.log[0]


def test_a_ring_that_begins_anew_gets_no_reply_to_its_past(rig: FsRig, server: FakeServer) -> None:
    """Though the other ring goes on, so that it is no new session."""
    rig.front.call(message(1))
    rig.front.submit(message(FakeServer.BLOCKS))
    rig.front.wait(lambda: server.blocked)
    ring = rig.front.rings[REQUESTS]
    rig.front.stop_ring(ring)
    ring.reset()
    rig.front.start_ring(ring)
    server.release.set()
    rig.front.settle(30)
    assert rig.front.replies() == {}
    request = message(1, b"alive")
    assert rig.front.call(request) == request[::-1]


@pytest.mark.parametrize("waiters", [0, 1])
def test_one_head_offered_for_ever_takes_no_memory(share: Path, waiters: int) -> None:
    with running(share) as made:
        guest = made.front_end()
        guest.init()
        node = guest.lookup("file")
        handle = guest.open(node, os.O_RDWR)
        assert guest.call(SETLK, guest.lock(handle, 1, F_WRLCK), node)[0] == 0
        for owner in range(waiters):
            guest.front.submit(guest.request(SETLKW, guest.lock(handle, 2 + owner, F_WRLCK), node))
        ring = guest.front.rings[REQUESTS]
        before = memory_of(made.process.pid)
        head = guest.front.submit(guest.request(FSYNC, struct.pack("<QII", handle, 0, 0) + bytes(4000), node))
        for _ in range(1000):
            for _ in range(RING_SIZE - 2):
                ring.offer(head)
            ring.kick()
            if not takes_all(guest.front):
                break
        assert memory_of(made.process.pid) - before < 4 * MIB


def takes_all(front: FsFrontEnd) -> bool:
    """Return whether the device takes what was offered; one that has found the ring malformed never does."""
    ring = front.rings[REQUESTS]
    end = time.monotonic() + 2
    while ring._u16(ring.used + 4 + 8 * RING_SIZE) != ring.next_available:
        if time.monotonic() > end or select.select([ring.error_fd], [], [], 0)[0]:
            return False
        time.sleep(0.0001)
    return True


# Requests that wait for a lock


@contextlib.contextmanager
def locked(share: Path, waiters: int) -> Iterator[tuple[Program, Guest, int, int, list[int]]]:
    """Yield program, guest, node and handle of a file that the guest has locked, and heads that wait for it."""
    with large_rings(), running(share) as made:
        guest = made.front_end()
        guest.init()
        node = guest.lookup("file")
        handle = guest.open(node, os.O_RDWR)
        assert guest.call(SETLK, guest.lock(handle, 1, F_WRLCK), node)[0] == 0
        heads = [
            guest.front.submit(guest.request(SETLKW, guest.lock(handle, 2 + owner, F_WRLCK), node), room=64)
            for owner in range(waiters)
        ]
        yield made, guest, node, handle, heads


@pytest.mark.alone
@pytest.mark.parametrize("operation", [FSYNC, FSYNCDIR, SYNCFS, FALLOCATE, COPY_FILE_RANGE])
def test_no_number_of_waiters_holds_up_the_disk(share: Path, operation: int) -> None:
    with locked(share, 300) as (_, guest, node, handle, heads):
        body = {
            FSYNC: struct.pack("<QII", handle, 0, 0),
            FSYNCDIR: struct.pack("<QII", 0, 0, 0),
            SYNCFS: bytes(8),
            FALLOCATE: struct.pack("<3Q2I", handle, 0, 100, 0, 0),
            COPY_FILE_RANGE: struct.pack("<7Q", handle, 0, node, handle, 200, 10, 0),
        }[operation]
        began = time.monotonic()
        error = guest.call(operation, body, node)[0]
        assert time.monotonic() - began < 1
        assert error == (EBADF if operation == FSYNCDIR else 0)
        # and when the holder has synced and unlocks, they go on: one after the other, for each is an owner of its own
        assert drain(guest, node, handle, heads) == 300


def drain(guest: Guest, node: int, handle: int, heads: list[int]) -> int:
    """Unlock for whoever has the lock until all who waited have had it; return how many that were."""
    owners = {head: 2 + number for number, head in enumerate(heads)}
    got: dict[int, bytes] = {}
    holder, had = 1, 0
    while had < len(heads):
        guest.front.submit(guest.request(SETLK, guest.lock(handle, holder, F_UNLCK), node), room=64)
        got.clear()
        guest.front.wait(lambda: got.update(guest.front.replies()) or owners.keys() & got.keys())
        (head,) = owners.keys() & got.keys()
        assert struct.unpack_from("<Ii", got[head])[1] == 0
        holder, had = owners.pop(head), had + 1
    return had


@pytest.mark.alone
def test_waiters_cost_little(share: Path) -> None:
    with locked(share, 300) as (made, guest, node, handle, _):
        guest.call(SETLK, guest.lock(handle, 1, F_WRLCK), node)
        time.sleep(0.3)
        before, began = processor_time(made.process.pid), time.monotonic()
        time.sleep(2)
        used = (processor_time(made.process.pid) - before) / (time.monotonic() - began)
        assert used < 0.05
        assert len(list(Path(f"/proc/{made.process.pid}/task").iterdir())) < 8


def processor_time(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_a_lock_of_the_host_is_had_soon_after_it_ends(share: Path) -> None:
    with (share / "file").open("r+b") as file, running(share) as made:
        fcntl.flock(file, fcntl.LOCK_EX)
        guest = made.front_end()
        guest.init()
        node = guest.lookup("file")
        handle = guest.open(node, os.O_RDWR)
        body = guest.lock(handle, 1, F_WRLCK)[:-8] + struct.pack("<II", 1, 0)
        head = guest.front.submit(guest.request(SETLKW, body, node))
        guest.front.settle(200)
        assert guest.front.replies() == {}
        fcntl.flock(file, fcntl.LOCK_UN)
        got: dict[int, bytes] = {}
        guest.front.wait(lambda: got.update(guest.front.replies()) or got)
        assert struct.unpack_from("<Ii", got[head])[1] == 0


@pytest.mark.parametrize("way", ["interrupt", "close", "destroy", "reset"])
def test_every_waiter_can_be_ended(share: Path, way: str) -> None:
    with locked(share, 200) as (_, guest, node, handle, heads):
        got: dict[int, bytes] = {}
        if way == "interrupt":
            for unique in range(guest.unique - 2 * len(heads) + 2, guest.unique + 1, 2):
                guest.front.call(message(INTERRUPT, struct.pack("<Q", unique)), room=0, ring=HIPRIO)
        elif way == "close":
            # not `call`: waiters' replies may come with its own
            guest.front.submit(guest.request(RELEASE, struct.pack("<QIIQ", handle, 0, 0, 0), node), room=64)
        elif way == "destroy":
            guest.front.submit(guest.request(DESTROY), room=64)
        else:
            guest.front.reset()
            guest.init()
            again = guest.lookup("file")
            body = guest.lock(guest.open(again, os.O_RDWR), 2, F_WRLCK)
            assert guest.call(SETLKW, body, again)[0] == 0
            return
        guest.front.wait(lambda: got.update(guest.front.replies()) or len(got.keys() & set(heads)) == len(heads))
        wanted = EBADF if way == "close" else EINTR
        assert {struct.unpack_from("<Ii", got[head])[1] for head in heads} == {-wanted}


def test_waiters_leave_room_in_the_ring(share: Path) -> None:
    """Who waits when three quarters of the ring wait is refused: the unlocking request would find no place."""
    with locked(share, 0) as (_, guest, node, handle, _heads):
        for owner in range(LARGE_RING * 3 // 4):
            guest.front.submit(guest.request(SETLKW, guest.lock(handle, 2 + owner, F_WRLCK), node), room=64)
        assert guest.call(SETLKW, guest.lock(handle, 2000, F_WRLCK), node)[0] == ENOLCK
        head = guest.front.submit(guest.request(SETLK, guest.lock(handle, 1, F_UNLCK), node))
        got: dict[int, bytes] = {}  # who has the lock next may be told with the same kick
        guest.front.wait(lambda: got.update(guest.front.replies()) or head in got)
        assert guest.parse(got[head])[0] == 0


def test_so_many_slow_requests_that_a_ring_has_to_wait(
    rig: FsRig, server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fsdevice, "MAX_SLOW", 3)
    heads = [rig.front.submit(message(FakeServer.BLOCKS, b"%d" % number)) for number in range(10)]
    rig.front.settle(30)
    assert server.blocked == 3
    server.release.set()
    got: dict[int, bytes] = {}
    rig.front.wait(lambda: got.update(rig.front.replies()) or len(got) == 10)
    assert sorted(got) == heads
    assert (rig.device._slow, rig.device._paused) == (0, {})


@pytest.mark.parametrize("kind", ["blocks", "waits"])
def test_nothing_is_counted_twice_over_resets(rig: FsRig, server: FakeServer, kind: str) -> None:
    rig.front.call(message(1))
    for number in range(20):
        rig.front.submit(message(SETLKW if kind == "waits" else FakeServer.BLOCKS))
        if number % 2:
            rig.front.settle(3)
        if number % 3 == 0:
            rig.front.go_on(rig.front.stop_rings())
        rig.front.reset()
    server.release.set()
    rig.front.wait(lambda: not rig.device._slow and not rig.device._locking[REQUESTS])
    assert rig.device._held == []
    request = message(1, b"alive")
    assert rig.front.call(request) == request[::-1]


# Data that waits


def listener(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(path))
    sock.listen(1)
    return sock


def test_bytes_that_wait_take_what_bytes_take(tmp_path: Path) -> None:
    """A guest sends a quarter of its credit a byte at a time to a host program that does not read."""
    with program(tmp_path, *arguments(tmp_path)) as made, listener(tmp_path / "v.sock_5000"):
        wait_for(made.socket.exists)
        front, process = made.front_end(), made.process
        front.set_up()
        front.fill()
        key = (1000, 5000)
        front.transmit(packets.REQUEST, key)
        came: list[packets.Header] = []
        front.wait(lambda: came.extend(packet.header for packet in front.received()) or came)
        assert (came[0].op, came[0].buf_alloc) == (packets.RESPONSE, 256 * 1024)
        send_bytes(front, key, 4096)
        before = memory_of(process.pid)
        send_bytes(front, key, came[0].buf_alloc // 4)
        grown = memory_of(process.pid) - before
        assert [packet.op for packet in front.received()] in ([], [packets.CREDIT_UPDATE])  # no RST: all was within it
        assert grown < 2 * came[0].buf_alloc


def send_bytes(front: FrontEnd, key: tuple[int, int], count: int) -> None:
    """Send so many packets of one byte each: all heads of the ring lead to the same one."""
    ring, at = front.tx, TX_BUFFERS
    header = packets.Header(GUEST_CID, packets.HOST_CID, *key, 1, packets.TYPE_STREAM, packets.RW, 0, 65536, 0)
    front.wait(lambda: front.reclaim() or len(ring.free) == RING_SIZE // 4)
    front.memory[at : at + 45] = packets.HEADER.pack(*header) + b"x"
    for head in ring.free:
        ring.descriptor(head, GUEST_BASE + at, 45, 0)
    left, end = count, time.monotonic() + 60
    while left or len(ring.free) < RING_SIZE // 4:
        while ring.free and left:
            ring.offer(ring.free.pop())
            left -= 1
        ring.take_used()
        assert time.monotonic() < end


@given(st.lists(st.one_of(st.integers(1, 64), st.integers(15_000, 40_000), st.none()), max_size=40))
@settings(max_examples=100, deadline=None)
def test_an_outbox_keeps_order_in_few_blocks(script: list[int | None]) -> None:
    """Numbers are written, None is a reader that takes some."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        box, wrote, read = Outbox(ours), bytearray(), bytearray()
        for number, step in enumerate(script):
            if step is None:
                with contextlib.suppress(BlockingIOError):
                    read += theirs.recv(5000, socket.MSG_DONTWAIT)
                box.flush()
            else:
                data = bytes([number % 256]) * step
                wrote += data
                box.write([memoryview(data)])
            assert len(box._pending) <= 2 * len(box) // BLOCK + 2  # of the first, part is sent
            assert sum(map(sys.getsizeof, box._pending)) <= 2 * len(box) + 128 * len(box._pending)
        while len(read) < len(wrote):
            box.flush()
            read += theirs.recv(1 << 20)
        assert read == wrote
        assert not box


def test_a_guest_that_takes_no_packets_gets_no_connections(tmp_path: Path) -> None:
    """Or host programs that try again and again would fill the queue of packets for it."""
    with vsock_rig(tmp_path) as rig:
        rig.device._inbox._control.extend([bytes(44)] * (inbox.MAX_WAITING + RING_SIZE // 4))
        client, theirs = socket.socketpair()
        theirs.setblocking(False)
        rig.device.client(theirs)
        client.sendall(b"CONNECT 1\n")
        rig.front.settle()
        assert client.recv(100, socket.MSG_DONTWAIT) == b""
        client.close()
        assert len(rig.device._inbox._control) == inbox.MAX_WAITING
