"""The FUSE server, driven without a guest: in every binary interface, by an honest kernel and by a hostile one."""

import contextlib
import errno
import fcntl
import gc
import os
import stat
import struct
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from guestforge.arch import ARCHES
from guestforge.testing.fuse_client import ALL, ROOT, Client, failing
from guestforge.vhost.fs.fuse.abi import layout
from guestforge.vhost.fs.fuse.protocol import Init, Op
from guestforge.vhost.fs.fuse.server import OFFERED, OPERATIONS, FuseServer
from guestforge.vhost.fs.fuse.share import Share
from guestforge.vhost.fs.fuse.space import Quota
from guestforge.vhost.fs.fuse.waiters import MAX_EARLY

ABIS = {
    "little-generic": ("<", "generic"),
    "little-arm64": ("<", "arm64"),
    "little-powerpc": ("<", "powerpc"),
    "big-generic": (">", "generic"),
}
READ, WRITE, UNLOCK = fcntl.F_RDLCK, fcntl.F_WRLCK, fcntl.F_UNLCK
GETLK, SETLK, SETLKW = 31, 32, 33
EVERYWHERE = 0x7FFF_FFFF_FFFF_FFFF


def guest(family):
    return replace(ARCHES["x86_64"], open_flags=family)


def open_files():
    """How many descriptors this process has; what an earlier test left to the collector is not ours."""
    gc.collect()
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


@pytest.fixture
def root(tmp_path):
    (tmp_path / "share").mkdir()
    (tmp_path / "outside").write_text("secret")
    yield tmp_path / "share"
    assert (tmp_path / "outside").read_text() == "secret"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["outside", "share"]


@pytest.fixture(params=list(ABIS))
def abi(request):
    return ABIS[request.param]


@contextlib.contextmanager
def serving(root, abi=("<", "generic"), **options):
    order, family = abi
    server = FuseServer(root, guest(family), **options)
    before = open_files()
    try:
        client = Client(server, order, family, os.getuid(), os.getgid())
        client.init()
        yield client
        server.reset()
        assert open_files() == before  # nothing is left open
    finally:
        server.close()


@pytest.fixture
def client(root, abi):
    with serving(root, abi) as client:
        yield client


@pytest.fixture
def plain(root):
    with serving(root) as client:
        yield client


# sessions


def test_the_byte_order_is_that_of_the_first_message(root, abi):
    server = FuseServer(root, guest(abi[1]))
    client = Client(server, *abi)
    assert client.send(3, ROOT, client.pack("2IQ", 0, 0, 0)) is None  # nobody knows yet how to read it
    major, minor, _, flags, *_, flags2 = client.init()
    assert (major, flags | flags2 << 32) == (7, OFFERED)
    assert minor >= 31
    assert client.getattr(ROOT).ino == root.stat().st_ino
    server.close()


def test_an_older_kernel_gets_what_it_asks_for_and_no_more(plain):
    assert plain.init(minor=31, flags=1 << 22, padded=False)[3] == 1 << 22
    assert plain.init(minor=35, flags=ALL & ~Init.INIT_EXT)[-1] == 0  # its second flags mean nothing
    with failing(errno.EPROTO):
        plain.init(minor=30)
    with failing(errno.EPROTO):
        plain.init(major=6)
    assert plain.init(major=8)[:2] == (7, 39)


def test_a_new_session_knows_nothing_of_the_one_before(plain, root):
    (root / "f").write_text("x")
    node = plain.lookup(b"f").node
    fh = plain.open(node, "O_RDONLY").fh
    plain.init()
    with failing(errno.ESTALE):
        plain.getattr(node)
    with failing(errno.EBADF):
        plain.read(fh, 0, 1)


def test_what_is_not_there_is_enosys(plain):
    for opcode in (37, 39, 40, 48, 49, 99):  # BMAP, IOCTL, POLL, SETUPMAPPING, REMOVEMAPPING
        with failing(errno.ENOSYS):
            plain.call(opcode, ROOT, bytes(64))


# an honest kernel


def test_file_is_made_written_read_and_seen_by_the_host(client, root):
    made = client.create(b"f", "O_RDWR", "O_LARGEFILE", mode=0o640)
    assert client.write(made.fh, 5, b"content") == 7
    assert client.read(made.fh, 0, 100) == b"\0" * 5 + b"content"
    assert client.read(made.fh, 8, 2) == b"te"
    assert client.read(made.fh, 50, 10) == b""
    assert (root / "f").read_bytes() == b"\0" * 5 + b"content"
    found = client.getattr(made.node)
    assert (found.size, stat.S_IMODE(found.mode), found.nlink) == (12, 0o640, 1)
    assert found.ino == (root / "f").stat().st_ino
    client.flush(made.fh)
    client.fsync(made.fh)
    client.release(made.fh)
    with failing(errno.EBADF):
        client.read(made.fh, 0, 1)


@pytest.mark.parametrize("pieces", [[1] * 90, [39, 2, 7, 100], [40, 0, 3], [500]])
def test_messages_may_lie_in_any_pieces(plain, pieces):
    plain.pieces = pieces
    made = plain.create(b"f", "O_RDWR")
    data = bytes(range(256)) * 4
    assert plain.write(made.fh, 0, data) == len(data)
    assert plain.read(made.fh, 0, len(data)) == data
    plain.setxattr(made.node, b"user.a", b"value")
    assert plain.getxattr(made.node, b"user.a") == b"value"


def test_files_pass_the_cache_of_guests_that_can_map_them_all_the_same(client, root):
    (root / "f").write_bytes(b"data")
    for flags2, direct in ((0, 0), (1 << 4, 1), (0, 0)):  # FUSE_DIRECT_IO_ALLOW_MMAP is bit 36
        assert client.init(flags2=flags2)[-1] == flags2
        assert client.open(client.lookup(b"f").node, "O_RDWR").flags == direct
        assert client.create(b"g%d" % flags2, "O_RDWR").flags == direct


def test_flags_that_differ_between_architectures_mean_what_the_guest_meant(client, root):
    client.init(flags2=0)  # files have the guest's cache unless it asks for none
    (root / "f").write_text("x")
    (root / "d").mkdir()
    f, d = client.lookup(b"f").node, client.lookup(b"d").node
    assert client.open(f, "O_RDONLY", "O_LARGEFILE", "O_NOFOLLOW").flags == 0
    assert client.open(f, "O_RDWR", "O_DIRECT").flags == 1  # FOPEN_DIRECT_IO
    with failing(errno.ENOTDIR):
        client.open(f, "O_RDONLY", "O_DIRECTORY")
    client.open(d, "O_RDONLY", "O_DIRECTORY", "O_LARGEFILE")
    assert client.create(b"g", "O_RDWR", "O_LARGEFILE", "O_NOFOLLOW", "O_EXCL").flags == 0
    assert client.create(b"h", "O_RDWR", "O_DIRECT").flags == 1


def test_flags_taken_for_another_architectures_go_wrong(root):
    """What the translation is for: without it a guest's O_LARGEFILE is another's O_DIRECTORY or O_NOFOLLOW."""
    with serving(root, ("<", "generic")) as client:
        client.family = "powerpc"
        (root / "f").write_text("x")
        with failing(errno.ENOTDIR):
            client.open(client.lookup(b"f").node, "O_RDONLY", "O_LARGEFILE")


def test_truncation_at_open_and_append(client, root):
    (root / "f").write_text("old content")
    node = client.lookup(b"f").node
    client.open(node, "O_WRONLY", "O_TRUNC")
    assert (root / "f").read_text() == ""
    fh = client.open(node, "O_WRONLY", "O_APPEND").fh
    (root / "f").write_text("from the host")
    client.write(fh, 0, b"!")
    assert (root / "f").read_text() == "from the host!"
    client.write(fh, 0, b"F", kill=1 << 0)  # FUSE_WRITE_CACHE: a page of a shared mapping
    assert (root / "f").read_text() == "From the host!"
    client.opened[fh] = 0  # F_SETFL
    client.write(fh, 1, b"R")
    assert (root / "f").read_text() == "FRom the host!"


def test_exclusive_creation_fails_where_there_is_something(client, root):
    (root / "f").write_text("x")
    (root / "l").symlink_to("nowhere")
    for name in (b"f", b"l"):
        with failing(errno.EEXIST):
            client.create(name, "O_WRONLY", "O_EXCL")
    client.create(b"f", "O_WRONLY")


def test_unlinked_and_renamed_files_stay_usable(client, root):
    made = client.create(b"f", "O_RDWR")
    client.write(made.fh, 0, b"still here")
    client.rename(b"f", b"g")
    assert (root / "g").read_text() == "still here"
    client.unlink(b"g")
    assert client.read(made.fh, 0, 100) == b"still here"
    assert client.getattr(made.node).nlink == 0
    assert client.setattr(made.node, 1 << 3, size=5).size == 5
    assert client.setattr(made.node, (1 << 3) | (1 << 6), fh=made.fh, size=3).size == 3
    assert client.setattr(made.node, 1, mode=0o600).mode & 0o777 == 0o600


def test_hard_links_are_one_node(client, root):
    (root / "f").write_text("x")
    node = client.lookup(b"f").node
    linked = client.link(node, b"g")
    assert (linked.node, linked.attr.nlink) == (node, 2)
    assert client.lookup(b"g").node == node


def test_symbolic_links_are_text_to_the_server(client):
    target = b"/etc/passwd/" + b"x" * 3000
    node = client.symlink(b"l", target).node
    assert client.readlink(node) == target
    assert stat.S_ISLNK(client.lookup(b"l").attr.mode)
    assert client.link(node, b"m").node == node
    with failing(errno.ELOOP):
        client.open(node, "O_RDONLY")
    with failing(errno.EINVAL):
        client.readlink(client.create(b"f", "O_RDWR").node)


def test_directories_and_renames(client, root):
    node = client.mkdir(b"d", 0o711).node
    assert (root / "d").stat().st_mode & 0o777 == 0o711
    client.create(b"f", "O_RDWR", node=node)
    with failing(errno.ENOTEMPTY):
        client.rmdir(b"d")
    client.rename(b"f", b"g", node=node, to=ROOT)
    client.create(b"h", "O_RDWR")
    with failing(errno.EEXIST):
        client.rename2(b"g", b"h", 1)  # RENAME_NOREPLACE
    client.rename2(b"h", b"d", 2)  # RENAME_EXCHANGE
    assert (root / "h").is_dir()
    client.rmdir(b"h")
    with failing(errno.ENOENT):
        client.lookup(b"h")


def test_times_modes_and_sizes(client, root):
    node = client.create(b"f", "O_RDWR").node
    found = client.setattr(node, (1 << 4) | (1 << 5), times=(-5, 7, 2**32 + 1, 999_999_999))
    assert (found.mtime, found.mtimensec, found.atimensec) == (2**32 + 1, 999_999_999, 7)
    assert (root / "f").stat().st_atime_ns == -5 * 10**9 + 7
    before = time.time() - 5
    assert client.setattr(node, (1 << 5) | (1 << 8)).mtime >= before
    assert (root / "f").stat().st_atime_ns == -5 * 10**9 + 7  # the other one is left
    assert client.statx(node).size == 0
    assert client.statx(node).btime >= before


def test_file_system_and_devices_are_told(client, root):
    blocks, *_, bsize, namelen, _ = client.statfs()
    assert blocks > 0
    assert (bsize, namelen) == (os.statvfs(root).f_bsize, 255)
    client.mknod(b"p", stat.S_IFIFO | 0o600)
    assert (root / "p").is_fifo()
    with failing(errno.ENXIO):
        client.open(client.lookup(b"p").node, "O_RDONLY")
    if os.geteuid() == 0:
        number = (5 & 0xFF) | 259 << 8 | (0x12345 & 0xFFF00) << 12
        with contextlib.suppress(PermissionError):
            assert client.mknod(b"n", stat.S_IFCHR | 0o600, (1 << 8) | 3).attr.rdev == (1 << 8) | 3
            assert os.major((root / "n").stat().st_rdev) == 1
            assert client.mknod(b"big", stat.S_IFBLK | 0o600, number).attr.rdev == number


@pytest.mark.parametrize("plus", [False, True])
@pytest.mark.parametrize("size", [512, 4096, 65536])
def test_large_directories_come_whole_and_once(client, root, plus, size):
    names = {f"{number:04}".encode() + b"x" * (number % 200) for number in range(500)}
    for name in names:
        (root / os.fsdecode(name)).touch()
    found = list(client.names(client.opendir(), size=size, plus=plus))
    assert len(found) == len(names)
    assert set(found) == names


def test_any_position_of_5000_entries_can_be_gone_back_to(plain, root):
    for number in range(5000):
        (root / f"entry{number}").touch()
    fh, rows, offset = plain.opendir(), [], 0
    while answer := plain.readdir(fh, offset, 65536):
        rows += answer
        offset = answer[-1][2]
    assert len({row[4] for row in rows}) == len(rows) == 5002
    for place in (4999, 1, 2500, 17, 4000):
        assert plain.readdir(fh, rows[place][2], 4096)[0][4] == rows[place + 1][4]
    assert plain.readdir(fh, rows[-1][2]) == []


def test_names_have_255_bytes_of_any_kind(client, root):
    name = bytes(set(range(1, 256)) - {ord("/")})
    assert len(name) == 254
    node = client.create(name + b"x", "O_RDWR").node
    assert client.lookup(name + b"x").node == node
    assert name + b"x" in list(client.names(client.opendir(), plus=True))
    client.rename(name + b"x", b"\xff" * 255)
    assert [os.fsencode(path.name) for path in root.iterdir()] == [b"\xff" * 255]
    with failing(errno.ENAMETOOLONG):
        client.mkdir(b"x" * 256)
    with failing(errno.ENAMETOOLONG):
        client.lookup(b"x" * 256)


def test_a_directory_is_read_on_from_any_position_while_it_changes(client, root):
    for number in range(300):
        (root / f"stay{number}").touch()
        (root / f"go{number}").touch()
    fh, seen, offset, step = client.opendir(), [], 0, 0
    while answer := client.readdir(fh, offset, 600):
        seen += [row[4] for row in answer]
        offset = answer[-1][2]
        (root / f"go{step}").unlink(missing_ok=True)
        (root / f"late{step}").touch()
        step += 1
    stayed = [name for name in seen if name.startswith(b"stay")]
    assert len(stayed) == len(set(stayed)) == 300
    assert list(client.names(fh))  # from the beginning again
    client.fsync(fh, opcode=30)
    client.releasedir(fh)


def test_readdirplus_counts_what_it_tells(plain, root):
    (root / "f").touch()
    fh = plain.opendir()
    rows = {row[4]: row for row in plain.readdir(fh, plus=True)}
    node = rows[b"f"][0].node
    assert node == plain.lookup(b"f").node
    assert rows[b"."][0].node == rows[b".."][0].node == 0
    plain.forget(node, 1)
    plain.getattr(node)
    plain.forget(node, 1)
    with failing(errno.ESTALE):
        plain.getattr(node)


def test_forgotten_nodes_are_closed_and_in_use_ones_are_not(plain):
    made = plain.create(b"f", "O_RDWR")
    before = open_files()
    plain.batch_forget((made.node, 5), (4711, 1), (ROOT, 100))
    assert open_files() == before
    assert plain.write(made.fh, 0, b"x") == 1
    plain.release(made.fh)
    assert open_files() == before - 2
    plain.getattr(ROOT)


def test_forgetting_many_leaves_nothing_behind(client):
    layouts = layout.cache_info().currsize
    for count in range(100):
        client.batch_forget(*((ROOT, 1),) * count)
    assert layout.cache_info().currsize <= layouts + 3
    with failing(errno.EINVAL):
        client.send(42, 0, client.pack("2I2Q", 2, 0, ROOT, 1))


def test_a_replaced_file_is_another_node(plain, root):
    (root / "f").write_text("old")
    old = plain.lookup(b"f").node
    (root / "f").unlink()
    (root / "f").write_text("new one")
    new = plain.lookup(b"f")
    assert new.node != old
    assert plain.getattr(old).size == 3


def test_an_inode_that_is_used_again_is_another_node(plain, root):
    """The host gives a number again as soon as the guest has forgotten the file; the guest's old id stays dead."""
    known, again = {}, 0
    for _ in range(200):
        made = plain.create(b"f", "O_RDWR")
        assert made.node not in known.values()
        again += made.attr.ino in known
        known[made.attr.ino] = made.node
        plain.release(made.fh)
        (root / "f").unlink()
        plain.forget(made.node, 1)
        with failing(errno.ESTALE):
            plain.getattr(made.node)
    held = plain.create(b"f", "O_RDWR")
    (root / "f").unlink()
    assert plain.create(b"f", "O_RDWR").attr.ino != held.attr.ino  # one that is known is not given again
    if not again:
        pytest.skip("this file system does not use a number again soon")


def test_holes_and_ranges(client, root):
    made = client.create(b"f", "O_RDWR")
    client.write(made.fh, 4 * 2**30 + 5, b"far")
    assert client.read(made.fh, 4 * 2**30 + 5, 10) == b"far"
    assert client.lseek(made.fh, 0, os.SEEK_DATA) > 0
    with failing(errno.EINVAL):
        client.lseek(made.fh, 0, os.SEEK_END)
    client.fallocate(made.fh, 0, 8192)
    other = client.create(b"g", "O_RDWR")
    client.write(made.fh, 0, b"0123456789")
    assert client.copy_file_range(made.fh, 2, other.fh, 1, 5) == 5
    assert (root / "g").read_bytes() == b"\x0023456"
    client.call(50, ROOT, client.pack("Q", 0))  # SYNCFS


def test_extended_attributes(client, root):
    node = client.create(b"f", "O_RDWR").node
    client.setxattr(node, b"user.a", b"one")
    client.setxattr(node, b"user.b", b"")
    assert client.getxattr(node, b"user.a") == b"one"
    assert client.unpack("2I", client.getxattr(node, b"user.a", 0)) == (3, 0)
    assert set(client.listxattr(node).split(b"\0")) >= {b"user.a", b"user.b"}
    with failing(errno.ERANGE):
        client.getxattr(node, b"user.a", 2)
    with failing(errno.EEXIST):
        client.setxattr(node, b"user.a", b"two", os.XATTR_CREATE)
    client.removexattr(node, b"user.a")
    with failing(errno.ENODATA):
        client.getxattr(node, b"user.a")
    assert os.listxattr(root / "f")
    link = client.symlink(b"l", b"f").node
    with failing(errno.EOPNOTSUPP):
        client.getxattr(link, b"user.a")
    with failing(errno.EPERM):
        client.setxattr(link, b"trusted.overlay.origin", b"")


def test_file_without_a_name_can_be_given_one(client, root):
    made = client.tmpfile()
    client.write(made.fh, 0, b"x")
    assert list(root.iterdir()) == []
    client.link(made.node, b"f")
    assert (root / "f").read_text() == "x"


# locks


def test_posix_locks_belong_to_owners(client):
    made = client.create(b"f", "O_RDWR")
    client.lock(SETLK, made.fh, 1, 0, 9, WRITE)
    with failing(errno.EAGAIN):
        client.lock(SETLK, made.fh, 2, 5, 5, READ)
    client.lock(SETLK, made.fh, 2, 10, EVERYWHERE, WRITE)
    assert client.getlk(made.fh, 2, 0, EVERYWHERE, READ)[:3] == (0, 9, WRITE)
    assert client.getlk(made.fh, 3, 20, 30, READ)[:3] == (10, EVERYWHERE, WRITE)
    assert client.getlk(made.fh, 1, 0, 9, WRITE)[2] == UNLOCK
    client.lock(SETLK, made.fh, 1, 0, 9, UNLOCK)
    client.lock(SETLK, made.fh, 2, 0, 9, READ)
    client.flush(made.fh, owner=2)
    client.lock(SETLK, made.fh, 3, 0, EVERYWHERE, WRITE)


def test_locks_hold_against_the_host(plain, root):
    made = plain.create(b"f", "O_RDWR")
    plain.lock(SETLK, made.fh, 1, 0, EVERYWHERE, WRITE)
    with (root / "f").open("r+b") as file, pytest.raises(BlockingIOError):
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    plain.lock(SETLK, made.fh, 9, 0, EVERYWHERE, WRITE, flock=True)
    with (root / "f").open("r+b") as file, pytest.raises(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    plain.release(made.fh)
    with (root / "f").open("r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def waiting(client, made, unique):
    """Wait for a lock in another thread; what came of it, once it is there."""
    outcome = []

    def wait():
        try:
            outcome.append(client.lock(SETLKW, made.fh, 2, 0, 9, WRITE, unique=unique))
        except OSError as e:
            outcome.append(e.errno)

    thread = threading.Thread(target=wait)
    thread.start()
    time.sleep(0.1)
    assert outcome == []
    return thread, outcome


@pytest.mark.parametrize(
    ("end", "came"),
    [
        (lambda client, made: client.lock(SETLK, made.fh, 1, 0, 9, UNLOCK), b""),
        (lambda client, _: client.interrupt(77), errno.EINTR),
        (lambda client, _: client.server.reset(), errno.EBADF),
    ],
)
def test_who_waits_for_a_lock_gets_it_or_is_interrupted(plain, end, came):
    made = plain.create(b"f", "O_RDWR")
    plain.lock(SETLK, made.fh, 1, 0, 9, WRITE)
    thread, outcome = waiting(plain, made, 77)
    end(plain, made)
    thread.join(5)
    assert outcome in ([came], [errno.EINTR])
    plain.init()


def test_an_interrupt_of_what_does_not_wait_is_nothing(plain):
    plain.interrupt(77)
    made = plain.create(b"f", "O_RDWR")
    plain.lock(SETLKW, made.fh, 1, 0, 9, WRITE, unique=77)


@pytest.mark.timeout(10)
def test_an_interrupt_may_overtake_what_it_is_for(plain):
    made = plain.create(b"f", "O_RDWR")
    plain.lock(SETLK, made.fh, 1, 0, 9, WRITE)
    for unique in range(5001, 5001 + 2 * MAX_EARLY, 2):  # others are kept too, not without end
        plain.interrupt(unique)
    plain.interrupt(77)
    with failing(errno.EINTR):
        plain.lock(SETLKW, made.fh, 2, 0, 9, WRITE, unique=77)


# several threads


def test_what_a_request_uses_is_no_other_file_meanwhile(plain, root, monkeypatch):
    """A hostile guest forgets and closes what a request of another thread works on, and opens other files."""
    found, go_on = threading.Event(), threading.Event()

    def slow(share, request):
        descriptors = (share.inodes[request.nodeid].descriptor, share.handles.file(made.fh).descriptor)
        found.set()
        go_on.wait(5)
        return b"".join(request.pack("Q", os.fstat(descriptor).st_ino) for descriptor in descriptors)

    monkeypatch.setitem(OPERATIONS, Op.STATFS, slow)
    made, answer = plain.create(b"f", "O_RDWR"), []
    before = open_files()
    thread = threading.Thread(target=lambda: answer.append(plain.call(17, made.node)))
    thread.start()
    found.wait(5)
    plain.forget(made.node, 1)
    plain.release(made.fh)
    for number in range(4):
        plain.create(b"other%d" % number, "O_RDWR")
    go_on.set()
    thread.join(5)
    assert plain.unpack("2Q", answer[0]) == ((root / "f").stat().st_ino,) * 2
    assert open_files() == before - 2 + 8  # closed since


def test_a_node_that_is_forgotten_meanwhile_comes_to_no_use(plain, monkeypatch):
    """Opened by a thread that has found it just before: its descriptor may be another file's by the next use."""
    made = plain.create(b"f", "O_RDWR")
    plain.release(made.fh)
    reopen = Share.reopen

    def late(share, node, flags):
        descriptor = reopen(share, node, flags)
        share.inodes.forget(made.node, 1)
        return descriptor

    monkeypatch.setattr(Share, "reopen", late)
    before = open_files()
    with failing(errno.ESTALE):
        plain.open(made.node, "O_RDWR")
    assert open_files() == before - 1  # the node's, once


def test_locks_end_though_a_request_still_uses_their_file(plain, monkeypatch):
    found, go_on = threading.Event(), threading.Event()
    monkeypatch.setitem(OPERATIONS, Op.STATFS, lambda *_: (found.set(), go_on.wait(5), b"")[2])
    made, other = plain.create(b"f", "O_RDWR"), plain.create(b"f", "O_RDWR")
    thread = threading.Thread(target=lambda: plain.call(17, ROOT))
    thread.start()
    found.wait(5)
    plain.lock(SETLK, made.fh, 1, 0, 9, WRITE)
    plain.lock(SETLK, made.fh, 9, 0, EVERYWHERE, WRITE, flock=True)
    plain.flush(made.fh, owner=1)
    plain.release(made.fh)
    plain.lock(SETLK, other.fh, 2, 0, 9, WRITE)
    plain.lock(SETLK, other.fh, 8, 0, EVERYWHERE, WRITE, flock=True)
    go_on.set()
    thread.join(5)


def test_who_waits_for_a_lock_keeps_no_descriptor_open(plain):
    made = plain.create(b"f", "O_RDWR")
    plain.lock(SETLK, made.fh, 1, 0, 9, WRITE)
    thread, _ = waiting(plain, made, 77)
    before = open_files()
    for _ in range(20):
        plain.release(plain.open(made.node, "O_RDONLY").fh)
    deadline = time.monotonic() + 5
    while open_files() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert open_files() == before
    plain.interrupt(77)
    thread.join(5)


def test_many_threads_at_once(plain, root):
    """Each works on files of its own, all share directories; nothing of one is seen in another's."""
    wrong = []

    def work(number):
        try:
            for turn in range(40):
                name = b"%d-%d" % (number, turn % 3)
                made = plain.create(name, "O_RDWR")
                plain.write(made.fh, 0, name)
                fh = plain.opendir()
                told = [row[0].node for row in plain.readdir(fh, plus=True) if row[0].node]
                plain.batch_forget(*((node, 1) for node in told))
                assert plain.read(made.fh, 0, 99) == name
                plain.releasedir(fh)
                plain.release(made.fh)
                plain.forget(made.node, 1)
                plain.unlink(name)
        except BaseException as e:
            wrong.append(e)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert wrong == []
    assert list(root.iterdir()) == []
    assert len(plain.server._share.inodes) == 1


# owners


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_what_is_made_belongs_to_who_made_it(client, root):
    client.uid, client.gid = 1234, 5678
    client.create(b"f", "O_RDWR", mode=0o4755)
    client.mkdir(b"d", 0o755)
    client.symlink(b"l", b"x")
    client.mknod(b"s", stat.S_IFREG | 0o6711)
    for name in "fdls":
        found = (root / name).lstat()
        assert (found.st_uid, found.st_gid) == (1234, 5678)
    assert stat.S_IMODE((root / "f").stat().st_mode) == 0o4755
    assert stat.S_IMODE((root / "s").stat().st_mode) == 0o6711
    (root / "d").chmod(0o2755)
    os.chown(root / "d", 1, 42)
    client.mkdir(b"e", node=client.lookup(b"d").node)
    found = (root / "d" / "e").stat()
    assert (found.st_uid, found.st_gid, found.st_mode & stat.S_ISGID) == (1234, 42, stat.S_ISGID)
    client.create(b"f", "O_RDWR")  # is there already, and stays whose it was
    assert client.setattr(client.lookup(b"f").node, 2, uid=7).uid == 7
    assert (root / "f").stat().st_gid == 5678


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
@pytest.mark.parametrize("number", [errno.EPERM, errno.EINVAL])
def test_what_may_not_be_given_away_stays_ours(plain, root, monkeypatch, number):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("guestforge.vhost.fs.fuse.make.fchown", refuse)
    monkeypatch.setattr("guestforge.vhost.fs.fuse.attributes.fchown", refuse)
    plain.uid = 1234
    made = plain.create(b"f", "O_RDWR")
    with failing(errno.EPERM):  # what programs expect of chown(2)
        plain.setattr(made.node, 2, uid=1234)
    plain.mkdir(b"d")
    assert {path.stat().st_uid for path in root.iterdir()} == {os.getuid()}
    number = errno.EDQUOT
    for attempt in (lambda: plain.create(b"g", "O_RDWR"), lambda: plain.mkdir(b"e")):
        with failing(errno.EDQUOT):
            attempt()
    assert sorted(path.name for path in root.iterdir()) == ["d", "f"]


def test_access_goes_by_owner_and_mode(client, root):
    (root / "f").touch()
    (root / "f").chmod(0o641)
    node = client.lookup(b"f").node
    client.access(node, os.F_OK)
    owner, group = (root / "f").stat().st_uid, (root / "f").stat().st_gid
    for uid, gid, granted in ((owner or 0, 99, 7 if owner == 0 else 6), (12, group, 4), (12, 99, 1)):
        client.uid, client.gid = uid, gid
        for wanted in range(1, 8):
            with contextlib.nullcontext() if not wanted & ~granted else failing(errno.EACCES):
                client.access(node, wanted)
    with failing(errno.EINVAL):
        client.access(node, 8)


def test_change_of_content_drops_set_user_id_where_the_guest_says_so(plain, root):
    made = plain.create(b"f", "O_RDWR")
    for change in (
        lambda: plain.write(made.fh, 0, b"x", kill=1 << 2),
        lambda: plain.setattr(made.node, (1 << 3) | (1 << 11), size=0),
        lambda: plain.setattr(made.node, (1 << 3) | (1 << 6) | (1 << 11), fh=made.fh, size=0),
        lambda: plain.open(made.node, "O_WRONLY", "O_TRUNC", kill=1),
    ):
        (root / "f").chmod(0o6755)
        change()
        assert stat.S_IMODE((root / "f").stat().st_mode) == 0o755
    (root / "f").chmod(0o6755)
    plain.setattr(made.node, 1 << 3, size=1)
    # without the flag only what the host's own kernel does: nothing for root
    assert os.geteuid() != 0 or stat.S_IMODE((root / "f").stat().st_mode) == 0o6755


# read only


def test_a_read_only_share_changes_in_nothing(root):
    (root / "f").write_text("x")
    (root / "d").mkdir()
    with serving(root, read_only=True) as client:
        f = client.lookup(b"f").node
        fh = client.open(f, "O_RDONLY").fh
        assert client.read(fh, 0, 9) == b"x"
        client.lock(SETLK, fh, 1, 0, 9, READ)
        for change in (
            lambda: client.open(f, "O_RDWR"),
            lambda: client.open(f, "O_RDONLY", "O_TRUNC"),
            lambda: client.create(b"g", "O_RDWR"),
            client.tmpfile,
            lambda: client.mkdir(b"e"),
            lambda: client.mknod(b"n", stat.S_IFIFO | 0o600),
            lambda: client.symlink(b"l", b"x"),
            lambda: client.link(f, b"g"),
            lambda: client.unlink(b"f"),
            lambda: client.rmdir(b"d"),
            lambda: client.rename(b"f", b"g"),
            lambda: client.rename2(b"f", b"g", 1),
            lambda: client.setattr(f, 1, mode=0o777),
            lambda: client.setxattr(f, b"user.a", b"x"),
            lambda: client.removexattr(f, b"user.a"),
            lambda: client.write(fh, 0, b"y"),
            lambda: client.fallocate(fh, 0, 10),
            lambda: client.copy_file_range(fh, 0, fh, 0, 1),
        ):
            with failing(errno.EROFS):
                change()
    assert sorted(path.name for path in root.iterdir()) == ["d", "f"]
    assert (root / "f").read_text() == "x"


# a hostile kernel

BAD_NAMES = [b"", b".", b"..", b"../outside", b"a/b", b"/etc/passwd", b"a\0b"]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_names_that_could_lead_elsewhere_are_refused(plain, root, name):
    (root / "f").write_text("x")
    for attempt in (
        lambda: plain.lookup(name),
        lambda: plain.create(name, "O_RDWR"),
        lambda: plain.mkdir(name),
        lambda: plain.mknod(name, stat.S_IFIFO),
        lambda: plain.symlink(name, b"x"),
        lambda: plain.unlink(name),
        lambda: plain.rmdir(name),
        lambda: plain.rename(name, b"g"),
        lambda: plain.rename(b"f", name),
        lambda: plain.rename2(b"f", name, 1),
        lambda: plain.link(plain.lookup(b"f").node, name),
    ):
        with failing(errno.EINVAL):
            attempt()
    assert [path.name for path in root.iterdir()] == ["f"]


def test_links_out_of_the_directory_are_not_followed(plain, root):
    (root / "out").symlink_to("..")
    (root / "file").symlink_to("../outside")
    node = plain.lookup(b"out").node
    for attempt in (
        lambda: plain.lookup(b"outside", node=node),
        lambda: plain.create(b"x", "O_RDWR", node=node),
        lambda: plain.mkdir(b"x", node=node),
        lambda: plain.opendir(node),
        lambda: plain.tmpfile(node=node),
    ):
        with failing(errno.ENOTDIR):
            attempt()
    with failing(errno.ELOOP):
        plain.open(plain.lookup(b"file").node, "O_RDWR")
    with failing(errno.ELOOP):
        plain.create(b"file", "O_RDWR")
    with failing(errno.ELOOP):
        plain.setattr(plain.lookup(b"file").node, 1 << 3, size=0)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make devices")
def test_no_device_of_the_host_is_opened(plain):
    """A guest may make any device; to open it through us would give it the host's disks."""
    zero = plain.mknod(b"zero", stat.S_IFCHR | 0o666, (1 << 8) | 5).node
    for attempt in (
        lambda: plain.create(b"zero", "O_RDWR"),
        lambda: plain.open(zero, "O_RDWR"),
        lambda: plain.getxattr(plain.setattr(zero, 1 << 3, size=0), b"user.a"),
        lambda: plain.opendir(zero),
    ):
        with pytest.raises(OSError, match=f"{os.strerror(errno.ENXIO)}|{os.strerror(errno.ENOTDIR)}"):
            attempt()


@pytest.mark.timeout(10)
def test_no_pipe_of_the_host_is_waited_for(plain):
    plain.mknod(b"p", stat.S_IFIFO | 0o666)
    for flag in ("O_RDONLY", "O_WRONLY", "O_RDWR"):
        with failing(errno.ENXIO):
            plain.create(b"p", flag)


def test_a_directory_that_becomes_a_link_is_the_directory_still(plain, root):
    node = plain.mkdir(b"d").node
    (root / "d").rename(root / "e")
    (root / "d").symlink_to("..")
    plain.create(b"x", "O_RDWR", node=node)
    assert (root / "e" / "x").exists()


def test_ids_that_were_never_given_out_are_refused(plain, root):
    (root / "f").write_text("x")
    node = plain.lookup(b"f").node
    for wrong in (0, node + 1, 2**63, 2**64 - 1):
        with failing(errno.ESTALE):
            plain.getattr(wrong)
        with failing(errno.EBADF):
            plain.read(wrong, 0, 10)
    with failing(errno.EBADF):
        plain.read(plain.opendir(), 0, 10)
    with failing(errno.EBADF):
        plain.readdir(plain.open(node, "O_RDONLY").fh)
    with failing(errno.ENOTDIR):
        plain.lookup(b"x", node=node)


def test_more_handles_than_there_may_be_are_refused(plain, root, monkeypatch):
    monkeypatch.setattr("guestforge.vhost.fs.fuse.inodes.MAX_HANDLES", 3)
    monkeypatch.setattr(plain.server._share.inodes, "_most", 3)
    (root / "f").write_text("x")
    node = plain.lookup(b"f").node
    for _ in range(3):
        plain.open(node, "O_RDONLY")
    with failing(errno.ENFILE):
        plain.open(node, "O_RDONLY")
    plain.mkdir(b"a")
    for attempt in (
        lambda: plain.mkdir(b"b"),
        lambda: plain.create(b"b", "O_RDWR"),
        lambda: plain.mknod(b"b", stat.S_IFREG),
        lambda: plain.symlink(b"b", b"x"),
    ):
        with failing(errno.ENFILE):
            attempt()
        assert sorted(path.name for path in root.iterdir()) == ["a", "f"]  # nothing is left of what was refused


def test_lengths_that_are_not_there_are_refused(plain):
    made = plain.create(b"f", "O_RDWR")
    body = plain.pack("2Q2IQ2I", made.fh, 0, 1000, 0, 0, 0, 0)
    with failing(errno.EINVAL):
        plain.call(16, ROOT, body + b"too short")
    with failing(errno.EINVAL):
        plain.call(15, ROOT, body, room=999)
    with failing(errno.EINVAL):
        plain.call(22, made.node, b"\0" * 4)
    with failing(errno.EINVAL):
        plain.call(3, ROOT, plain.pack("2IQ", 0, 0, 0), room=10)
    with failing(errno.EINVAL):
        plain.send(42, 0, plain.pack("2I", 1000, 0))


def test_a_header_that_lies_is_refused(plain):
    memory = bytearray(200)
    for header, unique in (plain.header(3, ROOT, 1000), plain.header(3, ROOT, -10)):
        assert plain.server.serve([memoryview(header)], [memoryview(memory)]) == 16
        assert plain.unpack("IiQ", memory) == (16, -errno.EINVAL, unique)
        assert plain.server.serve([memoryview(header)], []) == 0  # nowhere to say so
    extended = plain.pack("IIQQIIIHH", 40, 17, 2, ROOT, 0, 0, 0, 1, 0)
    assert plain.server.serve([memoryview(extended)], [memoryview(memory)]) == 16
    assert plain.server.serve([memoryview(header[:20])], [memoryview(memory)]) == 0
    assert plain.server.serve([memoryview(header[:20])], [memoryview(memory)]) == 0
    assert plain.server.serve([], []) == 0
    header, _ = plain.header(3, ROOT, 16)
    assert plain.server.serve([memoryview(header + bytes(16))], [memoryview(bytearray(10))]) == 0


def test_a_mistake_of_ours_is_the_end_of_one_request(root, monkeypatch):
    lines = []
    with serving(root, log=lines.append) as client:
        monkeypatch.setitem(OPERATIONS, Op.STATFS, lambda *_: {}["a bug"])
        with failing(errno.EIO):
            client.statfs()
        assert lines == ["operation 17: KeyError: 'a bug'"]
        client.getattr(ROOT)


def test_complaints_are_few(root):
    lines = []
    server = FuseServer(root, guest("generic"), log=lines.append)
    for _ in range(100):
        server.serve([memoryview(b"x" * 50)], [memoryview(bytearray(100))])
    assert len(lines) == 1
    server.close()


# Numbers that matter: ids that are there, flags, sizes; and any others.
NUMBERS = st.sampled_from([0, 1, 2, 3, 4, 5, 9, 64, 4096, 0o100644, 0o40755, 2**31, 2**32 - 1]) | st.integers(
    0, 2**64 - 1
)
NAMES = st.sampled_from([b"f", b"d", b"l", b"g", *BAD_NAMES, b"x" * 300]) | st.binary(max_size=20)
BODY = st.lists(
    st.one_of(
        NUMBERS.map(lambda value: struct.pack("<Q", value)),
        NUMBERS.map(lambda value: struct.pack("<I", value & ALL)),
        NAMES.map(lambda name: name + b"\0"),
    ),
    max_size=14,
).map(b"".join)
# a test's time is worth more than what these wait for
QUICK = sorted({int(opcode) for opcode in OPERATIONS} - {Op.SETLKW, Op.SYNCFS, Op.FSYNC, Op.FSYNCDIR})
OPCODES = st.sampled_from(QUICK) | st.integers(0, 80).filter(lambda n: n not in (Op.SETLKW, Op.SYNCFS, Op.FSYNC))
REQUESTS = st.lists(st.tuples(OPCODES, NUMBERS, BODY, st.integers(0, 300)), min_size=1, max_size=12)
COUNT = 200  # tests/fuse_fuzz.py makes more, and more like a guest's


@pytest.mark.slow
@settings(max_examples=COUNT, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(abi=st.sampled_from(list(ABIS.values())), requests=REQUESTS, swap=st.booleans())
def test_no_request_harms_the_server_or_what_is_outside(tmp_path_factory, abi, requests, swap):
    place = tmp_path_factory.mktemp("fuzz")
    (place / "outside").write_text("secret")
    root = place / "share"
    root.mkdir()
    (root / "f").write_text("content")
    (root / "d").mkdir()
    (root / "l").symlink_to("../outside")
    with serving(root, abi, quota=Quota(max_bytes=64 << 20)) as client:  # FALLOCATE would take all that is free
        client.uid, client.gid = os.getuid(), os.getgid()
        for name in (b"f", b"d", b"l"):
            client.lookup(name)
        client.open(client.lookup(b"f").node, "O_RDWR")
        client.opendir()
        for opcode, node, body, room in requests:
            turned = b"".join(body[at : at + 8][::-1] for at in range(0, len(body), 8))
            with contextlib.suppress(OSError):
                client.send(opcode, node, turned if swap else body, room=room)
        client.init()
        assert client.getattr(ROOT).ino == root.stat().st_ino
    assert (place / "outside").read_text() == "secret"
    assert sorted(path.name for path in place.iterdir()) == ["outside", "share"]


@settings(max_examples=COUNT, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pieces=st.lists(st.binary(max_size=80), max_size=4), room=st.lists(st.integers(0, 60), max_size=3))
def test_no_bytes_harm_the_server(plain, pieces, room):
    reply = [memoryview(bytearray(size)) for size in room]
    assert 0 <= plain.server.serve([memoryview(piece) for piece in pieces], reply) <= sum(room)
