"""ttRPC connections against a real socket: calls at once, deadlines, and peers that break the protocol."""

import contextlib
import logging
import re
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from google.protobuf.message import Message
from hypothesis import given, settings
from hypothesis import strategies as st

from guestforge.agent.errors import AgentError, Code, ConnectionLostError, ProtocolError, RpcError
from guestforge.agent.proto.ttrpc_pb2 import KeyValue, Request, Response
from guestforge.agent.ttrpc import LOGGED_STRAYS, Connection
from guestforge.core.run import run
from guestforge.testing.ttrpc_server import Handler, Refusal, Server, answer_frame, read_request, response_frame

SOON = 2.0  # seconds; everything that is immediate is far below


@contextlib.contextmanager
def served(**methods: Handler) -> Iterator[tuple[Connection, Server]]:
    ours, theirs = socket.socketpair()
    server = Server(theirs, methods)
    try:
        with Connection(ours) as connection:
            yield connection, server
    finally:
        server.close()


@contextlib.contextmanager
def peer() -> Iterator[tuple[Connection, socket.socket]]:
    """A connection whose other end the test plays by hand."""
    ours, theirs = socket.socketpair()
    theirs.settimeout(SOON)
    with theirs, Connection(ours) as connection:
        yield connection, theirs


def echo(payload: bytes) -> Message:
    return KeyValue.FromString(payload)


def say(connection: Connection, method: str = "Echo", key: str = "k", timeout: float | None = SOON) -> str:
    return connection.call("test.Service", method, KeyValue(key=key), KeyValue, timeout).key


def in_background(target: Callable[[], object]) -> tuple[threading.Thread, list[BaseException]]:
    errors: list[BaseException] = []

    def run() -> None:
        try:
            target()
        except AgentError as e:
            errors.append(e)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, errors


def test_a_call_names_service_method_and_timeout() -> None:
    with served(Echo=echo) as (connection, server):
        assert say(connection, key="hello", timeout=1.5) == "hello"
        assert say(connection, key="again", timeout=None) == "again"
    first, second = server.seen
    assert (first.service, first.method, first.timeout_nano) == ("test.Service", "Echo", 1_500_000_000)
    assert second.timeout_nano == 0
    assert server.streams == [1, 3]


def test_calls_from_many_threads_get_their_own_answers() -> None:
    def late(payload: bytes) -> Message:
        time.sleep(0.05 if payload[-1] % 2 else 0)
        return KeyValue.FromString(payload)

    answers: dict[int, str] = {}
    with served(Late=late) as (connection, server):

        def work(number: int) -> None:
            answers[number] = say(connection, "Late", key=str(number), timeout=20)

        threads = [threading.Thread(target=work, args=(n,)) for n in range(64)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert answers == {n: str(n) for n in range(64)}
    assert server.streams == sorted(server.streams) == list(range(1, 129, 2))


def test_requests_larger_than_socket_buffers_do_not_mix() -> None:
    texts = {n: str(n) * 1_000_000 for n in range(4)}
    answers: dict[int, str] = {}
    with served(Echo=echo) as (connection, _):

        def work(number: int) -> None:
            answers[number] = say(connection, key=texts[number], timeout=20)

        threads = [threading.Thread(target=work, args=(n,)) for n in texts]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert answers == texts


def test_a_refusal_carries_code_and_words() -> None:
    def refuse(_: bytes) -> Message:
        raise Refusal(5, "no container \x1b[31mx\nof that name")

    with served(Find=refuse) as (connection, _), pytest.raises(RpcError) as caught:
        say(connection, "Find")
    assert (caught.value.code, caught.value.name, caught.value.method) == (Code.NOT_FOUND, "NOT_FOUND", "Find")
    assert caught.value.detail == "no container  [31mx of that name"  # nothing that a terminal obeys
    assert str(caught.value) == "Find: NOT_FOUND: no container  [31mx of that name"


def test_an_unknown_code_and_a_long_message_are_told_and_cut() -> None:
    def refuse(_: bytes) -> Message:
        raise Refusal(-7, "x" * 100_000)

    with served(Odd=refuse) as (connection, _), pytest.raises(RpcError) as caught:
        say(connection, "Odd")
    assert caught.value.name == "CODE_-7"
    assert len(caught.value.detail) < 2100


def test_a_silent_peer_ends_the_call_at_its_deadline_and_not_the_connection() -> None:
    with peer() as (connection, other):
        start = time.monotonic()
        with pytest.raises(RpcError) as caught:
            say(connection, timeout=0.1)
        assert 0.1 <= time.monotonic() - start < SOON
        assert caught.value.code == Code.DEADLINE_EXCEEDED
        assert "within 0.1 s" in str(caught.value)
        assert not connection._calls
        stream, _ = read_request(other)
        other.sendall(answer_frame(stream, KeyValue(key="too late")))
        thread, errors = in_background(lambda: say(connection))
        stream, _ = read_request(other)
        other.sendall(answer_frame(stream, KeyValue(key="in time")))
        thread.join(SOON)
        assert not errors


def test_a_peer_that_reads_nothing_ends_the_call_at_its_deadline() -> None:
    with peer() as (connection, _):
        start = time.monotonic()
        with pytest.raises(RpcError) as caught:
            say(connection, key="x" * 3_000_000, timeout=0.2)
        assert caught.value.code == Code.DEADLINE_EXCEEDED
        assert time.monotonic() - start < SOON
        with pytest.raises(ConnectionLostError, match="did not take"):  # half a request is out: no other can follow
            say(connection)


def test_a_call_behind_one_that_is_stuck_keeps_its_own_deadline() -> None:
    with peer() as (connection, _):
        thread, errors = in_background(lambda: say(connection, key="x" * 3_000_000, timeout=0.6))
        time.sleep(0.1)
        with pytest.raises(RpcError) as caught:
            say(connection, timeout=0.1)
        assert caught.value.code == Code.DEADLINE_EXCEEDED
        assert not errors
        thread.join(SOON)


def test_a_request_that_fits_no_frame_is_refused_here() -> None:
    with served(Echo=echo) as (connection, server):
        with pytest.raises(RpcError, match="RESOURCE_EXHAUSTED"):
            say(connection, key="x" * (4 << 20))
        assert say(connection) == "k"
    assert len(server.seen) == 1


@pytest.mark.parametrize(
    ("sent", "why"),
    [
        (b"", "closed the connection$"),
        (b"\0\0\0", "in the middle of a frame"),
        (struct.pack(">IIBB", 100, 1, 2, 0) + b"half", "in the middle of a frame"),
        (struct.pack(">IIBB", (4 << 20) + 1, 1, 2, 0), "4194305 bytes"),
        (b"\xff" * 10, "4294967295 bytes"),
        (struct.pack(">IIBB", 3, 1, 2, 0) + b"\xff\xff\xff", "malformed response"),
    ],
)
def test_every_waiting_call_fails_at_once_with_the_reason(sent: bytes, why: str) -> None:
    with peer() as (connection, other):
        calls = [in_background(lambda: say(connection, timeout=None)) for _ in range(3)]
        for _ in calls:
            read_request(other)
        start = time.monotonic()
        other.sendall(sent)
        other.shutdown(socket.SHUT_WR)
        for thread, errors in calls:
            thread.join(SOON)
            assert isinstance(errors[0], ConnectionLostError | ProtocolError)
            assert errors[0].message.startswith("Echo: ")
            assert re.search(why, errors[0].message)
        assert time.monotonic() - start < SOON
        with pytest.raises(ConnectionLostError, match=why):
            say(connection)


def test_a_reset_connection_is_a_lost_one() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    ours = socket.create_connection(listener.getsockname())
    theirs, _ = listener.accept()
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    with listener, Connection(ours) as connection:
        thread, errors = in_background(lambda: say(connection, timeout=None))
        read_request(theirs)
        theirs.close()
        thread.join(SOON)
    assert "Connection reset by peer" in str(errors[0])


def test_frames_that_belong_to_no_call_are_dropped_and_logged_a_few_times(caplog: pytest.LogCaptureFixture) -> None:
    with peer() as (connection, other), caplog.at_level(logging.WARNING):
        answers: list[str] = []
        thread, errors = in_background(lambda: answers.append(say(connection)))
        stream, _ = read_request(other)
        for stray in (stream + 2, 0, 2, 2**32 - 1):
            other.sendall(answer_frame(stray, KeyValue(key="stray")))
        for kind in (0, 1, 3, 255):  # none of them answers a unary call
            other.sendall(response_frame(stream, Response(), kind))
        for _ in range(100):
            other.sendall(answer_frame(7, KeyValue(key="stray")))
        other.sendall(answer_frame(stream, KeyValue(key="mine")))
        thread.join(SOON)
        assert not errors
        assert answers == ["mine"]
    assert len(caplog.records) == LOGGED_STRAYS


def test_the_second_answer_to_a_call_is_a_stray() -> None:
    with peer() as (connection, other):
        answers: list[str] = []
        thread, _ = in_background(lambda: answers.append(say(connection)))
        stream, _ = read_request(other)
        other.sendall(answer_frame(stream, KeyValue(key="first")) + answer_frame(stream, KeyValue(key="second")))
        thread.join(SOON)
        assert answers == ["first"]
        assert connection.ended is None


def test_an_answer_of_another_type_fails_its_call_only() -> None:
    with peer() as (connection, other):
        thread, errors = in_background(lambda: say(connection))
        stream, _ = read_request(other)
        other.sendall(response_frame(stream, Response(payload=b"\x0a\xff")))
        thread.join(SOON)
        assert isinstance(errors[0], ProtocolError)
        assert "KeyValue" in errors[0].message
        assert connection.ended is None


def test_close_fails_waiting_calls_and_leaves_no_thread_and_no_descriptor() -> None:
    before = threading.active_count()
    ours, theirs = socket.socketpair()
    with theirs:
        connection = Connection(ours)
        thread, errors = in_background(lambda: say(connection, timeout=None))
        read_request(theirs)
        connection.close()
        connection.close()
        thread.join(SOON)
        assert "closed on this side" in str(errors[0])
        assert ours.fileno() == -1
        assert theirs.recv(1) == b""
        with pytest.raises(ConnectionLostError, match="closed on this side"):
            say(connection)
    assert threading.active_count() == before


def test_a_lost_connection_leaves_no_thread_even_before_close() -> None:
    before = threading.active_count()
    ours, theirs = socket.socketpair()
    connection = Connection(ours)
    theirs.close()
    deadline = time.monotonic() + SOON
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.005)
    assert threading.active_count() == before
    assert ours.fileno() == -1
    connection.close()


@settings(max_examples=40, deadline=None)
@given(
    st.one_of(
        st.binary(max_size=300),
        st.binary(max_size=40).map(lambda data: struct.pack(">IIBB", len(data), 1, 2, 0) + data),
    )
)
def test_whatever_the_guest_sends_a_call_ends_with_an_answer_or_our_error(noise: bytes) -> None:
    with peer() as (connection, other):
        outcome: list[object] = []

        def ask() -> None:
            try:
                outcome.append(say(connection))
            except AgentError as e:
                outcome.append(e)

        thread = threading.Thread(target=ask)
        thread.start()
        read_request(other)
        other.sendall(noise)
        other.shutdown(socket.SHUT_WR)
        thread.join(SOON)
        assert len(outcome) == 1


def test_requests_are_decodable_by_the_envelope_alone() -> None:
    envelope = Request(service="grpc.Health", method="Check", payload=b"\x01", timeout_nano=5)
    assert envelope.SerializeToString() == b"\x0a\x0bgrpc.Health\x12\x05Check\x1a\x01\x01\x20\x05"


def test_the_generated_envelope_is_that_of_its_proto_file(tmp_path: Path) -> None:
    root, proto = Path(__file__).parents[2], Path("guestforge/agent/proto/ttrpc.proto")
    plugin = f"--plugin={Path(sys.executable).with_name('protoc-gen-mypy')}"
    outs = [f"--python_out={tmp_path}", f"--mypy_out=quiet:{tmp_path}"]
    run([sys.executable, "-m", "grpc_tools.protoc", "-I.", plugin, *outs, proto], cwd=root)
    for name in ("ttrpc_pb2.py", "ttrpc_pb2.pyi"):
        assert (tmp_path / proto.with_name(name)).read_text() == (root / proto.with_name(name)).read_text()
