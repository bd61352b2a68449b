"""What the host puts on a storage, and how it reads what a guest made of it."""

import contextlib
import ctypes
import os
import socket
import stat
import tempfile
from pathlib import Path

import pytest

from guestforge.check import fixtures
from guestforge.check.hostview import Ext4Disk, Seen, SharedDirectory
from guestforge.core.errors import CheckError, UserError
from guestforge.core.run import run
from guestforge.core.runtime import HOST
from guestforge.rootfs.tree import Directory, File, Symlink, Tree

IN_OPEN = 0x20  # linux/inotify.h
NONCE = "0123456789abcdef"


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    root = tmp_path_factory.mktemp("storage")
    probe = root / "probe"
    probe.write_bytes(b"#!probe")
    tree = fixtures.container_tree(NONCE, probe)
    (root / "share").mkdir()
    fixtures.write_directory(tree, root / "share")
    fixtures.write_disk(tree, root / "disk", HOST)
    return {"share": SharedDirectory(root / "share"), "disk": Ext4Disk(root / "disk", HOST)}


@pytest.fixture(params=["share", "disk"])
def view(request, places):
    return places[request.param]


def test_nonces_differ():
    assert fixtures.new_nonce() != fixtures.new_nonce()
    assert len(fixtures.new_nonce()) == 32


def test_content_follows_from_nonce_and_label():
    assert fixtures.content("a", "x", 10) == fixtures.content("a", "x", 10)
    assert len({fixtures.content(n, label, 10) for n in "ab" for label in "xy"}) == 4


def test_tree_is_there_with_modes_and_content(view):
    assert view.stat("data/mode") == Seen("file", 0o600, 100)
    assert view.stat("data/many") is not None
    assert view.stat("data/many").mode == 0o750
    assert view.stat("data/link").kind == "symlink"
    assert view.read("data/blob") == fixtures.content(NONCE, "blob", fixtures.BLOB_SIZE)
    assert view.read("data/nonce") == f"{NONCE}\n".encode()
    assert view.read("probe") == b"#!probe"
    assert view.names("data/many") == set(fixtures.many_names(NONCE, fixtures.MANY))


def test_what_is_not_there_is_none(view):
    assert view.stat("data/nothing") is None
    assert view.stat("nowhere/nothing") is None
    assert view.read("data/nothing") is None
    assert view.names("nowhere") is None
    assert view.names("data/nonce") is None


def test_directory_is_no_file(view):
    assert view.read("data") is None


def test_symbolic_link_is_not_followed(view):
    assert view.read("data/link") is None


def test_times_are_set(places):
    status = (places["share"].root / "data" / "old").stat()
    assert status.st_mtime == fixtures.MTIME
    assert (places["share"].root / "data").stat().st_mtime == fixtures.MTIME


def test_links_that_lead_out_of_the_share_are_not_followed(tmp_path):
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "file").write_text("secret")
    share = tmp_path / "share"
    share.mkdir()
    (share / "out").symlink_to(secret)
    (share / "file").symlink_to(secret / "file")
    view = SharedDirectory(share)
    assert view.read("out/file") is None
    assert view.stat("out/file") is None
    assert view.names("out") is None
    assert view.read("file") is None


def test_pipe_in_the_share_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "file")
    assert SharedDirectory(tmp_path).read("file") is None
    assert SharedDirectory(tmp_path).stat("file").kind == "other"


@contextlib.contextmanager
def opens_of(path):
    """Yield a list that has, afterwards, what inotify(7) saw of opens of a path; one with O_PATH is none."""
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = libc.inotify_init1(os.O_NONBLOCK)
    assert libc.inotify_add_watch(descriptor, os.fsencode(path), IN_OPEN) > 0
    seen = []
    yield seen
    with contextlib.suppress(BlockingIOError):
        seen.append(os.read(descriptor, 4096))
    os.close(descriptor)


def a_pipe(path):
    os.mkfifo(path)


def a_device(path):
    if os.geteuid() != 0:
        pytest.skip("only root makes devices")
    try:
        os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 5))
    except PermissionError:
        pytest.skip("no devices here")


def a_socket(path):
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(os.fspath(path))


@pytest.mark.parametrize("make", [a_pipe, a_device, a_socket])
def test_what_is_no_file_is_not_even_opened(tmp_path, make):
    make(tmp_path / "file")
    view = SharedDirectory(tmp_path)
    with opens_of(tmp_path / "file") as seen:
        assert view.read("file") is None
        assert view.read("file/below") is None
        assert view.names("file") is None
    assert seen == []


def test_a_file_is_opened_and_read(tmp_path):
    (tmp_path / "file").write_text("x")
    with opens_of(tmp_path / "file") as seen:
        assert SharedDirectory(tmp_path).read("file") == b"x"
    assert len(seen) == 1


def test_file_beyond_the_limit_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr("guestforge.check.hostview.READ_LIMIT", 10)
    (tmp_path / "large").write_bytes(bytes(11))
    assert SharedDirectory(tmp_path).read("large") is None


def test_disk_that_is_none_is_told(tmp_path):
    (tmp_path / "disk").write_bytes(bytes(4096))
    with pytest.raises(CheckError, match="no ext4 file system"):
        Ext4Disk(tmp_path / "disk", HOST).names("")


ODD = ["a b", "what?", "it's", 'say "so"', "a;b", "$HOME", "-p", "#1", "ümlaut", "<12>", "a\\b"]


@pytest.mark.parametrize("name", ODD)
def test_names_of_any_kind_are_found_on_a_disk_of_any_name(tmp_path, monkeypatch, name):
    place = tmp_path / name
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    tree = Tree([Directory(f"/{name}"), File(f"/{name}/{name}", b"found", 0o640), Symlink("/link", name)])
    fixtures.write_disk(tree, place / f"disk {name}", HOST)
    view = Ext4Disk(place / f"disk {name}", HOST)
    assert view.stat(f"{name}/{name}") == Seen("file", 0o640, 5)
    assert view.read(f"{name}/{name}") == b"found"
    assert view.names(name) == {name}
    assert view.stat("link").kind == "symlink"
    assert view.read(f"{name}/other") is None
    assert view.stat(f"{name}/{name}/below") is None
    assert not view.needs_recovery()


LIES = [
    "File not found by ext2_lookup",
    "x: File not found by ext2_lookup ",
    "Inode: 1   Type: directory    Mode:  0755",
]


@pytest.mark.parametrize("text", LIES)
def test_what_a_guest_writes_into_a_link_hides_nothing(tmp_path, text):
    tree = Tree([Symlink("/doomed", text), Directory("/d"), Symlink("/d/doomed", text)])
    fixtures.write_disk(tree, tmp_path / "disk", HOST)
    view = Ext4Disk(tmp_path / "disk", HOST)
    assert [view.stat(path).kind for path in ("doomed", "d/doomed")] == ["symlink"] * 2
    assert view.stat("doomed/below") is None


def test_no_link_of_a_disk_is_followed_as_none_of_a_share_is(tmp_path):
    tree = Tree([Directory("/dir"), File("/dir/there", b"content"), Symlink("/link", "dir")])
    fixtures.write_disk(tree, tmp_path / "disk", HOST)
    view = Ext4Disk(tmp_path / "disk", HOST)
    assert view.read("dir/there") == b"content"
    assert view.read("link/there") is None
    assert view.names("link") is None


@pytest.mark.parametrize("name", [b"a\nline", b"\xff"])
def test_a_name_that_cannot_be_told_is_not_left_out_in_silence(tmp_path, name):
    staged = tmp_path / "staged"
    staged.mkdir()
    (staged / "ok").touch()
    (staged / os.fsdecode(name)).touch()
    argv = ["mke2fs", "-q", "-t", "ext4", "-d", str(staged), str(tmp_path / "disk"), "8M"]
    run(argv)
    with pytest.raises(CheckError, match="can't be listed"):
        Ext4Disk(tmp_path / "disk", HOST).names("")
    assert Ext4Disk(tmp_path / "disk", HOST).stat("ok").kind == "file"


def test_a_line_break_in_a_path_is_an_error(places):
    with pytest.raises(UserError, match="control character"):
        places["disk"].stat("a\nquit")


def test_probe_is_executable(places):
    assert stat.S_IMODE(Path(places["share"].root / "probe").stat().st_mode) == 0o755
