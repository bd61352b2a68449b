"""Property tests of everything in the vhost-user devices that parses: messages, rings, packets, first lines, credit."""

import fcntl
import itertools
import os
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from guestforge.testing.vhost_frontend import GUEST_CID, Rig, rig, sealed
from guestforge.vhost.core import protocol
from guestforge.vhost.core.errors import MemoryMapError, PacketError, ProtocolError, RingError
from guestforge.vhost.core.memory import MemoryTable, Region
from guestforge.vhost.core.protocol import RegionInfo
from guestforge.vhost.core.virtqueue import Chain, RingLayout, Virtqueue
from guestforge.vhost.vsock import packets
from guestforge.vhost.vsock.credit import Budget, Credit
from guestforge.vhost.vsock.hybrid import parse_connect

U16 = st.integers(0, 0xFFFF)
U32 = st.integers(0, 0xFFFFFFFF)
U64 = st.integers(0, 2**64 - 1)
PARSERS: list[Callable[[bytes], object]] = [
    protocol.parse_nothing,
    protocol.parse_u64,
    protocol.parse_ring_state,
    protocol.parse_ring_addresses,
    protocol.parse_memory_table,
    protocol.parse_single_region,
    protocol.parse_config,
]


# Messages


@given(st.sampled_from(PARSERS), st.binary(max_size=400))
def test_a_payload_is_parsed_or_refused(parse: Callable[[bytes], object], payload: bytes) -> None:
    try:
        parse(payload)
    except ProtocolError as error:
        assert "payload" in error.message or "bytes" in error.message or "regions" in error.message


@given(U32, U32, U32)
def test_a_header_is_parsed_or_refused(request: int, flags: int, size: int) -> None:
    good = flags & 3 == 1 and not flags & 4 and size <= protocol.MAX_PAYLOAD
    data = struct.pack("=III", request, flags, size)
    if good:
        assert protocol.parse_header(data) == protocol.Header(request, bool(flags & 8), size)
    else:
        with pytest.raises(ProtocolError):
            protocol.parse_header(data)


@given(st.lists(st.tuples(U64, U64, U64, U64), min_size=1, max_size=8), st.booleans())
def test_a_memory_table_comes_back_as_it_was(regions: list[tuple[int, ...]], all_slots: bool) -> None:
    payload = struct.pack("=II", len(regions), 0) + b"".join(struct.pack("=QQQQ", *region) for region in regions)
    if all_slots:
        payload = payload.ljust(8 + 8 * 32, b"\0")
    assert protocol.parse_memory_table(payload) == tuple(RegionInfo(*region) for region in regions)


# Memory


def region(size: int, guest: int = 0x1000, user: int = 0x7000, offset: int = 0, file_size: int | None = None) -> Region:
    fd = sealed(size + offset if file_size is None else file_size)
    try:
        return Region(RegionInfo(guest, size, user, offset), fd)
    finally:
        os.close(fd)


@settings(max_examples=200)
@given(U64 | st.integers(0, 0x4000), U32 | st.integers(0, 0x4000))
def test_no_view_leaves_the_regions(address: int, length: int) -> None:
    inside = 0x1000 <= address < 0x3000 and address + length <= 0x3000
    table = TABLE
    views: list[memoryview] = []
    try:
        table.gather(address, length, views)
    except MemoryMapError:
        assert not inside
    else:
        assert inside or length == 0
        assert sum(map(len, views)) == length


TABLE = MemoryTable((region(0x1000), region(0x1000, guest=0x2000, user=0x9000)))  # neighbours for the guest only


def test_a_range_across_two_regions_is_two_views() -> None:
    views: list[memoryview] = []
    TABLE.gather(0x1FF0, 0x20, views)
    assert [len(view) for view in views] == [0x10, 0x10]
    with pytest.raises(MemoryMapError):
        TABLE.user_view(0x7FF0, 0x20)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"size": 0, "file_size": 4096}, "impossible"),
        ({"size": 4096, "guest": 2**64 - 4095}, "impossible"),
        ({"size": 4096, "user": 2**64 - 1}, "impossible"),
        ({"size": 8192, "file_size": 4096}, "longer than its file"),
        ({"size": 4096, "offset": 1, "file_size": 4096}, "longer than its file"),
    ],
)
def test_an_impossible_region_is_refused(fields: dict[str, int], said: str) -> None:
    with pytest.raises(ProtocolError, match=said):
        region(**fields)


def test_a_region_that_is_no_file_is_refused() -> None:
    fd = os.eventfd(0)
    with pytest.raises(ProtocolError):
        Region(RegionInfo(0, 4096, 0, 0), fd)
    os.close(fd)


def test_regions_that_overlap_are_refused() -> None:
    with pytest.raises(ProtocolError, match="overlap at guest"):
        MemoryTable((region(0x1000), region(0x1000, guest=0x1FFF, user=0x90000)))
    with pytest.raises(ProtocolError, match="overlap at user"):
        MemoryTable((region(0x1000), region(0x1000, guest=0x9000, user=0x7FFF)))


@pytest.mark.parametrize("seals", [0, fcntl.F_SEAL_GROW, fcntl.F_SEAL_SEAL, fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL])
def test_memory_that_can_become_shorter_is_refused(seals: int) -> None:
    fd = sealed(4096, seals)
    with pytest.raises(ProtocolError, match=r"can be made shorter under us: .* --unsealed-memory"):
        Region(RegionInfo(0x1000, 4096, 0, 0), fd)
    assert Region(RegionInfo(0x1000, 4096, 0, 0), fd, unsealed=True).size == 4096
    os.close(fd)


def test_a_file_that_has_no_seals_is_refused(tmp_path: Path) -> None:
    (tmp_path / "memory").write_bytes(bytes(4096))
    with (tmp_path / "memory").open("r+b") as file:
        with pytest.raises(ProtocolError, match=r"can be made shorter under us: .* --unsealed-memory"):
            Region(RegionInfo(0x1000, 4096, 0, 0), file.fileno())
        assert Region(RegionInfo(0x1000, 4096, 0, 0), file.fileno(), unsealed=True).size == 4096


def test_a_region_may_begin_anywhere_in_its_file() -> None:
    fd = sealed(5004)
    os.write(fd, bytes(5000) + b"here")
    made = Region(RegionInfo(0, 4, 0, 5000), fd)
    os.close(fd)
    assert bytes(made.view) == b"here"


# Rings

RING = 8
LAYOUT = RingLayout(RING, 0x7000, 0x7100, 0x7200)
GUEST = 0x1000  # where that memory begins
RING_MEMORY = MemoryTable((region(0x4000),))
NEAR = st.integers(0x0F00, 0x5100) | U64
DESCRIPTORS = st.lists(
    st.tuples(NEAR, st.integers(0, 0x300) | U32, st.integers(0, 7) | U16, st.integers(0, RING) | U16),
    min_size=RING * 2,
    max_size=RING * 2,
)


@settings(max_examples=200, suppress_health_check=[HealthCheck.too_slow])
@given(
    DESCRIPTORS,
    st.lists(st.integers(0, RING) | U16, min_size=RING, max_size=RING),
    st.integers(0, RING + 1) | U16,
    st.booleans(),
)
def test_any_ring_gives_bounded_chains_in_memory_or_is_refused(
    descriptors: list[tuple[int, int, int, int]], heads: list[int], index: int, event_idx: bool
) -> None:
    memory = RING_MEMORY.regions[0].view
    memory[:] = bytes(len(memory))
    for i, fields in enumerate(descriptors):  # the second half lies where an indirect table may point
        struct.pack_into("<QIHH", memory, i * 16 if i < RING else 0x1000 + (i - RING) * 16, *fields)
    struct.pack_into(f"<HH{RING}H", memory, 0x100, 0, index, *heads)
    queue = Virtqueue(LAYOUT, RING_MEMORY, base=0, event_idx=event_idx)
    popped = 0
    try:
        while (chain := queue.pop()) is not None:
            popped += 1
            assert popped <= RING
            assert chain.head < RING
            assert sum(map(len, chain.readable + chain.writable)) <= 1024 * 0x4000
            queue.push(chain.head, 0)
        queue.publish()
        queue.want_kicks()
    except (RingError, MemoryMapError):
        return
    assert popped == index
    assert struct.unpack_from("<H", memory, 0x202)[0] == popped


def chain_of(*descriptors: tuple[int, int, int], indirect: bool) -> Chain:
    """Pop a chain of (address, length, flags without NEXT), direct or in an indirect table."""
    memory = RING_MEMORY.regions[0].view
    memory[:] = bytes(len(memory))
    base = 0x1000 if indirect else 0
    for i, (address, length, flags) in enumerate(descriptors):
        more = i < len(descriptors) - 1
        struct.pack_into("<QIHH", memory, base + i * 16, address, length, flags | more, i + 1)
    if indirect:
        struct.pack_into("<QIHH", memory, 0, GUEST + 0x1000, len(descriptors) * 16, 4, 0)
    struct.pack_into("<HHH", memory, 0x100, 0, 1, 0)
    chain = Virtqueue(LAYOUT, RING_MEMORY, base=0, event_idx=False).pop()
    assert chain is not None
    return chain


@pytest.mark.parametrize("indirect", [False, True])
def test_neighbours_in_memory_become_one_view(indirect: bool) -> None:
    at = GUEST + 0x2000
    pages = ((at, 40, 0), (at + 40, 8, 0), (at + 0x80, 16, 2), (at + 0x90, 16, 2), (at + 0xB0, 1, 2), (at + 0xB1, 0, 2))
    chain = chain_of(*pages, indirect=indirect)
    assert [len(view) for view in chain.readable] == [48]
    assert [len(view) for view in chain.writable] == [32, 1]
    assert (chain.readable_size, chain.writable_size) == (48, 33)


def test_neighbours_of_different_direction_stay_apart() -> None:
    at = GUEST + 0x2000
    chain = chain_of((at, 40, 0), (at + 40, 8, 2), indirect=True)
    assert ([len(view) for view in chain.readable], [len(view) for view in chain.writable]) == ([40], [8])


def test_neighbours_beyond_the_memory_are_refused() -> None:
    with pytest.raises(MemoryMapError):
        chain_of((GUEST + 0x3FF0, 16, 0), (GUEST + 0x4000, 1, 0), indirect=True)


@pytest.mark.parametrize("layout", [(0x7001, 0x7100, 0x7200), (0x7000, 0x7101, 0x7200), (0x7000, 0x7100, 0x7202)])
def test_a_misaligned_ring_is_refused(layout: tuple[int, int, int]) -> None:
    with pytest.raises(RingError, match="aligned"):
        Virtqueue(RingLayout(RING, *layout), RING_MEMORY, base=0, event_idx=False)


@given(st.lists(st.tuples(st.integers(1, RING), U16), min_size=1, max_size=20), st.booleans())
def test_the_guest_is_told_exactly_when_it_asked(rounds: list[tuple[int, int]], event_idx: bool) -> None:
    memory = RING_MEMORY.regions[0].view
    memory[:] = bytes(len(memory))
    queue = Virtqueue(LAYOUT, RING_MEMORY, base=0, event_idx=event_idx)
    used = 0
    for count, wish in rounds:
        struct.pack_into("<H", memory, 0x100 + 4 + 2 * RING if event_idx else 0x100, wish)
        for _ in range(count):
            queue.push(0, 0)
        told = queue.publish()
        passed = {(used + i) & 0xFFFF for i in range(count)}
        assert told == (wish in passed if event_idx else not wish & 1)
        assert not queue.publish()
        used += count


# Packets


@given(st.lists(st.binary(max_size=80), max_size=6), st.booleans(), U32)
def test_a_packet_is_split_or_refused(pieces: list[bytes], sane_length: bool, length: int) -> None:
    raw = b"".join(pieces)
    if sane_length and len(raw) >= packets.HEADER_SIZE:
        length %= len(raw)
    if len(raw) >= 28:
        raw = raw[:24] + struct.pack("<I", length) + raw[28:]
    cut, at = [], 0
    for piece in pieces:
        cut.append(memoryview(raw[at : at + len(piece)]))
        at += len(piece)
    good = len(raw) >= packets.HEADER_SIZE and length <= len(raw) - packets.HEADER_SIZE
    if not good:
        with pytest.raises(PacketError):
            packets.split(cut)
        return
    header, data = packets.split(cut)
    assert packets.HEADER.pack(*header) == raw[: packets.HEADER_SIZE]
    assert b"".join(data) == raw[packets.HEADER_SIZE : packets.HEADER_SIZE + length]


@pytest.mark.parametrize("cuts", [(44,), (10, 30)])
def test_a_packet_above_the_limit_is_refused_though_it_is_all_there(cuts: tuple[int, ...]) -> None:
    raw = packets.HEADER.pack(7, 2, 1, 1, packets.MAX_PAYLOAD + 1, 1, packets.RW, 0, 0, 0) + bytes(
        packets.MAX_PAYLOAD + 1
    )
    edges = [0, *cuts, len(raw)]
    with pytest.raises(PacketError):
        packets.split([memoryview(raw)[a:b] for a, b in itertools.pairwise(edges)])


@given(st.binary(max_size=40))
def test_a_first_line_is_a_port_or_refused(line: bytes) -> None:
    with pytest.raises(PacketError):
        parse_connect(line)


@given(
    st.integers(0, 0xFFFFFFFE), st.sampled_from([b"CONNECT", b"connect", b"Connect"]), st.sampled_from([b"\n", b"\r\n"])
)
def test_a_connect_line_is_understood(port: int, word: bytes, end: bytes) -> None:
    assert parse_connect(b"%s %d%s" % (word, port, end)) == port


# Credit


@given(U32, st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 5000)), max_size=50), st.integers(1, 20000))
def test_credit_is_exact_also_when_the_counters_wrap(start: int, rounds: list[tuple[int, int]], alloc: int) -> None:
    credit = Credit(1)
    credit.sent = credit.peer_forwarded = start
    flying = 0
    for send, read in rounds:
        assert credit.heard(alloc, (credit.sent - flying) & 0xFFFFFFFF)
        assert credit.free() == alloc - flying
        sent = min(send, credit.free())
        credit.sent = (credit.sent + sent) & 0xFFFFFFFF
        flying = max(0, flying + sent - read)


@given(U32, st.integers(0, 100_000), U32)
def test_only_counters_of_what_was_sent_count(base: int, sent: int, claim: int) -> None:
    credit = Credit(1)
    credit.peer_forwarded = base
    credit.sent = (base + sent) & 0xFFFFFFFF
    possible = (claim - base) & 0xFFFFFFFF <= sent
    accepted = credit.heard(10, claim)
    assert credit.peer_forwarded == (claim if possible else base)
    assert accepted == (possible or (claim - base) & 0xFFFFFFFF > 0x7FFFFFFF)


@given(st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 3000)), max_size=60))
def test_the_guest_is_told_before_it_can_starve(rounds: list[tuple[int, int]]) -> None:
    credit = Credit(4000)
    held = 0
    for arrive, leave in rounds:
        known_free = 4000 - ((credit.received - credit.announced) & 0xFFFFFFFF)
        arrived = min(arrive, known_free)
        assert credit.took(arrived)
        left = min(leave, held + arrived)
        held += arrived - left
        if credit.forward(left):
            credit.announce()
    assert held or credit.received == credit.forwarded
    assert (credit.forwarded - credit.announced) * 2 < 4000


def test_many_connections_get_less_memory_each() -> None:
    budget = Budget(16 * 1024 * 1024)
    sizes = [budget.take() for _ in range(1024)]
    assert sizes[0] == Budget.LARGEST
    assert sizes[-1] == Budget.SMALLEST
    assert sum(sizes) <= 32 * 1024 * 1024


# The whole device


def rough(made: Rig, raw: bytes, cuts: list[int]) -> None:
    """Send raw bytes as a packet and let the device answer; every answer is a good packet (see `received`)."""
    made.front.transmit_raw(raw, sorted({cut % max(1, len(raw)) for cut in cuts} - {0}))
    made.loop.step(0)
    made.front.received()


FIELDS = st.fixed_dictionaries(
    {
        "src_cid": st.sampled_from([GUEST_CID, GUEST_CID, GUEST_CID, 0]),
        "dst_cid": st.sampled_from([2, 2, 2, 3]),
        "src_port": st.integers(0, 3),
        "dst_port": st.integers(0, 3) | st.just(1 << 30),
        "length": st.integers(0, 40) | U32,
        "type": st.just(1),
        "op": st.integers(0, 8),
        "flags": st.integers(0, 4) | U32,
        "buf_alloc": U32,
        "fwd_cnt": st.integers(0, 10) | U32,
    }
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(FIELDS, st.binary(max_size=64), st.lists(st.integers(0, 100), max_size=3)), max_size=30))
def test_no_sequence_of_packets_upsets_the_device(
    tmp_path_factory: pytest.TempPathFactory, script: list[tuple[dict[str, int], bytes, list[int]]]
) -> None:
    directory = tmp_path_factory.getbasetemp() / "fuzz"
    directory.mkdir(exist_ok=True)
    with rig(directory) as made:
        client = made.client(1)
        for fields, data, cuts in script:
            rough(made, packets.HEADER.pack(*packets.Header(**fields)) + data, cuts)
        made.front.settle(2)
        made.front.received()
        made.front.transmit(packets.RW, (77, 78))  # and it still serves
        made.front.wait(lambda: any(p.op == packets.RST and p.header.dst_port == 77 for p in made.front.received()))
        assert made.ended == []
        client.close()


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 40), st.binary(max_size=64), st.integers(0, 3), st.sampled_from([1, 9, 9, 9, 0, 5])),
        max_size=12,
    )
)
def test_no_sequence_of_messages_upsets_the_session(script: list[tuple[int, bytes, int, int]]) -> None:
    with rig(Path("/nonexistent")) as made:
        for request, payload, fds, flags in script:
            made.front.send(request, payload, [made.front.memfd] * fds, flags)
            made.loop.step(0)
            with_replies(made)
            if made.ended:
                assert made.ended[0]  # a reason, no crash
                break


def with_replies(made: Rig) -> None:
    """Take the replies that have come: each is a whole message."""
    try:
        data = made.front.sock.recv(65536, 0x40)  # MSG_DONTWAIT
    except BlockingIOError:
        return
    while data:
        _request, flags, size = protocol.HEADER.unpack_from(data)
        assert flags == protocol.VERSION | protocol.FLAG_REPLY
        data = data[protocol.HEADER.size + size :]
