"""What a guest can take of the host's file system and of its descriptors, and what is said of it at the start."""

import ctypes
import errno
import os
import resource
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from guestforge.arch import lookup
from guestforge.testing.fuse_client import Client, FuseError, failing
from guestforge.vhost.fs.fuse import space
from guestforge.vhost.fs.fuse.server import FuseServer
from guestforge.vhost.fs.fuse.space import MIB, Quota
from tests.unit.test_vhost_fs_program import LOOKUP, Program, program, running
from tests.unit.test_vhost_program import arguments, wait_for
from tests.unit.test_vhost_program import program as vsock

SIZE = 64 * MIB
QUOTA = Quota(reserve=1024 * MIB)  # a twentieth, as the file system is small
KEPT = SIZE // 20
# include/uapi/linux/prctl.h, capability.h
PR_CAPBSET_DROP, CAP_SYS_RESOURCE = 24, 24


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 MiB and 2000 files."""
    place = tmp_path / "small"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE},nr_inodes=2000", "small", str(place)]
    if os.geteuid() or subprocess.run(mount, check=False).returncode:
        pytest.skip("needs the right to mount")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def client_of(place: Path, quota: Quota | None = QUOTA, **more: object) -> Client:
    client = Client(FuseServer(place, lookup("x86_64"), quota=quota, **more))  # type: ignore[arg-type]
    client.init()
    return client


def free(place: Path) -> int:
    status = os.statvfs(place)
    return status.f_bavail * status.f_frsize


def fill(call: Callable[[int], object]) -> int:
    """Call with a number until there is no room; return the number of calls that were done."""
    for number in range(100_000):
        try:
            call(number)
        except FuseError as error:
            assert error.errno == errno.ENOSPC
            return number
    raise AssertionError("it never ends")


@pytest.mark.parametrize("way", ["fallocate", "write", "append", "hole", "copy", "many", "unlinked"])
def test_a_reserve_stays_free_whatever_allocates(small: Path, way: str) -> None:
    client = client_of(small)
    made = client.create(b"f", "O_RDWR", *(["O_APPEND"] if way == "append" else []))
    block = bytes(64 * 1024)
    if way == "copy":
        client.write(made.fh, 0, block)
        fill(lambda number: client.copy_file_range(made.fh, 0, made.fh, (number + 1) * len(block), len(block)))
    elif way == "hole":
        client.setattr(made.node, 1 << 3, size=4 * SIZE)
        fill(lambda number: client.write(made.fh, number * len(block), block))
    elif way == "many":
        fill(lambda number: client.write(client.create(b"n%d" % number, "O_RDWR").fh, 0, block * 8))
    elif way == "fallocate":
        with failing(errno.ENOSPC):
            client.fallocate(made.fh, 0, free(small))
        fill(lambda number: client.fallocate(made.fh, number * MIB, MIB))
    else:
        if way == "unlinked":
            client.unlink(b"f")
        fill(lambda number: client.write(made.fh, number * len(block), block))
    assert KEPT - MIB <= free(small) <= KEPT + 2 * MIB
    assert free(small) >= KEPT - 64 * 1024  # tmpfs' own
    if way == "write":
        client.write(made.fh, 100, b"in the place of what is there")
    if way in ("write", "unlinked"):
        client.setattr(made.node, 1 << 3 | 1 << 6, fh=made.fh, size=0)
        client.write(made.fh, 0, block)
    client.server.close()


@pytest.mark.parametrize("way", ["create", "mkdir", "symlink", "mknod", "tmpfile"])
def test_a_reserve_of_inodes_stays_free(small: Path, way: str) -> None:
    client = client_of(small)
    make = {
        "create": lambda number: client.create(b"n%d" % number, "O_RDWR"),
        "mkdir": lambda number: client.mkdir(b"n%d" % number),
        "symlink": lambda number: client.symlink(b"n%d" % number, b"there"),
        "mknod": lambda number: client.mknod(b"n%d" % number, 0o100644),
        "tmpfile": lambda _: client.create(b"", "O_RDWR", opcode=51),
    }[way]
    assert 1800 < fill(make) <= 1900
    assert os.statvfs(small).f_favail in range(99, 103)
    client.server.close()


def test_a_limit_of_bytes_and_of_files(small: Path) -> None:
    client = client_of(small, Quota(max_bytes=8 * MIB, max_files=50))
    made = client.create(b"f", "O_RDWR")
    assert 110 <= fill(lambda number: client.write(made.fh, number * 65536, bytes(65536))) <= 128
    client.setattr(made.node, 1 << 3 | 1 << 6, fh=made.fh, size=0)
    assert 45 <= fill(lambda number: client.mkdir(b"d%d" % number)) <= 50
    client.server.close()


def test_the_file_system_is_not_asked_for_every_write(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client, asked = client_of(small), []
    look = os.fstatvfs
    monkeypatch.setattr(space.os, "fstatvfs", lambda descriptor: (asked.append(descriptor), look(descriptor))[1])
    monkeypatch.setattr(space, "LOOK", 3600)
    made = client.create(b"f", "O_RDWR")
    for number in range(200):
        client.write(made.fh, number * 4096, bytes(4096))
    assert len(asked) <= 2
    client.server.close()


def test_a_guest_of_a_read_only_share_flushes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("guestforge.vhost.fs.fuse.files.host_syncfs", lambda _: pytest.fail("flushed"))
    client = client_of(tmp_path, read_only=True)
    assert client.call(50, 1, bytes(8)) == b""
    client.server.close()


def test_a_guest_knows_no_more_files_than_it_may(tmp_path: Path) -> None:
    for number in range(20):
        (tmp_path / f"f{number}").touch()
    client = client_of(tmp_path, max_inodes=10)
    known = [client.lookup(b"f%d" % number).node for number in range(9)]
    with failing(errno.ENFILE):
        client.lookup(b"f9")
    client.forget(known[0], 1)
    client.lookup(b"f9")
    client.server.close()


# What is said at the start


def few_descriptors(count: int) -> Callable[[], None]:
    """Return what limits a child's open files, without the right to more."""

    def limit() -> None:
        ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, CAP_SYS_RESOURCE, 0, 0, 0)
        resource.setrlimit(resource.RLIMIT_NOFILE, (count, count))

    return limit


def test_the_limits_are_said_at_the_start(tmp_path: Path) -> None:
    share = tmp_path / "share"
    share.mkdir()
    with running(share, "x86_64", "--max-nodes=1000", "--reserve=1", "--max-bytes=3M", "--max-files=7") as made:
        guest = made.front_end()
        guest.init()
        guest.front.close()
        line = made.end()[1].splitlines()[0]
    assert "vhost-fs: limits: " in line
    assert "1000 files that the guest knows" in line
    assert "7 files are left for the guest" in line or "btrfs" in line


@pytest.mark.parametrize("text", ["3X", "M", "-1", ""])
def test_a_number_that_is_none_is_told(tmp_path: Path, text: str) -> None:
    arguments = (f"--socket={tmp_path / 's'}", f"--shared-dir={tmp_path}", "--guest-arch=x86_64", f"--max-bytes={text}")
    with program(*arguments) as process:
        _, error = process.communicate(timeout=20)
    assert process.returncode == 1
    assert "not a number of bytes" in error


def test_few_descriptors_are_told_of_and_leave_some_for_what_is_open(tmp_path: Path) -> None:
    share = tmp_path / "share"
    share.mkdir()
    for number in range(2000):
        (share / f"f{number}").touch()
    path = tmp_path / "fs.sock"
    arguments = (f"--socket={path}", f"--shared-dir={share}", "--guest-arch=x86_64")
    with program(*arguments, preexec_fn=few_descriptors(2048)) as process:
        guest = Program(process, path).front_end()
        guest.init()
        nodes, errors = [guest.lookup(f"f{number}") for number in range(1500)], set()
        for number in range(1500, 2000):
            errors.add(guest.call(LOOKUP, b"f%d\0" % number)[0])
        assert errors == {0, errno.ENFILE}
        for node in nodes[:200]:  # what it knows it can open
            guest.open(node, os.O_RDWR)
        guest.front.close()
        _, error = process.communicate(timeout=20)
    assert "at most 2048 files can be open here (ulimit -n)" in error
    assert "above 1536 it gets ENFILE" in error
    assert "Raise the hard limit to 1048576" in error


def test_few_descriptors_of_the_vsock_device_are_told_of(tmp_path: Path) -> None:
    with vsock(tmp_path, *arguments(tmp_path), preexec_fn=few_descriptors(512)) as made:
        wait_for(made.socket.exists)
        made.process.terminate()
        code, error = made.end()
    assert code == 0
    assert "limits: 512 open files, 1024 connections" in error
    assert "at most 512 files can be open here (ulimit -n)" in error


def test_too_few_descriptors_are_an_error(tmp_path: Path) -> None:
    arguments = (f"--socket={tmp_path / 's'}", f"--shared-dir={tmp_path}", "--guest-arch=x86_64")
    with program(*arguments, preexec_fn=few_descriptors(200)) as process:
        _, error = process.communicate(timeout=20)
    assert process.returncode == 1
    assert "200 open files are too few" in error
