"""The virtio-fs device with a front end of our own and a server that only answers: rings, threads, sessions."""

import os
import struct
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from guestforge.testing.fs_frontend import HIPRIO, REQUESTS, SPACE, FakeServer, FsRig, fs_rig, message, place, until
from guestforge.testing.vhost_frontend import GUEST_BASE, MEMORY, RING_SIZE
from guestforge.vhost.core import protocol
from guestforge.vhost.core.protocol import Request
from guestforge.vhost.fs import device as fsdevice
from guestforge.vhost.fs.fuse.server import WORK
from guestforge.vhost.fs.work import Work

QUICK = 1  # LOOKUP
SETLKW = 33
SLOW = sorted(number for number, work in WORK.items() if work in {Work.SYNC, Work.MOVE})


@pytest.fixture
def server() -> Iterator[FakeServer]:
    made = FakeServer()
    yield made
    made.close()


@pytest.fixture
def rig(server: FakeServer) -> Iterator[FsRig]:
    with fs_rig(server) as made:
        yield made


@pytest.mark.parametrize("event_idx", [True, False])
@pytest.mark.parametrize("indirect", [True, False])
def test_a_request_goes_to_the_server_and_its_reply_back(server: FakeServer, event_idx: bool, indirect: bool) -> None:
    with fs_rig(server, event_idx=event_idx, indirect=indirect) as rig:
        for number in range(RING_SIZE * 2):  # around the ring
            request = message(QUICK, b"name%d" % number)
            assert rig.front.call(request) == request[::-1]
        assert len(server.seen) == RING_SIZE * 2
        assert rig.log == []


@pytest.mark.parametrize("cuts", [(), (40,), (3,), (3, 9), (41,)])
def test_a_request_may_be_cut_anywhere(rig: FsRig, cuts: tuple[int, ...]) -> None:
    request = message(QUICK, b"name")
    assert rig.front.call(request, cuts=cuts) == request[::-1]


def test_a_reply_goes_into_pieces_of_memory(rig: FsRig) -> None:
    request = message(QUICK, b"abcdefgh")
    head = rig.front.submit(request, 60, pieces=2)
    got: dict[int, bytes] = {}
    rig.front.wait(lambda: got.update(rig.front.replies()) or got)
    at = place(rig.front.rings[REQUESTS], head) + SPACE // 2
    whole = bytes(rig.front.memory[at : at + 30]) + bytes(rig.front.memory[at + 46 : at + 46 + 18])
    assert (len(got[head]), whole) == (48, request[::-1])


def test_many_requests_are_served_in_one_go_with_few_notifications(server: FakeServer) -> None:
    with fs_rig(server) as rig:
        ring = rig.front.rings[REQUESTS]
        heads = [rig.front.submit(message(QUICK, b"%d" % i)) for i in range(16)]
        kicks = ring.kicks
        calls = 0
        got: dict[int, bytes] = {}

        def take() -> bool:
            nonlocal calls
            calls += _calls(ring.call_fd)
            got.update(rig.front.replies())
            return len(got) == 16

        rig.front.wait(take)
        assert sorted(got) == sorted(heads)
        assert kicks < 16
        assert calls <= 2


def _calls(fd: int) -> int:
    try:
        return os.eventfd_read(fd)
    except BlockingIOError:
        return 0


def test_requests_without_an_answer_are_given_back(rig: FsRig) -> None:
    assert rig.front.call(message(2, b"\0" * 8), room=0, ring=HIPRIO) == b""


# Requests that can't be


def test_a_request_without_a_header_is_given_back_unserved(rig: FsRig, server: FakeServer) -> None:
    assert rig.front.call(message(QUICK)[:39]) == b""
    assert server.seen == []
    assert "request of 39 bytes" in rig.log[0]
    request = message(QUICK, b"next")
    assert rig.front.call(request) == request[::-1]


def test_a_request_that_blocks_can_not_be_made_too_long_for_a_thread(rig: FsRig, server: FakeServer) -> None:
    assert rig.front.call(message(FakeServer.BLOCKS, bytes(fsdevice.SLOW_REQUEST - 39))) == b""
    assert server.seen == []
    assert "request of 4097 bytes refused" in rig.log[0]


@pytest.mark.parametrize("flags", [0, 2])
def test_a_request_above_the_limit_is_given_back_unserved(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch, flags: int
) -> None:
    monkeypatch.setattr(fsdevice, "MAX_REPLY", fsdevice.MAX_REQUEST)  # the front end's memory is no larger
    with fs_rig(server, indirect=False) as rig:
        ring = rig.front.rings[REQUESTS]
        for size, served in ((fsdevice.MAX_REQUEST - 40 * (not flags), 1), (fsdevice.MAX_REQUEST + 1, 0)):
            server.seen.clear()
            rig.front.memory[0x20_0000 : 0x20_0000 + 40] = message(QUICK)
            ring.add_parts([(GUEST_BASE + 0x20_0000, 40, 0), (GUEST_BASE + 0x20_1000, size, flags)])
            rig.front.wait(ring.take_used)
            assert len(server.seen) == served


@pytest.mark.parametrize(
    "parts",
    [
        [(GUEST_BASE + MEMORY, 40, 0)],
        [(GUEST_BASE + 0x1000, 40, 2), (GUEST_BASE + 0x2000, 40, 0)],
        [(GUEST_BASE, 0xFFFF_FFFF, 0)],
    ],
)
def test_a_chain_that_can_not_be_stops_the_device_until_it_is_set_up_anew(
    rig: FsRig, server: FakeServer, parts: list[tuple[int, int, int]]
) -> None:
    rig.front.call(message(QUICK))
    rig.front.rings[REQUESTS].add_parts(parts)
    rig.front.wait(lambda: rig.log)
    assert "malformed, device stopped" in rig.log[0]
    assert len(server.seen) == 1
    rig.front.reset()
    request = message(QUICK, b"again")
    assert rig.front.call(request) == request[::-1]
    assert server.resets == 1


DESCRIPTOR = st.tuples(
    st.integers(GUEST_BASE - 64, GUEST_BASE + 0x20_0000) | st.integers(0, 2**64 - 1),
    st.integers(0, 300) | st.integers(0, 2**32 - 1),
    st.integers(0, 7),
    st.integers(0, RING_SIZE),
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(st.tuples(st.integers(0, RING_SIZE - 1), DESCRIPTOR), max_size=24),
    st.lists(st.integers(0, RING_SIZE), min_size=1, max_size=8),
    st.binary(max_size=200),
)
def test_no_chain_upsets_the_device(descriptors: list[Any], heads: list[int], data: bytes) -> None:
    server = FakeServer()
    server.release.set()
    with fs_rig(server) as rig:
        ring = rig.front.rings[REQUESTS]
        rig.front.memory[0x10_0000 : 0x10_0000 + len(data)] = data
        for number, fields in descriptors:
            ring.descriptor(number, *fields)
        for head in heads:
            ring.offer(head)
        rig.front.settle(8)
        assert rig.ended == []
        for request in server.seen:
            assert 40 <= len(request) <= fsdevice.MAX_REQUEST
        server.seen.clear()
        rig.front.reset()
        request = message(QUICK, b"alive")
        assert rig.front.call(request) == request[::-1]


# Requests that take long


def test_a_request_that_blocks_holds_nobody_up(rig: FsRig, server: FakeServer) -> None:
    heads = [rig.front.submit(message(FakeServer.BLOCKS, b"lock%d" % i)) for i in range(4)]
    rig.front.wait(lambda: server.blocked == 4)
    for number in range(20):
        request = message(QUICK, b"%d" % number)
        assert rig.front.call(request) == request[::-1]
    server.release.set()
    got: dict[int, bytes] = {}
    rig.front.wait(lambda: got.update(rig.front.replies()) or len(got) == 4)
    assert got == {head: message(FakeServer.BLOCKS, b"lock%d" % i)[::-1] for i, head in enumerate(heads)}


def test_the_operation_is_known_in_either_byte_order(rig: FsRig, server: FakeServer) -> None:
    server.release.set()
    seen: list[object] = []
    for workers in (rig.device._syncs, rig.device._moves):
        submit = workers.submit
        workers.submit = lambda call, submit=submit: (seen.append(call), submit(call))  # type: ignore[assignment,misc]
    for order in "<>":
        for opcode in (QUICK, *SLOW):
            request = message(opcode, order=order)
            assert rig.front.call(request) == request[::-1]
        head = rig.front.submit(message(SETLKW, order=order))
        rig.front.wait(lambda: server.waiting)
        server.unlock()
        got: dict[int, bytes] = {}
        rig.front.wait(lambda got=got: got.update(rig.front.replies()) or got)
        assert got == {head: message(SETLKW, order=order)[::-1]}
    assert len(seen) == 2 * len(SLOW)


def test_a_guest_that_changes_the_header_after_the_look_changes_nothing(rig: FsRig, server: FakeServer) -> None:
    ring = rig.front.rings[REQUESTS]
    at = place(ring, ring.free[0])
    serve = server.serve

    def meddled(request: Any, reply: Any) -> int:
        rig.front.memory[at : at + 40] = message(FakeServer.BLOCKS)
        return serve(request, reply)

    server.serve = meddled  # type: ignore[method-assign]
    request = message(QUICK)
    assert rig.front.call(request) == request[::-1]


def test_a_paused_guest_gets_its_reply_when_it_goes_on(rig: FsRig, server: FakeServer) -> None:
    assert rig.front.call(message(QUICK)) == message(QUICK)[::-1]
    head = rig.front.submit(message(FakeServer.BLOCKS, b"lock"))
    rig.front.wait(lambda: server.blocked)
    bases = rig.front.stop_rings()
    before = bytes(rig.front.memory)
    server.release.set()
    until(lambda: rig.device._done or rig.device._held)
    rig.front.settle()
    assert bytes(rig.front.memory) == before  # a paused guest's memory is left alone
    rig.front.go_on(bases)
    got: dict[int, bytes] = {}
    rig.front.wait(lambda: got.update(rig.front.replies()) or got)
    assert got == {head: message(FakeServer.BLOCKS, b"lock")[::-1]}
    assert server.resets == 0


def test_a_guest_that_was_reset_does_not_get_replies_to_its_past(rig: FsRig, server: FakeServer) -> None:
    rig.front.submit(message(FakeServer.BLOCKS, b"lock"))
    rig.front.wait(lambda: server.blocked)
    rig.front.reset()
    assert server.resets == 1
    server.release.set()
    rig.front.settle(20)
    assert rig.front.replies() == {}
    request = message(QUICK, b"new")
    assert rig.front.call(request) == request[::-1]


def test_a_chain_changed_while_we_had_it_stops_the_device(rig: FsRig, server: FakeServer) -> None:
    head = rig.front.submit(message(FakeServer.BLOCKS))
    rig.front.wait(lambda: server.blocked)
    rig.front.rings[REQUESTS].descriptor(head, GUEST_BASE + MEMORY, 64, 2)
    server.release.set()
    rig.front.wait(lambda: rig.log)
    assert "was changed" in rig.log[0]


def test_a_device_that_ends_does_not_wait_for_a_request_that_blocks(server: FakeServer) -> None:
    with fs_rig(server) as rig:
        rig.front.submit(message(FakeServer.BLOCKS))
        rig.front.wait(lambda: server.blocked)
    assert not server.release.is_set()


def test_a_fault_of_the_server_in_a_thread_is_not_lost(rig: FsRig, server: FakeServer) -> None:
    def broken(_request: Any, _reply: Any) -> int:
        raise ZeroDivisionError

    server.serve = broken  # type: ignore[method-assign]
    rig.front.submit(message(FakeServer.BLOCKS))
    with pytest.raises(ZeroDivisionError):
        rig.front.settle(100)


# Sessions


def test_a_second_front_end_finds_a_device_that_begins_anew(rig: FsRig, server: FakeServer) -> None:
    rig.front.call(message(QUICK))
    rig.front.submit(message(FakeServer.BLOCKS))
    rig.front.wait(lambda: server.blocked)
    front = rig.reconnect()
    front.set_up()
    server.release.set()
    request = message(QUICK, b"second")
    assert front.call(request) == request[::-1]
    assert (set(rig.ended), server.resets) == ({None}, 1)


def test_rings_that_start_one_after_the_other_are_one_session(rig: FsRig, server: FakeServer) -> None:
    rig.front.call(message(2), room=0, ring=HIPRIO)
    rig.front.call(message(QUICK))
    rig.front.stop_rings()
    for ring in rig.front.rings[:2]:
        ring.reset()
    rig.front.start_ring(rig.front.rings[REQUESTS])
    rig.front.call(message(QUICK))
    rig.front.start_ring(rig.front.rings[HIPRIO])
    rig.front.call(message(QUICK))
    assert server.resets == 1


def test_a_disabled_ring_is_not_served(rig: FsRig, server: FakeServer) -> None:
    rig.front.tell(Request.SET_VRING_ENABLE, struct.pack("=II", REQUESTS, 0))
    head = rig.front.submit(message(QUICK))
    rig.front.settle()
    assert server.seen == []
    rig.front.tell(Request.SET_VRING_ENABLE, struct.pack("=II", REQUESTS, 1))
    got: dict[int, bytes] = {}
    rig.front.wait(lambda: got.update(rig.front.replies()) or got)
    assert list(got) == [head]


def test_memory_in_slots(server: FakeServer) -> None:
    with fs_rig(server) as rig:
        assert rig.front.ask(Request.GET_MAX_MEM_SLOTS) == protocol.pack_u64(32)
        bases = rig.front.stop_rings()
        padding = bytes(8)
        rig.front.tell(Request.REM_MEM_REG, padding + rig.front.region())
        rig.front.tell(Request.ADD_MEM_REG, padding + rig.front.region(), [rig.front.memfd])
        rig.front.go_on(bases)
        request = message(QUICK)
        assert rig.front.call(request) == request[::-1]
        assert server.resets == 0


def test_configuration_is_offered_to_who_wants_it(server: FakeServer) -> None:
    with fs_rig(server, tag="share") as rig:
        offered = struct.unpack("=Q", rig.front.ask(Request.GET_PROTOCOL_FEATURES))[0]
        assert offered & protocol.PROTOCOL_F_CONFIG
        answer = rig.front.ask(Request.GET_CONFIG, struct.pack("=III", 0, 40, 0) + bytes(40))
        assert answer[12:] == b"share".ljust(36, b"\0") + struct.pack("<I", 1)
        assert struct.unpack("=Q", rig.front.ask(Request.GET_QUEUE_NUM)) == (65,)
    with fs_rig(server) as rig:
        offered = struct.unpack("=Q", rig.front.ask(Request.GET_PROTOCOL_FEATURES))[0]
        assert not offered & protocol.PROTOCOL_F_CONFIG
