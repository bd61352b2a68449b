"""Descriptors that nobody reads: standard error, and those that the front end gives."""

import contextlib
import fcntl
import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from guestforge.testing.fs_frontend import REQUESTS, until
from guestforge.vhost.core import protocol
from guestforge.vhost.core.protocol import Request
from tests.unit.test_vhost_fs_program import LOOKUP, Guest, Program

REPOSITORY = Path(__file__).parents[2]
SHORT = bytes(39)  # a request that makes a line in the log


@contextlib.contextmanager
def device(tmp_path: Path, **more: object) -> Iterator[tuple[Program, Guest]]:
    """A device with a guest, its standard error where the test wants it."""
    share = tmp_path / "share"
    share.mkdir()
    (share / "file").write_text("for guests")
    path = tmp_path / "fs.sock"
    arguments = ("--socket", str(path), "--shared-dir", str(share), "--guest-arch", "x86_64")
    process = subprocess.Popen([sys.executable, "-m", "guestforge.vhost.fs", *arguments], cwd=REPOSITORY, **more)  # type: ignore[call-overload]
    made = Program(process, path)
    try:
        guest = made.front_end()
        guest.init()
        yield made, guest
    finally:
        made.close()
        process.kill()
        process.wait()


def serves_and_ends(made: Program, guest: Guest) -> None:
    """Have lines made, more than the log lets through at once; then it must still serve, and end when it is told."""
    for _ in range(60):
        guest.front.call(SHORT)
    assert guest.lookup("file") > 0
    made.process.send_signal(signal.SIGTERM)
    assert made.process.wait(20) == 0


@pytest.fixture
def small_pipe() -> Iterator[tuple[int, int]]:
    read, write = os.pipe()
    fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, 4096)
    yield read, write
    for fd in (read, write):
        with contextlib.suppress(OSError):
            os.close(fd)


def test_a_full_standard_error_stops_nothing(tmp_path: Path, small_pipe: tuple[int, int]) -> None:
    _, write = small_pipe
    os.write(write, bytes(4096))
    with device(tmp_path, stderr=write) as (made, guest):
        serves_and_ends(made, guest)
    assert os.get_blocking(write)  # the description is shared: it is not for us to change


def test_what_was_left_out_is_told_when_there_is_room_again(tmp_path: Path, small_pipe: tuple[int, int]) -> None:
    read, write = small_pipe
    os.write(write, bytes(4096))
    with device(tmp_path, stderr=write) as (made, guest):
        guest.front.call(SHORT)
        os.read(read, 4096)
        guest.front.call(SHORT)
        made.process.send_signal(signal.SIGTERM)
        assert made.process.wait(20) == 0
    lines = os.read(read, 4096).decode().splitlines()
    assert " pieces of text left out here" in lines[0]
    assert "request of 39 bytes" in lines[1]
    assert lines[-1] == "vhost-fs: ends: SIGTERM"


def test_a_reader_that_has_gone_ends_nothing(tmp_path: Path, small_pipe: tuple[int, int]) -> None:
    read, write = small_pipe
    with device(tmp_path, stderr=write) as (made, guest):
        guest.front.call(SHORT)
        os.close(read)
        os.close(write)
        serves_and_ends(made, guest)


@pytest.mark.parametrize("closed", ["2>&-", "0<&- 1>&- 2>&-"])
def test_a_closed_standard_error_ends_nothing_and_no_file_gets_the_lines(tmp_path: Path, closed: str) -> None:
    share = tmp_path / "share"
    share.mkdir()
    (share / "file").write_text("for guests")
    path = tmp_path / "fs.sock"
    command = f'exec "$0" -m guestforge.vhost.fs --socket {path} --shared-dir {share} --guest-arch x86_64 {closed}'
    process = subprocess.Popen(["sh", "-c", command, sys.executable], cwd=REPOSITORY)
    made = Program(process, path)  # type: ignore[arg-type]
    try:
        guest = made.front_end()
        guest.init()
        number = Path(f"/proc/{process.pid}/fd/2")
        assert number.readlink() == Path(os.devnull)
        serves_and_ends(made, guest)
    finally:
        made.close()
        process.kill()
        process.wait()


@pytest.mark.parametrize("terminal", ["stopped", "gone"])
def test_a_terminal_that_takes_nothing_stops_nothing(tmp_path: Path, terminal: str) -> None:
    ours, theirs = os.openpty()
    with device(tmp_path, stderr=theirs) as (made, guest):
        if terminal == "gone":
            os.close(ours)
        else:
            os.set_blocking(theirs, False)
            with contextlib.suppress(BlockingIOError):
                while True:
                    os.write(theirs, bytes(512))
            os.set_blocking(theirs, True)
        serves_and_ends(made, guest)
        assert os.get_blocking(theirs)


@pytest.mark.parametrize("message", [Request.SET_VRING_CALL, Request.SET_VRING_ERR])
@pytest.mark.parametrize("kind", ["eventfd", "pipe", "closed pipe"])
def test_a_descriptor_that_is_full_stops_nothing(tmp_path: Path, message: Request, kind: str) -> None:
    """One that the front end gave to be told by, blocking, and does not read."""
    with device(tmp_path, stderr=subprocess.DEVNULL) as (made, guest):
        other = -1
        if kind == "eventfd":
            fd = os.eventfd(0xFFFF_FFFF_FFFF_FFFE & 0xFFFF_FFFF)
            os.eventfd_write(fd, 0xFFFF_FFFF_FFFF_FFFE - 0xFFFF_FFFE)
        else:
            other, fd = os.pipe()
            fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, 4096)
            os.write(fd, bytes(4096))
        guest.front.tell(message, protocol.pack_u64(REQUESTS), [fd])
        if kind == "closed pipe":
            os.close(other)
        if message == Request.SET_VRING_CALL:
            assert guest.call(LOOKUP, b"file\0")[0] == 0
        else:
            guest.front.rings[REQUESTS].add_parts([(1, 40, 0)])  # nothing is there: the ring breaks, which is reported
            time.sleep(0.1)
            bases = struct.Struct("=II")
            guest.front.ask(Request.GET_VRING_BASE, bases.pack(REQUESTS, 0))
        made.process.send_signal(signal.SIGTERM)
        until(lambda: made.process.poll() is not None, 20)
        assert made.process.returncode == 0
