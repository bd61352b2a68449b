"""The vsock device, driven by a front end and a driver of our own (guestforge/testing/vhost_frontend.py)."""

import contextlib
import errno
import gc
import os
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from guestforge.testing.vhost_frontend import GUEST_BASE, MEMORY, RING_SIZE, RING_SPACE, Rig, Stream, rig, sealed
from guestforge.vhost.core.protocol import Request, pack_ring_state, pack_u64
from guestforge.vhost.core.virtqueue import Chain
from guestforge.vhost.core.vring import Vring
from guestforge.vhost.vsock import connection, packets
from guestforge.vhost.vsock.credit import Budget

MIB = 1024 * 1024


@pytest.fixture(params=["event index, indirect", "event index", "indirect", "plain"])
def any_ring(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Rig]:
    with rig(tmp_path, event_idx="event" in request.param, indirect="indirect" in request.param) as made:
        yield made


@pytest.fixture
def vsock(tmp_path: Path) -> Iterator[Rig]:
    with rig(tmp_path) as made:
        yield made


def listen(made: Rig, port: int) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(f"{made.uds}_{port}")
    listener.listen(30)
    return listener


def open_descriptors() -> int:
    gc.collect()  # sockets of other tests
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def guest_connects(
    made: Rig, listener: socket.socket, key: tuple[int, int], buf_alloc: int = 65536
) -> tuple[socket.socket, Stream]:
    stream = Stream(made.front, key, buf_alloc)
    stream.send(packets.REQUEST)
    stream.take(made.front.expect(packets.RESPONSE))
    sock, _ = listener.accept()
    sock.setblocking(False)
    return sock, stream


def test_host_connects_and_both_sides_talk(any_ring: Rig) -> None:
    sock, stream = any_ring.connect()
    sock.send(b"to the guest")
    packet = any_ring.front.expect(packets.RW)
    assert packet.data == b"to the guest"
    stream.send(packets.RW, b"to the host")
    assert any_ring.read(sock, size=11) == b"to the host"


def test_what_follows_the_connect_line_is_the_streams(vsock: Rig) -> None:
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    ours.send(b"connect 5\nearly data")
    vsock.device.client(theirs)
    request = vsock.front.expect(packets.REQUEST)
    Stream(vsock.front, (5, request.header.src_port)).send(packets.RESPONSE)
    assert vsock.front.expect(packets.RW).data == b"early data"


@pytest.mark.parametrize(
    "line", [b"HELLO\n", b"CONNECT\n", b"CONNECT -1\n", b"CONNECT 4294967295\n", b"x" * 32, b"CONNECT 1 2\n"]
)
def test_any_other_first_line_closes_the_client(vsock: Rig, line: bytes) -> None:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    vsock.device.client(theirs)
    ours.send(line)
    assert vsock.read(ours) == b""
    assert "CONNECT line" in vsock.log[-1]


def test_a_refusal_by_the_guest_closes_the_client(vsock: Rig) -> None:
    sock = vsock.client(99)
    request = vsock.front.expect(packets.REQUEST)
    vsock.front.transmit(packets.RST, (99, request.header.src_port))
    assert vsock.read(sock) == b""
    assert not vsock.device._connections


def test_a_client_is_refused_at_once_while_the_driver_is_not_up(tmp_path: Path) -> None:
    with rig(tmp_path, up=False) as made:
        assert made.read(made.client(1024)) == b""
        assert "driver is not up" in made.log[-1]


def test_a_guest_that_never_answers_is_given_up(vsock: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "CONNECT_PATIENCE", 0.02)
    sock = vsock.client(1024)
    vsock.front.expect(packets.REQUEST)
    assert vsock.read(sock) == b""
    vsock.front.expect(packets.RST)


def test_a_mebibyte_to_the_guest_never_exceeds_a_small_credit(any_ring: Rig) -> None:
    sock, stream = any_ring.connect(buf_alloc=5000)  # Stream.take fails on the first byte too many
    data = os.urandom(MIB)
    sent = 0
    while len(stream.data) < MIB:
        if sent < MIB:
            with contextlib.suppress(BlockingIOError):
                sent += sock.send(data[sent : sent + 65536])
        any_ring.pass_packets(stream)
        if not stream.ops or len(stream.data) - stream.fwd_cnt > 2000 or stream.ops[-1] == packets.CREDIT_REQUEST:
            stream.read_all()
    assert bytes(stream.data) == data


def test_a_stalled_guest_stops_the_flow_and_is_asked_for_credit_once(vsock: Rig) -> None:
    sock, stream = vsock.connect(buf_alloc=1000)
    sock.send(b"x" * 5000)
    for _ in range(20):
        vsock.pass_packets(stream)
    assert len(stream.data) == 1000
    assert stream.ops.count(packets.CREDIT_REQUEST) == 1
    stream.read_all()
    vsock.front.wait(lambda: vsock.pass_packets(stream) or len(stream.data) == 2000)


def test_a_mebibyte_to_a_slow_host_program_stays_within_our_credit(any_ring: Rig) -> None:
    sock, stream = any_ring.connect()
    data = os.urandom(MIB)
    got = bytearray()
    while len(got) < MIB:
        if chunk := data[stream.sent : stream.sent + min(stream.credit(), 60000)]:
            stream.send(packets.RW, chunk)
        any_ring.pass_packets(stream)
        assert len(any_ring.device._connections[stream.key]._outbox) <= Budget.LARGEST
        with contextlib.suppress(BlockingIOError):
            got += sock.recv(30000)
    assert bytes(got) == data


def test_data_without_credit_resets_the_connection(vsock: Rig) -> None:
    _sock, stream = vsock.connect()
    for _ in range(20):
        vsock.front.transmit(packets.RW, stream.key, b"x" * 65536)
        vsock.front.settle(2)
        if any(packet.op == packets.RST for packet in vsock.front.received()):
            break
    else:
        pytest.fail("1.3 MB were taken with 256 KiB of credit")
    assert "without credit" in vsock.log[-1]


def test_an_impossible_counter_resets_the_connection(vsock: Rig) -> None:
    sock, stream = vsock.connect()
    stream.send(packets.CREDIT_UPDATE, fwd_cnt=1)  # nothing was sent yet
    vsock.front.expect(packets.RST)
    assert vsock.read(sock) == b""
    assert "impossible credit" in vsock.log[-1]


def test_a_credit_request_is_answered(vsock: Rig) -> None:
    _sock, stream = vsock.connect()
    stream.send(packets.CREDIT_REQUEST)
    assert vsock.front.expect(packets.CREDIT_UPDATE).header.buf_alloc == Budget.LARGEST


def test_half_close_by_the_host_leaves_the_other_direction(vsock: Rig) -> None:
    sock, stream = vsock.connect()
    sock.send(b"last words")
    sock.shutdown(socket.SHUT_WR)
    vsock.front.wait(lambda: vsock.pass_packets(stream) or packets.SHUTDOWN in stream.ops)
    assert (bytes(stream.data), stream.flags) == (b"last words", packets.SHUTDOWN_SEND)
    stream.send(packets.RW, b"answer")
    assert vsock.read(sock, size=6) == b"answer"
    stream.send(packets.SHUTDOWN, flags=packets.SHUTDOWN_BOTH)
    assert vsock.read(sock) == b""
    assert packets.RST in [packet.op for packet in vsock.front.next_packets()]


def test_half_close_by_the_guest_leaves_the_other_direction(vsock: Rig) -> None:
    sock, stream = vsock.connect()
    stream.send(packets.RW, b"last words")
    stream.send(packets.SHUTDOWN, flags=packets.SHUTDOWN_SEND)
    assert vsock.read(sock) == b"last words"
    sock.send(b"answer")
    assert vsock.front.expect(packets.RW).data == b"answer"
    sock.close()
    vsock.front.wait(lambda: vsock.pass_packets(stream) or stream.flags == packets.SHUTDOWN_BOTH)


def test_a_close_by_the_host_ends_with_the_guests_reset(vsock: Rig) -> None:
    sock, stream = vsock.connect()
    sock.send(b"bye")
    sock.close()
    vsock.front.wait(lambda: vsock.pass_packets(stream) or stream.flags == packets.SHUTDOWN_BOTH)
    assert bytes(stream.data) == b"bye"
    stream.send(packets.RST)
    vsock.front.wait(lambda: not vsock.device._all)


def test_an_end_of_stream_costs_no_buffer(vsock: Rig) -> None:
    for _ in range(20):  # more than there are buffers
        sock, stream = vsock.connect()
        sock.shutdown(socket.SHUT_WR)
        assert vsock.front.expect(packets.SHUTDOWN).header.flags == packets.SHUTDOWN_SEND
        stream.send(packets.RST)
        assert vsock.read(sock) == b""


def test_a_guest_that_ignores_our_close_is_reset(vsock: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "CLOSE_PATIENCE", 0.02)
    sock, stream = vsock.connect()
    sock.close()
    vsock.front.wait(lambda: vsock.pass_packets(stream) or packets.RST in stream.ops)
    assert not vsock.device._all


def test_a_host_program_that_closes_without_credit_left_is_noticed(vsock: Rig) -> None:
    sock, stream = vsock.connect(buf_alloc=4)
    sock.send(b"four")
    vsock.pass_packets(stream)
    sock.close()
    vsock.front.wait(lambda: vsock.pass_packets(stream) or stream.flags == packets.SHUTDOWN_BOTH)


def test_a_host_program_that_closes_with_data_unread_by_the_guest_is_noticed(vsock: Rig) -> None:
    sock, stream = vsock.connect(buf_alloc=4)
    sock.send(b"four and more")
    sock.close()
    while len(stream.data) < 13:
        vsock.front.settle()
        vsock.pass_packets(stream)
        stream.read_all()
    vsock.front.wait(lambda: vsock.pass_packets(stream) or stream.flags == packets.SHUTDOWN_BOTH)
    assert bytes(stream.data) == b"four and more"


@pytest.mark.parametrize("end", [packets.SHUTDOWN, packets.RST])
def test_data_is_delivered_after_the_guest_has_gone(vsock: Rig, end: int) -> None:
    sock, stream = vsock.connect()
    data = os.urandom(260_000)  # within our credit, more than the socket takes
    for start in range(0, len(data), 65_000):
        stream.send(packets.RW, data[start : start + 65_000])
    stream.send(end, flags=packets.SHUTDOWN_BOTH)
    vsock.front.wait(lambda: not vsock.device._connections)
    assert vsock.device._all  # it waits for the host program
    assert vsock.read(sock) == data
    vsock.front.wait(lambda: not vsock.device._all)


def test_a_host_program_that_waits_in_vain_costs_nothing(vsock: Rig) -> None:
    sock, stream = vsock.connect(buf_alloc=4)
    sock.send(b"four and more")
    sock.close()  # epoll reports that for ever, but there is no credit to read what was sent
    vsock.front.settle()
    vsock.pass_packets(stream)
    assert bytes(stream.data) == b"four"
    vsock.front.settle()
    start = time.monotonic()
    vsock.loop.step(0.05)
    assert time.monotonic() - start > 0.04


def test_data_for_a_host_program_that_stopped_reading_does_not_hurt_its_own(vsock: Rig) -> None:
    sock, stream = vsock.connect()
    sock.shutdown(socket.SHUT_RD)
    stream.send(packets.RW, b"unread")
    stream.send(packets.RW, b"unread too")
    sock.send(b"still heard")
    vsock.front.wait(lambda: vsock.pass_packets(stream) or stream.data)
    vsock.front.settle()
    vsock.pass_packets(stream)
    assert bytes(stream.data) == b"still heard"
    assert stream.flags == packets.SHUTDOWN_RCV
    assert sorted(stream.ops) == [packets.SHUTDOWN, packets.RW]


def test_guest_connects_to_a_host_program(any_ring: Rig) -> None:
    listener = listen(any_ring, 5000)
    sock, stream = guest_connects(any_ring, listener, (2000, 5000))
    stream.send(packets.RW, b"hello")
    assert any_ring.read(sock, size=5) == b"hello"
    sock.send(b"hello yourself")
    assert any_ring.front.expect(packets.RW).data == b"hello yourself"
    listener.close()


def test_a_host_port_nobody_listens_at_is_reset(vsock: Rig) -> None:
    vsock.front.transmit(packets.REQUEST, (2000, 4999))
    packet = vsock.front.expect(packets.RST)
    assert (packet.header.src_port, packet.header.dst_port) == (4999, 2000)
    assert "4999" in vsock.log[-1]


def test_a_guest_is_refused_when_no_descriptor_is_free(vsock: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_arguments: object) -> socket.socket:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr("guestforge.vhost.vsock.device.socket.socket", fail)
    vsock.front.transmit(packets.REQUEST, (2000, 5000))
    vsock.front.expect(packets.RST)
    assert "Too many open files" in vsock.log[-1]


def test_a_packet_of_an_unknown_connection_is_reset_but_a_reset_is_not(vsock: Rig) -> None:
    vsock.front.transmit(packets.RST, (1, 2))
    vsock.front.transmit(packets.RW, (1, 2), b"what")
    vsock.front.expect(packets.RST)
    vsock.front.settle()
    assert vsock.front.received() == []


@pytest.mark.parametrize("op", [packets.REQUEST, packets.RESPONSE, 0, 8, 0xFFFF])
def test_an_operation_out_of_place_resets_the_connection(vsock: Rig, op: int) -> None:
    sock, stream = vsock.connect()
    stream.send(op)
    vsock.front.expect(packets.RST)
    assert vsock.read(sock) == b""


@pytest.mark.parametrize(
    "fields", [{"src_cid": 8}, {"dst_cid": 3}, {"dst_cid": 0}, {"length": 1}, {"length": 65537}, {"length": 0xFFFFFFFF}]
)
def test_a_malformed_packet_is_dropped_and_the_next_one_served(vsock: Rig, fields: dict[str, int]) -> None:
    _sock, stream = vsock.connect()
    stream.send(packets.RW, **fields)
    stream.send(packets.CREDIT_REQUEST)
    vsock.front.expect(packets.CREDIT_UPDATE)
    assert "packet dropped" in vsock.log[-1]


def test_another_socket_type_is_reset(vsock: Rig) -> None:
    vsock.front.transmit(packets.REQUEST, (1, 2), type=2)
    vsock.front.wait(vsock.front.rx.take_used)  # `received` insists on type 1
    assert "socket type 2" in vsock.log[-1]


def test_a_packet_that_comes_just_when_the_device_stops_looking_is_served(
    any_ring: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    pop = Vring.pop
    late = [packets.HEADER.pack(7, 2, 3, 4, 0, 1, packets.RW, 0, 0, 0)]

    def pop_and_be_overtaken(ring: Vring) -> Chain | None:
        chain = pop(ring)
        if chain is None and ring.index == 1 and late:
            kicks = any_ring.front.tx.kicks
            any_ring.front.transmit_raw(late.pop())
            assert any_ring.front.tx.kicks == kicks  # the driver was told that it need not
        return chain

    monkeypatch.setattr(Vring, "pop", pop_and_be_overtaken)
    any_ring.front.transmit(packets.RW, (1, 2))
    answers: list[int] = []
    any_ring.front.wait(
        lambda: answers.extend(p.header.dst_port for p in any_ring.front.received()) or len(answers) == 2
    )
    assert answers == [1, 3]


def test_a_header_in_pieces_is_understood(vsock: Rig) -> None:
    sock, stream = vsock.connect()
    header = packets.Header(7, 2, *stream.key, 6, 1, packets.RW, 0, 65536, 0)
    vsock.front.transmit_raw(packets.HEADER.pack(*header) + b"pieces", cuts=(3, 40, 47))
    assert vsock.read(sock, size=6) == b"pieces"


@pytest.mark.parametrize("indirect", [True, False])
def test_receive_buffers_in_pieces_are_filled(tmp_path: Path, indirect: bool) -> None:
    with rig(tmp_path, indirect=indirect, up=False) as made:
        made.front.set_up()
        made.front.fill(split=True)
        sock, _stream = made.connect()
        data = os.urandom(20_000)
        sock.send(data)
        got = b""
        while len(got) < len(data):
            made.front.pump()
            got += b"".join(packet.data for packet in made.front.received(refill=False))
        assert got == data


def test_a_guest_without_buffers_gets_its_data_when_it_adds_some(any_ring: Rig) -> None:
    sock, stream = any_ring.connect()
    front = any_ring.front
    data = os.urandom(60_000)
    sock.send(data)
    got = b"".join(packet.data for packet in front.received(refill=False))
    while len(front.rx_buffers):
        front.pump()
        got += b"".join(packet.data for packet in front.received(refill=False))
    assert got == data[: len(got)]
    assert len(got) < len(data)
    before = front.rx.kicks
    front.fill()
    assert front.rx.kicks > before  # the starved device asked for it
    while len(got) < len(data):
        front.pump()
        got += b"".join(packet.data for packet in front.received())
    assert got == data
    assert stream.key in any_ring.device._connections


def test_a_guest_is_not_made_to_kick_for_every_buffer(any_ring: Rig) -> None:
    sock, _stream = any_ring.connect()
    any_ring.front.fill(len(any_ring.front.rx.free))
    before = any_ring.front.rx.kicks
    for _ in range(30):
        sock.send(b"x")
        any_ring.front.expect(packets.RW)  # and its buffer is offered again
    assert any_ring.front.rx.kicks == before


def test_twenty_connections_at_once(any_ring: Rig) -> None:
    pairs = [any_ring.connect(port) for port in range(1000, 1020)]
    streams = [stream for _, stream in pairs]
    for sock, stream in pairs:
        sock.send(b"%d" % stream.key[0] * 500)
        stream.send(packets.RW, b"%d" % stream.key[1] * 500)
    any_ring.front.wait(lambda: any_ring.pass_packets(*streams) or all(len(s.data) == 2000 for s in streams))
    for sock, stream in pairs:
        assert bytes(stream.data) == b"%d" % stream.key[0] * 500
        assert any_ring.read(sock, size=len(b"%d" % stream.key[1]) * 500) == b"%d" % stream.key[1] * 500


def test_the_descriptors_and_the_budget_come_back(vsock: Rig) -> None:
    before = open_descriptors()
    free = vsock.device._budget._free
    for _ in range(3):
        sock, stream = vsock.connect()
        stream.send(packets.RST)
        assert vsock.read(sock) == b""
        sock.close()
    assert open_descriptors() == before
    assert vsock.device._budget._free == free


def test_too_many_connections_are_refused(vsock: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("guestforge.vhost.vsock.device.MAX_CONNECTIONS", 1)
    sock, _stream = vsock.connect()
    assert vsock.read(vsock.client(1024)) == b""
    vsock.front.transmit(packets.REQUEST, (1, 2))
    vsock.front.expect(packets.RST)
    sock.close()


def test_a_guest_that_takes_no_packets_is_not_served_without_end(vsock: Rig) -> None:
    vsock.front.settle()
    asked = 0
    while not vsock.device._tx_held:
        assert asked < 2000
        vsock.front.transmit(packets.RW, (1, 2))  # each would be answered with RST
        asked += 1
        vsock.front.pump()
        vsock.front.rx.free.clear()
    vsock.front.rx.free = []
    assert asked > 1000
    answers = 0
    while answers < asked:
        answers += len(vsock.front.received(refill=False))
        vsock.front.fill(len(vsock.front.rx.free))
        vsock.front.pump()
    assert not vsock.device._tx_held


def stop_rings(made: Rig) -> list[int]:
    """Stop both rings as QEMU does when the guest pauses, is reset or powers off; return where they were."""
    answers = [made.front.ask(Request.GET_VRING_BASE, pack_ring_state(index, 0)) for index in (0, 1)]
    return [struct.unpack("=II", answer)[1] for answer in answers]


def test_a_paused_guest_keeps_its_connections(vsock: Rig) -> None:
    sock, stream = vsock.connect()
    bases = stop_rings(vsock)
    assert bases == [1, 1]  # REQUEST went out and RESPONSE came in
    sock.send(b"in the pause")
    vsock.front.settle()
    assert vsock.front.received() == []
    for ring, base in zip((vsock.front.rx, vsock.front.tx), bases, strict=True):
        vsock.front.start_ring(ring, base)
    assert vsock.front.expect(packets.RW).data == b"in the pause"
    stream.send(packets.RW, b"and after")
    assert vsock.read(sock, size=9) == b"and after"


def test_a_reset_guest_loses_its_connections_and_can_make_new_ones(vsock: Rig) -> None:
    sock, _stream = vsock.connect()
    stop_rings(vsock)
    assert vsock.read(vsock.client(1024)) == b""  # nobody there to ask
    for ring in (vsock.front.rx, vsock.front.tx):
        ring.reset()
        vsock.front.start_ring(ring)
    vsock.front.fill()
    assert vsock.read(sock) == b""
    sock, _stream = vsock.connect()
    sock.send(b"anew")
    assert vsock.front.expect(packets.RW).data == b"anew"


# Descriptors 0, 1, ... of a chain that no driver may make: address, length, flags (1 next, 2 write, 4 indirect), next;
# and what the log says of it.
WRECKS = {
    "loop": ([(GUEST_BASE, 44, 1, 0)], "the chain at descriptor 0 loops"),
    "long loop": (
        [(GUEST_BASE, 1, 1, (i + 1) % RING_SIZE) for i in range(RING_SIZE)],
        "the chain at descriptor 0 loops",
    ),
    "next outside": ([(GUEST_BASE, 44, 1, RING_SIZE)], "descriptor 64 in a table of 64"),
    "below memory": ([(GUEST_BASE - 1, 44, 0, 0)], "44 bytes at guest address 0x3fffffff"),
    "beyond memory": ([(GUEST_BASE + MEMORY - 43, 44, 0, 0)], "1 bytes at guest address 0x40400000"),
    "wraps around": ([(2**64 - 10, 44, 0, 0)], "not in the guest's memory"),
    "endless": ([(GUEST_BASE, 0xFFFFFFFF, 0, 0)], "not in the guest's memory"),
    "odd indirect table": ([(GUEST_BASE, 17, 4, 0)], "indirect table of 17 bytes"),
    "empty indirect table": ([(GUEST_BASE, 0, 4, 0)], "indirect table of 0 bytes"),
    "huge indirect table": ([(GUEST_BASE, 16 * 1025, 4, 0)], "indirect table of 16400 bytes"),
    "indirect table outside": ([(0, 16, 4, 0)], "16 bytes at guest address 0x0"),
    "indirect and next": ([(GUEST_BASE, 16, 5, 0)], "an indirect descriptor"),
    "indirect in indirect": ([(GUEST_BASE + RING_SPACE, 16, 4, 0)], "an indirect descriptor"),  # it is its own table
    "readable after writable": ([(GUEST_BASE, 44, 3, 1), (GUEST_BASE, 44, 0, 0)], "readable descriptor after"),
}


@pytest.mark.parametrize("how", WRECKS)
def test_a_wrecked_ring_stops_the_device_until_it_is_set_up_anew(tmp_path: Path, how: str) -> None:
    with rig(tmp_path, indirect=False) as made:
        sock, _stream = made.connect()
        for number, fields in enumerate(WRECKS[how][0]):
            made.front.tx.descriptor(number, *fields)
        made.front.tx.offer(0)
        made.front.wait(lambda: os.eventfd_read(made.front.tx.error_fd) if made.log else 0)
        assert "ring 1 is malformed" in made.log[-1]
        assert WRECKS[how][1] in made.log[-1]
        assert made.read(sock) == b""
        assert made.ended == []
        for ring in (made.front.rx, made.front.tx):
            made.front.ask(Request.GET_VRING_BASE, pack_ring_state(ring.index, 0))


def test_a_head_outside_the_table_stops_the_device(vsock: Rig) -> None:
    vsock.front.tx.offer(RING_SIZE)
    vsock.front.wait(lambda: vsock.log)
    assert "descriptor 64" in vsock.log[-1]


def test_an_available_index_beyond_the_ring_stops_the_device(vsock: Rig) -> None:
    ring = vsock.front.tx
    struct.pack_into("<H", ring.memory, ring.available + 2, RING_SIZE + 1)
    ring.kick()
    vsock.front.wait(lambda: vsock.log)
    assert "65 ahead" in vsock.log[-1]


def test_a_receive_buffer_that_holds_no_packet_stops_the_device(tmp_path: Path) -> None:
    with rig(tmp_path, up=False) as made:
        made.front.set_up()
        made.front.rx.add([(GUEST_BASE, 44)], writable=True)
        made.client(1024)
        made.front.wait(lambda: made.log)
        assert "receive buffer of 44" in made.log[-1]


def test_memory_can_change_under_running_rings(vsock: Rig) -> None:
    sock, stream = vsock.connect()
    vsock.front.set_memory()
    extra = sealed(8192)
    region = bytes(8) + vsock.front.region(guest=0, size=4096, user=0x1000, offset=4096)
    vsock.front.tell(Request.ADD_MEM_REG, region, [extra])
    vsock.front.tell(Request.REM_MEM_REG, region)
    os.close(extra)
    stream.send(packets.RW, b"as before")
    assert vsock.read(sock, size=9) == b"as before"


def test_a_disabled_ring_is_left_alone(vsock: Rig) -> None:
    vsock.front.tell(Request.SET_VRING_ENABLE, pack_ring_state(1, 0))
    vsock.front.transmit(packets.RW, (1, 2))
    vsock.front.settle()
    assert vsock.front.received() == []
    vsock.front.tell(Request.SET_VRING_ENABLE, pack_ring_state(1, 1))
    vsock.front.expect(packets.RST)


def test_the_device_tells_its_cid(vsock: Rig) -> None:
    answer = vsock.front.ask(Request.GET_CONFIG, struct.pack("=III", 0, 8, 0) + bytes(8))
    assert answer == struct.pack("=III", 0, 8, 0) + struct.pack("<Q", 7)
    assert vsock.front.ask(Request.GET_CONFIG, struct.pack("=III", 4, 8, 0) + bytes(8)) == b""
    assert vsock.front.ask(Request.GET_QUEUE_NUM) == pack_u64(3)


def test_a_driver_from_before_virtio_1_is_refused(tmp_path: Path) -> None:
    with rig(tmp_path, up=False) as made:
        made.front.tell(Request.SET_FEATURES, pack_u64(0))
        made.front.set_memory()
        made.front.start_ring(made.front.rx)
        made.front.wait(lambda: made.ended)
        assert "before 1.0" in str(made.ended[0])


def test_a_front_end_without_protocol_features_has_its_rings_enabled_at_once(tmp_path: Path) -> None:
    with rig(tmp_path, up=False) as made:
        made.front.tell(Request.SET_FEATURES, pack_u64(1 << 32 | 1 << 29 | 1 << 28))
        made.front.set_memory()
        for ring in (made.front.rx, made.front.tx):
            made.front.start_ring(ring, enable=False)
        made.front.fill()
        made.front.transmit(packets.RW, (1, 2))
        made.front.expect(packets.RST)
