"""The virtio-fs device as a program with the real file server, driven by a front end in either byte order."""

import contextlib
import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from guestforge.testing.fs_frontend import HIPRIO, FsFrontEnd, message, until

REPOSITORY = Path(__file__).parents[2]
LIMIT = 10.0  # seconds

# include/uapi/linux/fuse.h
LOOKUP, FORGET, OPEN, READ, INIT = 1, 2, 14, 15, 26
SETLK, SETLKW = 32, 33
F_WRLCK, F_UNLCK = 1, 2
ENOENT = 2
ORDERS = {"x86_64": "<", "aarch64": "<", "ppc64le": "<", "s390x": ">"}


@dataclass
class Program:
    process: "subprocess.Popen[str]"
    socket: Path
    fronts: list[FsFrontEnd] = field(default_factory=list)

    def front_end(self, order: str = "<") -> "Guest":
        sock = socket.socket(socket.AF_UNIX)
        until(lambda: sock.connect_ex(str(self.socket)) == 0)
        front = FsFrontEnd(sock, lambda: time.sleep(0.0005))
        self.fronts.append(front)
        front.set_up()
        return Guest(front, order)

    def close(self) -> None:
        """Let the front ends leave, those that have not."""
        for front in self.fronts:
            front.close()

    def end(self) -> tuple[int, str]:
        """Return exit code and standard error, after the program has ended by itself."""
        _, error = self.process.communicate(timeout=LIMIT)
        return self.process.returncode, error


@dataclass
class Guest:
    """Speaks FUSE as a guest of a byte order."""

    front: FsFrontEnd
    order: str
    unique: int = 0

    def request(self, opcode: int, body: bytes = b"", node: int = 1) -> bytes:
        self.unique += 2
        return message(opcode, body, unique=self.unique, node=node, order=self.order)

    def call(self, opcode: int, body: bytes = b"", node: int = 1, room: int = 4096) -> tuple[int, bytes]:
        """Return error and body of the reply."""
        return self.parse(self.front.call(self.request(opcode, body, node), room))

    def parse(self, reply: bytes) -> tuple[int, bytes]:
        size, error, unique = struct.unpack_from(f"{self.order}IiQ", reply)
        assert (size, unique) == (len(reply), self.unique)
        return -error, reply[16:]

    def init(self) -> tuple[int, ...]:
        error, body = self.call(INIT, struct.pack(f"{self.order}4I48x", 7, 38, 131072, 0xFFFF_FFFF & ~(1 << 30)))
        assert error == 0
        return struct.unpack_from(f"{self.order}II", body)

    def lookup(self, name: str, node: int = 1) -> int:
        error, body = self.call(LOOKUP, name.encode() + b"\0", node)
        assert error == 0
        return int(struct.unpack_from(f"{self.order}Q", body)[0])

    def open(self, node: int, flags: int) -> int:
        error, body = self.call(OPEN, struct.pack(f"{self.order}II", flags, 0), node)
        assert error == 0
        return int(struct.unpack_from(f"{self.order}Q", body)[0])

    def read(self, node: int, handle: int, size: int) -> bytes:
        arguments = struct.pack(f"{self.order}QQIIQII", handle, 0, size, 0, 0, 0, 0)
        error, body = self.call(READ, arguments, node, room=16 + size)
        assert error == 0
        return body

    def lock(self, handle: int, owner: int, kind: int) -> bytes:
        """Return the arguments of SETLK and SETLKW for a whole file."""
        return struct.pack(f"{self.order}QQQQIIII", handle, owner, 0, 2**63 - 1, kind, 1, 0, 0)


@contextlib.contextmanager
def program(*arguments: str, **more: object) -> Iterator["subprocess.Popen[str]"]:
    made = subprocess.Popen(
        [sys.executable, "-m", "guestforge.vhost.fs", *arguments],
        cwd=REPOSITORY, stderr=subprocess.PIPE, text=True, **more,
    )  # type: ignore[call-overload]  # fmt: skip
    try:
        yield made
    finally:
        made.kill()
        made.communicate()


@pytest.fixture
def share(tmp_path: Path) -> Path:
    share = tmp_path / "share"
    share.mkdir()
    (share / "file").write_text("for guests")
    return share


@contextlib.contextmanager
def running(share: Path, arch: str = "x86_64", *more: str) -> Iterator[Program]:
    path = share.parent / "fs.sock"
    arguments = ("--socket", str(path), "--shared-dir", str(share), "--guest-arch", arch, *more)
    with program(*arguments) as process, contextlib.closing(Program(process, path)) as made:
        yield made


@pytest.mark.parametrize(("arch", "order"), ORDERS.items())
def test_a_guest_reads_a_file_in_its_own_byte_order(share: Path, arch: str, order: str) -> None:
    with running(share, arch) as made:
        guest = made.front_end(order)
        assert guest.init()[0] == 7
        node = guest.lookup("file")
        assert guest.read(node, guest.open(node, os.O_RDONLY), 100) == b"for guests"
        assert guest.call(LOOKUP, b"none\0")[0] == ENOENT
        forget = guest.request(FORGET, struct.pack(f"{order}Q", 1), node)
        assert guest.front.call(forget, room=0, ring=HIPRIO) == b""
        guest.front.close()
        code, error = made.end()
        assert (code, error.splitlines()[-1]) == (0, "vhost-fs: ends: the front end has left")
    assert sorted(path.name for path in share.parent.iterdir()) == ["share"]


def test_a_lock_that_is_waited_for_holds_nobody_up(share: Path) -> None:
    with running(share) as made:
        guest = made.front_end()
        guest.init()
        node = guest.lookup("file")
        handle = guest.open(node, os.O_RDWR)
        assert guest.call(SETLK, guest.lock(handle, 1, F_WRLCK), node)[0] == 0
        other = guest.open(node, os.O_RDWR)
        head = guest.front.submit(guest.request(SETLKW, guest.lock(other, 2, F_WRLCK), node))
        waiting = guest.unique
        for _ in range(20):
            assert guest.read(node, handle, 100) == b"for guests"
        unlock = guest.front.submit(guest.request(SETLK, guest.lock(handle, 1, F_UNLCK), node))
        got: dict[int, bytes] = {}
        guest.front.wait(lambda: got.update(guest.front.replies()) or len(got) == 2)
        assert struct.unpack_from("<IiQ", got[head]) == (16, 0, waiting)
        assert struct.unpack_from("<IiQ", got[unlock]) == (16, 0, guest.unique)


def test_it_ends_though_a_request_blocks(share: Path) -> None:
    with running(share) as made:
        guest = made.front_end()
        guest.init()
        node = guest.lookup("file")
        handle, other = guest.open(node, os.O_RDWR), guest.open(node, os.O_RDWR)
        assert guest.call(SETLK, guest.lock(handle, 1, F_WRLCK), node)[0] == 0
        guest.front.submit(guest.request(SETLKW, guest.lock(other, 2, F_WRLCK), node))
        time.sleep(0.05)
        guest.front.close()
        assert made.end()[0] == 0


def test_a_guest_that_is_reset_begins_anew(share: Path) -> None:
    with running(share) as made:
        guest = made.front_end()
        guest.init()
        node = guest.lookup("file")
        guest.front.reset()
        assert guest.front.call(guest.request(LOOKUP, b"file\0")) == b""  # no INIT yet
        guest.init()
        assert guest.lookup("file") > 0
        assert node > 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_it_in_order(share: Path, number: signal.Signals) -> None:
    with running(share) as made:
        made.front_end().init()
        made.process.send_signal(number)
        code, error = made.end()
        assert (code, error.splitlines()[-1]) == (0, f"vhost-fs: ends: {number.name}")
    assert sorted(path.name for path in share.parent.iterdir()) == ["share"]


def test_it_listens_at_an_inherited_descriptor(share: Path) -> None:
    path = share.parent / "fs.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(1)
        fd = listener.fileno()
        with program(f"--fd={fd}", f"--shared-dir={share}", "--guest-arch=x86_64", pass_fds=(fd,)) as process:
            made = Program(process, path)
            guest = made.front_end()
            guest.init()
            guest.front.close()
            assert made.end()[0] == 0
    assert path.exists()  # it is not ours to remove


def test_read_only_is_read_only(share: Path) -> None:
    with running(share, "x86_64", "--read-only") as made:
        guest = made.front_end()
        guest.init()
        node = guest.lookup("file")
        assert guest.call(OPEN, struct.pack("<II", os.O_RDWR, 0), node)[0] == 30  # EROFS
        assert guest.read(node, guest.open(node, os.O_RDONLY), 100) == b"for guests"


def test_noise_instead_of_fuse_ends_nothing(share: Path) -> None:
    with running(share) as made:
        guest = made.front_end()
        for noise in (bytes(40), b"\xff" * 40, os.urandom(400), message(LOOKUP, b"no NUL")):
            guest.front.call(noise)
        guest.init()
        assert guest.lookup("file") > 0


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"--shared-dir": "/nowhere"}, "--shared-dir /nowhere: there is no such directory"),
        ({"--guest-arch": "vax"}, "unknown architecture 'vax'"),
        ({"--socket": "/nowhere/fs.sock"}, "can't listen at /nowhere/fs.sock: No such file or directory"),
        ({"--tag": "t" * 37}, "a tag has at most 36 bytes"),
    ],
)
def test_what_makes_no_sense_is_told(share: Path, change: dict[str, str], said: str) -> None:
    options = {"--socket": str(share.parent / "s"), "--shared-dir": str(share), "--guest-arch": "x86_64"} | change
    with program(*(f"{name}={value}" for name, value in options.items())) as process:
        code, error = Program(process, share).end()
        assert (code, "Traceback" in error) == (1, False)
        assert said in error


@pytest.mark.parametrize("descriptor", ["0", "99"])
def test_a_descriptor_that_is_no_listening_socket_is_told(share: Path, descriptor: str) -> None:
    with program(
        f"--fd={descriptor}", f"--shared-dir={share}", "--guest-arch=x86_64", stdin=subprocess.DEVNULL
    ) as process:
        code, error = Program(process, share).end()
        assert code == 1
        assert f"descriptor {descriptor} is n" in error


@pytest.fixture
def open_share() -> Iterator[Path]:
    """A share that all users of the host get to."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as made:
        Path(made).chmod(0o755)
        (Path(made) / "share").mkdir()
        yield Path(made) / "share"


@pytest.mark.parametrize("more", [("--allow-exposed",), ("--read-only",)])
def test_an_exposed_share_is_served_where_that_is_allowed(open_share: Path, more: tuple[str, ...]) -> None:
    with running(open_share, "x86_64", *more) as made:
        assert made.front_end().init()[0] == 7
        made.close()
        code, error = made.end()
    assert code == 0
    assert ("exposed: a guest may open it to all users" in error) == (more == ("--allow-exposed",))


def test_an_exposed_share_is_not_served_as_root(open_share: Path) -> None:
    with running(open_share) as made:
        if os.geteuid() == 0:
            code, error = made.end()
            assert code == 1
            assert f"share {open_share}: a guest may open it to all users of this host" in error
            assert "--allow-exposed" in error
        else:
            assert made.front_end().init()[0] == 7
    assert not (open_share.parent / "fs.sock").exists()
