"""What a guest can make a device hold: chains that are out, memory, threads, processor time."""

import os
import select
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guestforge.vhost.errors import RingError
from guestforge.vhost.memory import MemoryTable
from guestforge.vhost.virtqueue import RingLayout, Virtqueue
from tests.fs_frontend import REQUESTS, FakeServer, FsFrontEnd, FsRig, fs_rig, message
from tests.unit.test_vhost_fs_program import F_WRLCK, SETLK, SETLKW, running
from tests.unit.test_vhost_parsing import region
from tests.vhost_frontend import RING_SIZE

FSYNC = 20
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
LAYOUT = RingLayout(SIZE, 0x7000, 0x7100, 0x7200)


def guests_ring() -> tuple[memoryview, MemoryTable]:
    """Return a guest's memory, with one readable descriptor at each head, and the table of it."""
    table = MemoryTable((region(0x4000),))
    memory = table.regions[0].view
    for head in range(SIZE):
        struct.pack_into("<QIHH", memory, head * 16, 0x2000, 40, 0, 0)
    return memory, table


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
