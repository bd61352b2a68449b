"""Which inode numbers a guest is shown: programs take two files of one device and number for one file."""

import contextlib
import itertools
import os
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guestforge.arch import ARCHES
from guestforge.testing.fuse_client import ROOT, Client
from guestforge.vhost.fs.fuse import inode_numbers
from guestforge.vhost.fs.fuse.inode_numbers import InodeNumbers
from guestforge.vhost.fs.fuse.server import FuseServer


@contextlib.contextmanager
def mounted(*arguments):
    if subprocess.run(["mount", *arguments], capture_output=True, check=False).returncode:
        pytest.skip("no mounts here")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", arguments[-1]], check=True)


@pytest.fixture
def share(tmp_path):
    """Two file systems below a third, with equal files; the first a second time; and a file of the second."""
    share = tmp_path / "share"
    with contextlib.ExitStack() as stack:
        for name in ("m1", "m2", "again"):
            (share / name).mkdir(parents=True)
        for name in ("m1", "m2"):
            stack.enter_context(mounted("-t", "tmpfs", name, str(share / name)))
            (share / name / "d").mkdir()
            for place in (share / name, share / name / "d"):
                (place / "f").write_text(name)
                (place / "g").hardlink_to(place / "f")
        (share / "f").write_text("top")
        (share / "file").touch()
        stack.enter_context(mounted("--bind", str(share / "m1"), str(share / "again")))
        stack.enter_context(mounted("--bind", str(share / "m2" / "d" / "f"), str(share / "file")))
        yield share


def walk(client, node=ROOT, path=b"."):
    """Yield each path with its attributes and the number that its directory tells, with both kinds of readdir."""
    plain = {row[4]: row[1] for row in client.readdir(client.opendir(node), 0, 65536)}
    for about, told, _, _, name in client.readdir(client.opendir(node), 0, 65536, plus=True):
        if name in (b".", b".."):
            if name == b".":
                assert plain[name] == told == client.getattr(node).ino
            continue
        found = client.lookup(name, node)
        assert found.attr.ino == about.attr.ino == told == client.statx(found.node).ino
        yield os.path.join(path, name), found.attr.ino, plain[name]  # noqa: PTH118 - bytes
        if found.attr.mode >> 12 == 4:
            yield from walk(client, found.node, os.path.join(path, name))  # noqa: PTH118


def test_numbers_are_equal_where_files_are_the_same_and_only_there(share):
    server = FuseServer(share, ARCHES["x86_64"])
    try:
        client = Client(server, "<", "generic", os.getuid(), os.getgid())
        client.init()
        rows = list(walk(client))
        client.init()  # a new session: numbers stay
        assert list(walk(client)) == rows
    finally:
        server.close()
    assert len(rows) == 20
    hosts = {path: os.stat(share / os.fsdecode(path)) for path, _, _ in rows}  # noqa: PTH116
    for (a, shown_a, _), (b, shown_b, _) in itertools.combinations(rows, 2):
        same = (hosts[a].st_dev, hosts[a].st_ino) == (hosts[b].st_dev, hosts[b].st_ino)
        assert (shown_a == shown_b) == same, (a, b)
    for path, shown, told in rows:
        if hosts[path].st_dev == share.stat().st_dev:
            assert shown == hosts[path].st_ino
        if not os.path.ismount(share / os.fsdecode(path)):
            assert told == shown


NUMBERS = (
    st.integers(0, 2**64 - 1) | st.integers(0, 100) | st.integers(2**50 - 2, 2**50 + 2) | st.integers(2**63, 2**64 - 1)
)


@given(st.lists(st.tuples(st.integers(0, 5), NUMBERS), max_size=60), st.integers(0, 5))
def test_any_numbers_stay_apart_and_the_same(files, most):
    table = InodeNumbers(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inode_numbers, "MAX_DEVICES", most)
        shown = {file: table.shown(*file) for file in files}
        assert {file: table.shown(*file) for file in reversed(files)} == shown
    assert len(set(shown.values())) == len(shown)
    assert all(0 <= number < 2**64 for number in shown.values())
    assert all(number == inode for (device, inode), number in shown.items() if device == 0 and inode < 2**63)


def test_the_table_of_file_systems_is_bounded():
    table = InodeNumbers(0)
    count = inode_numbers.MAX_DEVICES + 1000
    assert len({table.shown(device, 7) for device in range(1, count + 1)}) == count
    assert len(table._numbers) == inode_numbers.MAX_DEVICES
