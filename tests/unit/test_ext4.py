import os
import pickle
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import given, settings

from guestforge.arch import ARCHES
from guestforge.core.errors import BuildError, CheckError, UserError
from guestforge.core.files import digest_file
from guestforge.core.graph import Evaluation
from guestforge.core.run import run
from guestforge.core.runtime import HOST
from guestforge.core.store import Store
from guestforge.image import debugfs, disk, ext4
from guestforge.image.disk_step import IMAGE, image_step
from guestforge.image.readback import Ext4Reader
from guestforge.project.models import Image, Rootfs
from guestforge.rootfs.tree import Device, Directory, File, Symlink, Tree
from guestforge.testing.fake_steps import fake_parts
from guestforge.testing.runtimes import Noting
from tests.unit.trees import trees

MIB = 1024 * 1024
ROOT = disk.PLAIN.root
TREE = Tree(
    [
        File("/etc/hostname", b"guest\n", 0o644),
        File("/sbin/init", os.urandom(300_000), 0o4755, 1, 2),
        Directory("/home/user", 0o700, 100_000, 70_000),
        Symlink("/bin/sh", "busybox"),
        Symlink("/bin/long", "x" * 200, 3, 4),
        Device("/dev/console", "char", 5, 1),
        Device("/dev/big", "block", 4095, 65535, 0o660, 0, 6),
    ]
)
TYPES = {File: "regular", Directory: "directory", Symlink: "symlink"}
DEVICE_TYPES = {"char": "character special", "block": "block special"}


def fsck(image, offset=0):
    """Check a file system; the image is named through a link, since '?' in a name begins e2fsck's options."""
    with tempfile.TemporaryDirectory() as directory:
        name = debugfs.target(Path(directory), image, offset)
        return subprocess.run(["/sbin/fsck.ext4", "-fn", name], cwd=directory, capture_output=True, text=True)


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    out = tmp_path_factory.mktemp("disk") / "rootfs.img"
    disk.build_disk(TREE, out, HOST)
    return out


def debugfs_type(node):
    return DEVICE_TYPES[node.kind] if isinstance(node, Device) else TYPES[type(node)]


def assert_holds(image, tree, offset=0):
    for node in tree:
        found = Ext4Reader(image, HOST, offset).stat(node.path)
        assert (found.type, found.mode, found.uid, found.gid) == (debugfs_type(node), node.mode, node.uid, node.gid)
        if isinstance(node, File):
            assert Ext4Reader(image, HOST, offset).read_file(node.path) == node.source
        if isinstance(node, Symlink):
            assert found.size == len(os.fsencode(node.target))


def test_every_node_is_in_the_image_as_it_is_in_the_tree(image):
    assert_holds(image, TREE, ROOT)
    assert Ext4Reader(image, HOST, ROOT).list_dir("/") == ["bin", "dev", "etc", "home", "lost+found", "sbin"]


def test_device_numbers_are_the_trees(image):
    def numbers(path):
        argv = ["/sbin/debugfs", "-R", f"stat {path}", f"{image}?offset={ROOT}"]
        output = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
        return next(line for line in output.splitlines() if "major/minor" in line.lower())

    assert "05:01" in numbers("/dev/console")
    assert "4095:65535" in numbers("/dev/big")


def test_fsck_finds_nothing_and_does_find_a_fault(image, tmp_path):
    assert fsck(image, ROOT).returncode == 0
    broken = shutil.copy(image, tmp_path / "broken.img")
    with Path(broken).open("r+b") as file:
        file.seek(ROOT + 4096 + 12)  # free blocks in the first group's descriptor
        file.write(b"\xff\xff")
    assert fsck(Path(broken), ROOT).returncode != 0


@settings(max_examples=12, deadline=None)
@given(trees())
def test_any_tree_is_written_whole(tree):
    with tempfile.TemporaryDirectory() as directory:
        image = Path(directory, "image?x=1")
        ext4.ext4_image(tree, image, HOST)
        assert_holds(image, tree)
        result = fsck(image)
        assert result.returncode == 0, result.stdout


def test_the_layout_is_an_mbr_with_one_linux_partition(image):
    data = image.read_bytes()
    status, kind, start, sectors = struct.unpack("<B3xB3xII", data[446:462])
    assert (status, kind, start, data[510:512]) == (0, 0x83, 2048, b"\x55\xaa")
    assert (start + sectors) * 512 == len(data)
    assert len(data) % (2 * MIB) == 0
    assert data[ROOT + 1024 + 0x38 : ROOT + 1024 + 0x3A] == b"\x53\xef"
    assert not any(data[462:510])


def test_the_image_is_sparse(image):
    assert image.stat().st_blocks * 512 < 1 * MIB < image.stat().st_size


def test_it_has_a_journal_for_runtimes_that_mount_with_data_ordered(image):
    superblock = image.read_bytes()[ROOT + 1024 : ROOT + 2048]
    assert struct.unpack_from("<I", superblock, 0x5C)[0] & 0x4  # COMPAT_HAS_JOURNAL


BUILD = """
import os, pickle, sys
from pathlib import Path
from guestforge.core.runtime import HOST
from guestforge.image import disk
tree = pickle.loads(Path(sys.argv[1]).read_bytes())
if os.getuid() == 0:  # only now: the checkout may lie where nobody but root may look
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
os.umask(int(sys.argv[3], 8))
disk.build_disk(tree, Path(sys.argv[2]), HOST)
"""


def test_same_bytes_in_another_directory_with_another_umask_later_and_as_another_user(image, tmp_path):
    with tempfile.TemporaryDirectory() as directory:  # pytest's own directories are closed to other users
        place = Path(directory)
        place.chmod(0o777)
        (place / "tree").write_bytes(pickle.dumps(TREE))
        (place / "tree").chmod(0o644)
        out = place / "elsewhere" / "x.img"
        time.sleep(1.1)  # time stamps have seconds
        argv = [sys.executable, "-c", BUILD, place / "tree", out, "077"]
        env = {"PATH": os.defpath, "HOME": directory, "PYTHONPATH": str(Path(disk.__file__).parents[2])}
        subprocess.run(argv, check=True, cwd=place, env=env)
        assert digest_file(out) == digest_file(image)
    disk.build_disk(TREE, tmp_path / "again.img", HOST)
    assert digest_file(tmp_path / "again.img") == digest_file(image)


def test_nothing_of_the_hosts_times_is_in_it(tmp_path):
    out = tmp_path / "dated.img"
    ext4.ext4_image(TREE, out, HOST, time=1_234_567_890)
    for path in ("/etc/hostname", "/etc", "/bin/long", "/dev/console", "/", "/lost+found", "<8>"):
        stat = subprocess.run(["/sbin/debugfs", "-R", f"stat {path}", out], capture_output=True, text=True).stdout
        times = [line for line in stat.splitlines() if "time: 0x" in line]
        assert len(times) == 4
        assert all("0x499602d2:00000000" in line for line in times), (path, times)


def test_the_content_decides_the_identity():
    one, other = (Tree([File("/a", content)]) for content in (b"x", b"y"))
    assert ext4.identity(one, "") == ext4.identity(one, "")
    assert len({ext4.identity(one, ""), ext4.identity(other, ""), ext4.identity(one, "label")}) == 3


@pytest.mark.parametrize(
    "tree", [Tree(), Tree([File("/big", os.urandom(9 * MIB))]), Tree([File(f"/d/{n}", b"") for n in range(900)])]
)
def test_a_size_that_is_too_small_names_one_that_will_do(tmp_path, tree):
    out = tmp_path / "out.img"
    with pytest.raises(UserError) as caught:
        disk.build_disk(tree, out, HOST, size_mib=8)
    assert not list(tmp_path.iterdir())
    disk.build_disk(tree, out, HOST, size_mib=int(caught.value.hint.removeprefix("it needs ").removesuffix(" MiB")))
    assert fsck(out, ROOT).returncode == 0


def test_a_measured_size_leaves_the_stated_headroom(tmp_path):
    tree = Tree([File(f"/d{n}", os.urandom(n * 5000)) for n in range(60)])
    ext4.ext4_image(tree, tmp_path / "x", HOST)
    size = (tmp_path / "x").stat().st_size
    left = ext4.free(tmp_path / "x").blocks * 4096
    assert left >= max(ext4.HEADROOM, size * ext4.HEADROOM_PERCENT // 100)
    assert left < ext4.HEADROOM + 2 * ext4.SIZE_STEP


@pytest.mark.parametrize("name", ["a\nwrite /etc/shadow x", "tab\there", "bell\a", "\x7f"])
def test_a_name_that_could_break_out_of_a_script_is_refused(tmp_path, name):
    with pytest.raises(UserError, match="control character"):
        ext4.ext4_image(Tree([File(f"/{name}", b"")]), tmp_path / "x", HOST)
    with pytest.raises(UserError, match="control character"):
        ext4.ext4_image(Tree([Symlink("/l", name)]), tmp_path / "x", HOST)
    assert not list(tmp_path.iterdir())


def test_what_debugfs_could_not_do_is_an_error(tmp_path, monkeypatch):
    script = debugfs.script
    monkeypatch.setattr(debugfs, "script", lambda *args: [*script(*args), b'rm "/not/there"'])
    with pytest.raises(BuildError, match="debugfs") as caught:
        ext4.ext4_image(TREE, tmp_path / "x", HOST)
    assert "rm: File not found" in caught.value.excerpt
    assert not list(tmp_path.iterdir())


def test_a_script_that_stops_half_way_is_an_error(tmp_path):
    def cut(argv, *, cwd=None, **options):
        if argv[0] == "debugfs":
            script = cwd / "script"
            script.write_bytes(b"\n".join(script.read_bytes().split(b"\n")[:4]) + b"\n")
        return HOST.run(argv, cwd=cwd, **options)

    with pytest.raises(BuildError, match="debugfs"):
        ext4.ext4_image(TREE, tmp_path / "x", Noting(run=cut))


def test_a_tree_that_outgrows_its_estimate_names_a_size(tmp_path, monkeypatch):
    monkeypatch.setattr(ext4, "_fits", lambda *_: True)
    monkeypatch.setattr(ext4, "_least", lambda *_: 0)
    monkeypatch.setattr(ext4, "needed_size", lambda *_, **__: 40 * MIB)
    with pytest.raises(UserError) as caught:
        ext4.ext4_image(Tree([File("/a", os.urandom(12 * MIB))]), tmp_path / "x", HOST, size_mib=12)
    assert caught.value.hint == "it needs 40 MiB"


def image_entry(store, spec):
    return Evaluation(store).entry(image_step(ARCHES["s390x"], Rootfs(), fake_parts(), spec))


def test_a_full_disk_is_a_clear_error_and_leaves_nothing(tmp_path, monkeypatch):
    def full(path, _):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(Path, "write_bytes", full)
    store = Store(tmp_path)
    with pytest.raises(BuildError, match="No space left on device") as caught:
        image_entry(store, Image())
    assert "free some space" in caught.value.hint
    assert not list((tmp_path / "tmp").iterdir())
    assert not (tmp_path / "store").exists()


def test_the_step_keeps_the_image_sparse_in_the_store_and_makes_it_once(tmp_path):
    store = Store(tmp_path)
    entry = image_entry(store, Image(size_mib=64))
    made = (entry.path / IMAGE).stat()
    assert made.st_size == 64 * MIB
    assert made.st_blocks * 512 < 8 * MIB
    assert sorted(entry.files) == [IMAGE]
    assert image_entry(store, Image(size_mib=64)).reused
    assert not image_entry(store, Image(size_mib=32)).reused


def test_reading_back_is_bounded(image):
    with pytest.raises(CheckError, match="more than the 5"):
        Ext4Reader(image, HOST, ROOT).read_file("/etc/hostname", limit=5)
    with pytest.raises(CheckError, match="more than 2 entries"):
        Ext4Reader(image, HOST, ROOT).list_dir("/", limit=2)


@pytest.mark.parametrize(
    ("path", "message"),
    [("/none", "not in the file system"), ("/etc", "not a regular file"), ("/bin/sh", "not a regular file")],
)
def test_reading_what_is_no_file_says_so(image, path, message):
    with pytest.raises(CheckError, match=message):
        Ext4Reader(image, HOST, ROOT).read_file(path)


def test_reading_an_image_that_was_not_unmounted_or_is_none_says_so(image, tmp_path):
    dirty = Path(shutil.copy(image, tmp_path / "dirty.img"))
    with dirty.open("r+b") as file:
        file.seek(ROOT + 1024 + 0x60)
        flags = struct.unpack("<I", file.read(4))[0]
        file.seek(ROOT + 1024 + 0x60)
        file.write(struct.pack("<I", flags | 0x4))
    with pytest.raises(CheckError, match="was not unmounted"):
        Ext4Reader(dirty, HOST, ROOT).read_file("/etc/hostname")
    with pytest.raises(CheckError, match="no ext4 file system at byte 0"):
        Ext4Reader(image, HOST).read_file("/etc/hostname")


def test_largest_disk_costs_what_is_in_it(tmp_path):
    disk.build_disk(TREE, tmp_path / "large", HOST, size_mib=65536)
    status = (tmp_path / "large").stat()
    assert status.st_size == 65536 * MIB
    assert status.st_blocks * 512 < 32 * MIB
    run(["e2fsck", "-f", "-n", f"{tmp_path / 'large'}?offset={ROOT}"])
    assert Ext4Reader(tmp_path / "large", HOST, ROOT).list_dir("/")
