"""The vsock device as a program: its sockets, signals, exit codes and messages."""

import contextlib
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from guestforge.testing.vhost_frontend import FrontEnd, Stream
from guestforge.vhost.core import protocol
from guestforge.vhost.vsock import packets

REPOSITORY = Path(__file__).parents[2]
LIMIT = 10.0  # seconds


@dataclass
class Program:
    process: "subprocess.Popen[str]"
    socket: Path
    uds: Path
    fronts: list[FrontEnd] = field(default_factory=list)

    def front_end(self) -> FrontEnd:
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(str(self.socket))
        front = FrontEnd(sock, lambda: time.sleep(0.001))
        self.fronts.append(front)
        return front

    def end(self) -> tuple[int, str]:
        """Return exit code and standard error, after the program has ended by itself."""
        _, error = self.process.communicate(timeout=LIMIT)
        return self.process.returncode, error


@contextlib.contextmanager
def program(directory: Path, *arguments: str, **more: Any) -> Iterator[Program]:
    made = Program(
        subprocess.Popen(
            [sys.executable, "-m", "guestforge.vhost.vsock", *arguments],
            cwd=REPOSITORY,
            stderr=subprocess.PIPE,
            text=True,
            **more,
        ),
        directory / "vu.sock",
        directory / "v.sock",
    )
    try:
        yield made
    finally:
        for front in made.fronts:
            front.close()
        made.process.kill()
        made.process.communicate()


def arguments(directory: Path, cid: str = "7") -> list[str]:
    return ["--socket", str(directory / "vu.sock"), "--uds-path", str(directory / "v.sock"), "--guest-cid", cid]


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Program]:
    with program(tmp_path, *arguments(tmp_path)) as made:
        wait_for(made.socket.exists)
        yield made


def wait_for(condition: object) -> None:
    end = time.monotonic() + LIMIT
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end
        time.sleep(0.005)


def test_both_sockets_take_a_connection_as_soon_as_they_are_there(running: Program) -> None:
    for path in (running.socket, running.uds):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(path))


def test_a_whole_session_ends_with_exit_code_0_and_nothing_left(running: Program, tmp_path: Path) -> None:
    front = running.front_end()
    front.set_up()
    front.fill()
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(LIMIT)
        client.connect(str(running.uds))
        client.send(b"CONNECT 1024\n")
        request = front.expect(packets.REQUEST)
        Stream(front, (1024, request.header.src_port)).send(packets.RESPONSE)
        assert client.recv(64) == b"OK %d\n" % request.header.src_port
        client.send(b"hello")
        assert front.expect(packets.RW).data == b"hello"
        front.close()
        assert client.recv(1) == b""
    code, error = running.end()
    assert (code, error.splitlines()[-1]) == (0, "vhost-vsock: ends: the front end has left")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_in_order(running: Program, tmp_path: Path, number: signal.Signals) -> None:
    front = running.front_end()
    front.set_up()
    running.process.send_signal(number)
    code, error = running.end()
    assert (code, error.splitlines()[-1]) == (0, f"vhost-vsock: ends: {number.name}")
    assert list(tmp_path.iterdir()) == []


def test_a_visitor_that_says_nothing_is_no_front_end(running: Program) -> None:
    with socket.socket(socket.AF_UNIX) as visitor:
        visitor.connect(str(running.socket))
    front = running.front_end()
    front.set_up()
    front.close()
    assert running.end()[0] == 0


def test_a_second_front_end_is_refused_and_the_first_stays(running: Program) -> None:
    front = running.front_end()
    front.ask(protocol.Request.GET_FEATURES)
    with socket.socket(socket.AF_UNIX) as second:
        second.settimeout(LIMIT)
        second.connect(str(running.socket))
        assert second.recv(1) == b""
    front.set_up()


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (protocol.HEADER.pack(1, 2, 0), "GET_FEATURES: protocol version 2"),
        (protocol.HEADER.pack(1, 5, 0), "GET_FEATURES: a reply"),
        (protocol.HEADER.pack(5, 1, 0xFFFFFFFF), "SET_MEM_TABLE: payload of 4294967295 bytes"),
        (protocol.HEADER.pack(8, 1, 8) + b"\xff" * 8, "SET_VRING_NUM: ring 4294967295 of 3"),
        (protocol.HEADER.pack(8, 1, 8) + b"\0\0\0\0\3\0\0\0", "SET_VRING_NUM: ring 0 of 3 descriptors"),
        (protocol.HEADER.pack(12, 1, 8) + b"\0" * 8, "SET_VRING_KICK: payload 0x0 with 0 file descriptors"),
        (protocol.HEADER.pack(2, 1, 8) + b"\xff" * 8, "SET_FEATURES: features"),
    ],
)
def test_a_malformed_message_ends_it_with_the_reason(
    running: Program, tmp_path: Path, message: bytes, reason: str
) -> None:
    running.front_end().sock.send(message)
    code, error = running.end()
    assert code == 2
    assert "Traceback" not in error
    assert f"the front end broke the protocol: {reason}" in error.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []


def test_half_a_message_hurts_nobody(running: Program) -> None:
    front = running.front_end()
    front.sock.send(protocol.HEADER.pack(8, 1, 8) + b"\0\0")
    time.sleep(0.05)
    front.sock.send(b"\0\0\0\1\0\0")
    front.set_up()


def test_an_unknown_request_is_answered_as_refused(running: Program) -> None:
    front = running.front_end()
    front.set_up()
    assert front.ask(99, ack=True) == protocol.pack_u64(1)
    assert front.ask(protocol.Request.GET_QUEUE_NUM) == protocol.pack_u64(3)
    front.close()
    assert "refused: request 99: not supported" in running.end()[1]


def test_no_descriptor_of_a_message_is_kept(running: Program) -> None:
    front = running.front_end()
    front.set_up()
    directory = Path(f"/proc/{running.process.pid}/fd")
    before = sum(1 for _ in directory.iterdir())
    for _ in range(5):
        front.set_memory()
        front.tell(protocol.Request.SET_VRING_CALL, protocol.pack_u64(0), [front.rx.call_fd])
        front.ask(99, fds=[front.memfd] * 3, ack=True)
    assert sum(1 for _ in directory.iterdir()) == before


def test_it_is_idle_when_nothing_happens(running: Program) -> None:
    front = running.front_end()
    front.set_up()
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(running.uds))  # a client that says nothing, and a guest without receive buffers
        ticks = cpu_ticks(running.process.pid)
        time.sleep(0.3)
        assert cpu_ticks(running.process.pid) - ticks <= 1


def cpu_ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def test_a_stale_socket_is_replaced(tmp_path: Path) -> None:
    for name in ("vu.sock", "v.sock"):
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(str(tmp_path / name))
    old = (tmp_path / "vu.sock").stat().st_ino
    with program(tmp_path, *arguments(tmp_path)) as made:
        wait_for(lambda: made.socket.exists() and made.socket.stat().st_ino != old)
        FrontEnd.set_up(made.front_end())


def test_a_socket_in_use_is_left_alone(running: Program, tmp_path: Path) -> None:
    with program(tmp_path, *arguments(tmp_path)) as second:
        code, error = second.end()
    assert (code, "in use" in error) == (1, True)
    running.front_end().set_up()


def test_a_file_in_the_way_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "vu.sock").write_text("precious")
    with program(tmp_path, *arguments(tmp_path)) as made:
        code, error = made.end()
    assert (code, "is not a socket" in error) == (1, True)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("vu.sock", "precious")]


@pytest.mark.parametrize("cid", ["2", "4294967295", "-1"])
def test_an_impossible_cid_is_refused(tmp_path: Path, cid: str) -> None:
    with program(tmp_path, *arguments(tmp_path, cid)) as made:
        code, error = made.end()
    assert (code, f"guest CID {cid}" in error) == (1, True)


def test_a_path_too_long_for_a_socket_is_refused(tmp_path: Path) -> None:
    with program(tmp_path, *arguments(tmp_path / ("x" * 100))) as made:
        code, error = made.end()
    assert (code, "longer than" in error) == (1, True)


def test_a_missing_directory_is_refused(tmp_path: Path) -> None:
    with program(tmp_path, *arguments(tmp_path / "missing")) as made:
        code, error = made.end()
    assert (code, "can't listen at" in error, "No such file" in error) == (1, True, True)


def test_a_path_that_is_no_longer_ours_is_not_removed(running: Program) -> None:
    running.socket.unlink()
    running.socket.write_text("another's")
    running.process.terminate()
    assert running.end()[0] == 0
    assert running.socket.read_text() == "another's"
