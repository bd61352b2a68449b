"""Ways to a guest's port, and waiting for its agent, over real sockets."""

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from guestforge.agent.errors import ConnectError, NotReadyError
from guestforge.agent.proto.health_pb2 import HealthCheckResponse, VersionCheckResponse
from guestforge.agent.ready import wait_ready
from guestforge.agent.transport import hybrid_connect, unix_connect, vsock_connect
from guestforge.testing.fake_agent import FakeAgent, Program
from guestforge.testing.ttrpc_server import Server, read_exactly

SOON = 2.0


@contextlib.contextmanager
def listening(path: Path, serve: Callable[[socket.socket], None]) -> Iterator[None]:
    """A Unix socket; each connection is handed to `serve` in a thread and closed after it."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(16)
    threads: list[threading.Thread] = []

    def handle(sock: socket.socket) -> None:
        with sock, contextlib.suppress(OSError, EOFError):
            sock.settimeout(SOON)
            serve(sock)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = listener.accept()
                threads.append(threading.Thread(target=handle, args=(sock,)))
                threads[-1].start()

    acceptor = threading.Thread(target=accept)
    acceptor.start()
    try:
        yield
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        for thread in (acceptor, *threads):
            thread.join(SOON * 2)
        listener.close()


def answering(answer: bytes, seen: list[bytes] | None = None) -> Callable[[socket.socket], None]:
    def serve(sock: socket.socket) -> None:
        line = b""
        while not line.endswith(b"\n"):
            line += read_exactly(sock, 1)
        if seen is not None:
            seen.append(line)
        sock.sendall(answer)

    return serve


def test_the_hybrid_socket_is_asked_for_the_port_and_gives_the_guests_stream(tmp_path: Path) -> None:
    seen: list[bytes] = []
    path = tmp_path / "v.sock"
    device = answering(b"OK 1073741824\nthe guest's\nfirst bytes", seen)
    with listening(path, device), hybrid_connect(path, 1024, timeout=SOON) as sock:
        sock.settimeout(SOON)
        assert read_exactly(sock, 23) == b"the guest's\nfirst bytes"
    assert seen == [b"CONNECT 1024\n"]


def test_an_answer_in_pieces_is_waited_for(tmp_path: Path) -> None:
    def slowly(sock: socket.socket) -> None:
        for byte in b"OK 17\n!":
            sock.sendall(bytes([byte]))
            time.sleep(0.005)

    with listening(tmp_path / "v", slowly), hybrid_connect(tmp_path / "v", 1, timeout=SOON) as sock:
        sock.settimeout(SOON)
        assert sock.recv(1) == b"!"


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"", "nobody listens there yet"),
        (b"OK 10", "closed it after b'OK 10'"),
        (b"NO\x1b[2J\n", r"answered 'NO \[2J', not OK"),
        (b"OK\0 5\n", "not OK"),
        (b"O" * 1000, "not OK"),
        (b"\n", "not OK"),
    ],
)
def test_any_other_answer_is_no_connection(tmp_path: Path, answer: bytes, why: str) -> None:
    with listening(tmp_path / "v", answering(answer)), pytest.raises(ConnectError, match=why) as caught:
        hybrid_connect(tmp_path / "v", 1024, timeout=SOON)
    assert caught.value.message.startswith(f"no connection to port 1024 of the guest behind {tmp_path / 'v'}: ")


def test_a_silent_device_is_waited_for_no_longer_than_the_limit(tmp_path: Path) -> None:
    with listening(tmp_path / "v", lambda sock: sock.recv(100) and time.sleep(0.3)):
        start = time.monotonic()
        with pytest.raises(ConnectError, match=r"no answer within 0\.1 s"):
            hybrid_connect(tmp_path / "v", 1024, timeout=0.1)
        assert time.monotonic() - start < SOON


def test_a_path_that_is_missing_too_long_or_not_listened_at_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConnectError, match="No such file"):
        hybrid_connect(tmp_path / "none", 1024, timeout=SOON)
    with pytest.raises(ConnectError, match="too long"):
        unix_connect(tmp_path / ("x" * 200), timeout=SOON)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "dead"))
    with pytest.raises(ConnectError, match="refused"):
        unix_connect(tmp_path / "dead", timeout=SOON)


def test_a_full_backlog_is_waited_for(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener, contextlib.ExitStack() as stack:
        listener.bind(str(tmp_path / "s"))
        listener.listen(0)
        stack.enter_context(unix_connect(tmp_path / "s", timeout=SOON))
        with pytest.raises(ConnectError, match=r"no answer within 0\.1 s"):
            unix_connect(tmp_path / "s", timeout=0.1)
        timer = threading.Timer(0.1, lambda: stack.enter_context(listener.accept()[0]))
        timer.start()
        stack.enter_context(unix_connect(tmp_path / "s", timeout=SOON))
        timer.join()


def test_an_abstract_socket_is_named_with_an_at_sign() -> None:
    name = f"guestforge-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("\0" + name)
        listener.listen()
        unix_connect(f"@{name}", timeout=SOON).close()


def test_a_cid_without_a_guest_is_no_connection() -> None:
    with pytest.raises(ConnectError, match="port 1024 of the guest with CID 4000000000"):
        vsock_connect(4_000_000_000, 1024, timeout=0.2)


# wait_ready


class Booting:
    """An agent behind a hybrid socket that refuses `closed` times, then says each of `statuses`, then SERVING."""

    def __init__(self, closed: int, *statuses: HealthCheckResponse.ServingStatus.ValueType) -> None:
        self.closed = closed
        self.statuses = list(statuses)
        self.dials = 0

    def serve(self, sock: socket.socket) -> None:
        self.dials += 1
        answering(b"OK 5\n" if self.dials > self.closed else b"")(sock)
        if self.dials <= self.closed:
            return
        sock.settimeout(None)
        server = Server(sock.dup(), {"Check": self._check})
        server.join()
        server.close()

    def _check(self, _: bytes) -> HealthCheckResponse:
        serving = HealthCheckResponse.SERVING
        return HealthCheckResponse(status=self.statuses.pop(0) if self.statuses else serving)


def test_a_booting_guest_is_dialled_until_it_serves(tmp_path: Path) -> None:
    before = threading.active_count()
    agent = Booting(3, HealthCheckResponse.NOT_SERVING, HealthCheckResponse.UNKNOWN)
    dial = partial(hybrid_connect, tmp_path / "v", 1024)
    with listening(tmp_path / "v", agent.serve), wait_ready(dial, SOON * 2) as client:
        assert client.check_health()
    assert agent.dials == 6
    assert threading.active_count() == before


def test_an_agent_that_never_serves_ends_at_the_limit_with_the_last_reason(tmp_path: Path) -> None:
    before = threading.active_count()
    agent = Booting(0, *[HealthCheckResponse.NOT_SERVING] * 1000)
    with listening(tmp_path / "v", agent.serve):
        start = time.monotonic()
        # the limit may cut off the attempt that is under way
        with pytest.raises(NotReadyError, match=r"within 1 s; the last attempt: (Health.Check said 2|no connection)"):
            wait_ready(partial(hybrid_connect, tmp_path / "v", 1024), 1.0)
        assert time.monotonic() - start < SOON
    assert threading.active_count() == before


def silent_after_ok(sock: socket.socket) -> None:
    answering(b"OK 5\n")(sock)
    sock.recv(1000)
    sock.recv(1000)


@pytest.mark.alone
@pytest.mark.parametrize(
    "serve",
    [lambda _: None, lambda sock: sock.recv(100) and sock.recv(1), silent_after_ok],
    ids=["closes at once", "does not answer CONNECT", "does not answer Check"],
)
def test_the_machines_end_is_noticed_soon(tmp_path: Path, serve: Callable[[socket.socket], None]) -> None:
    ended: list[float] = []

    def give_up() -> str | None:
        return "QEMU ended with exit code 1" if ended else None

    timer = threading.Timer(0.2, lambda: ended.append(time.monotonic()))
    with listening(tmp_path / "v", serve):
        timer.start()
        with pytest.raises(NotReadyError, match="can't get ready: QEMU ended with exit code 1"):
            wait_ready(partial(hybrid_connect, tmp_path / "v", 1024), 20, give_up)
        assert time.monotonic() - ended[0] < 1.0  # 20 ms here; a loaded machine takes longer, and the limit is 20 s


def test_a_machine_that_has_ended_is_not_dialled(tmp_path: Path) -> None:
    with pytest.raises(NotReadyError, match="gone"):
        wait_ready(partial(hybrid_connect, tmp_path / "none", 1024), 20, lambda: "gone")


def test_the_socket_may_appear_late(tmp_path: Path) -> None:
    path = tmp_path / "v"

    def late() -> None:
        with listening(path, Booting(0).serve):
            gone.wait(SOON)

    gone = threading.Event()
    timer = threading.Timer(0.1, late)
    timer.start()
    with wait_ready(partial(hybrid_connect, path, 1024), SOON) as client:
        assert client.check_health()
    gone.set()
    timer.join()


def test_the_example_in_the_documentation_is_true(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = (Path(__file__).parents[2] / "docs" / "agent-client.md").read_text()
    example = text.partition("```python\n")[2].partition("```")[0]
    assert example.count("/run/guest/v.sock") == 1
    agent = FakeAgent(Program(stdout=[b"hello"], status=3))
    agent.answers["Check"] = HealthCheckResponse(status=HealthCheckResponse.SERVING)
    agent.answers["Version"] = VersionCheckResponse(agent_version="1.2")

    def serve(sock: socket.socket) -> None:
        answering(b"OK 5\n")(sock)
        sock.settimeout(None)
        agent.server = Server(sock.dup(), agent.handlers())
        agent.server.join()
        agent.server.close()

    with listening(tmp_path / "v.sock", serve):
        exec(example.replace("/run/guest/v.sock", str(tmp_path / "v.sock")), {})
    assert capsys.readouterr().out == "1.2 []\n3 hello\n"
    assert agent.methods[:4] == ["Check", "Version", "GetGuestDetails", "CreateSandbox"]
    assert agent.methods[-1] == "DestroySandbox"
