import gzip
import io
import os
import random
import stat
import struct
import subprocess
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings

from guestforge.arch import ARCHES
from guestforge.core import store as store_module
from guestforge.core.cache import TAG
from guestforge.core.errors import BuildError, UserError
from guestforge.core.graph import Evaluation
from guestforge.core.store import Store
from guestforge.image import compress, cpio
from guestforge.image.compress import COMPRESSIONS, compressed, compression_for
from guestforge.image.initrd_step import INITRD, initrd_step
from guestforge.project.models import Initrd, Rootfs
from guestforge.rootfs.tree import Device, Directory, File, Symlink, Tree, file_type
from guestforge.testing.fake_steps import fake_kernel, fake_parts
from tests.unit.trees import trees

ARCH = ARCHES["x86_64"]
TREE = Tree([File("/init", b"x" * 5000, 0o755), Device("/dev/console", "char", 5, 1), Symlink("/bin/sh", "busybox")])
FIELDS = (
    "inode", "mode", "uid", "gid", "nlink", "mtime", "size",
    "devmajor", "devminor", "rmajor", "rminor", "namesize", "check",
)  # fmt: skip
CONFIG = {"CONFIG_BLK_DEV_INITRD": "y", "CONFIG_RD_LZ4": "y", "CONFIG_RD_ZSTD": "y", "CONFIG_RD_GZIP": "y"}


def archive(tree, **options):
    out = io.BytesIO()
    cpio.write_newc(tree, out, **options)
    return out.getvalue()


def members(data):
    """Read an archive as the kernel does: by its own lengths, padded to 4, until the trailer."""
    at = 0
    while True:
        assert data[at : at + 6] == b"070701"
        assert at % 4 == 0
        values = [int(data[at + 6 + 8 * i : at + 14 + 8 * i], 16) for i in range(13)]
        fields = dict(zip(FIELDS, values, strict=True))
        name = data[at + 110 : at + 110 + fields["namesize"]]
        assert name.endswith(b"\0")
        at = -(-(at + 110 + fields["namesize"]) // 4) * 4
        content = data[at : at + fields["size"]]
        at = -(-(at + fields["size"]) // 4) * 4
        if name == b"TRAILER!!!\0":
            assert not data[at:].strip(b"\0")
            return
        yield name[:-1], fields, content


def expected(node):
    content = node.source if isinstance(node, File) else os.fsencode(getattr(node, "target", ""))
    device = (node.major, node.minor) if isinstance(node, Device) else (0, 0)
    name = os.fsencode(node.path[1:]) or b"."
    return name, file_type(node) | node.mode, node.uid, node.gid, device, content


@given(trees())
def test_our_reader_finds_every_node_as_it_is_in_the_tree(tree):
    found = list(members(archive(tree, mtime=77)))
    seen = [(name, f["mode"], f["uid"], f["gid"], (f["rmajor"], f["rminor"]), content) for name, f, content in found]
    assert seen == [expected(node) for node in tree]
    assert {f["mtime"] for _, f, _ in found} == {77}
    assert [f["inode"] for _, f, _ in found] == list(range(1, len(found) + 1))


@settings(max_examples=25, deadline=None)
@given(trees())
def test_cpio_lists_the_same_names(tree):
    done = subprocess.run(["cpio", "-t", "--null", "--quiet"], input=archive(tree), capture_output=True, check=True)
    assert done.stderr == b""
    assert done.stdout.split(b"\0")[:-1] == [expected(node)[0] for node in tree]


def test_cpio_unpacks_what_was_packed(tmp_path):
    tree = Tree([File("/a/f", b"hello" * 1000, 0o640), Symlink("/a/l", "f"), Directory("/t", 0o1777)])
    subprocess.run(
        ["cpio", "-i", "-d", "--quiet", "--no-absolute-filenames"], input=archive(tree), cwd=tmp_path, check=True
    )
    assert (tmp_path / "a/f").read_bytes() == b"hello" * 1000
    assert stat.S_IMODE((tmp_path / "a/f").stat().st_mode) == 0o640
    assert (tmp_path / "a/l").readlink() == Path("f")
    assert stat.S_IMODE((tmp_path / "t").stat().st_mode) == 0o1777


def test_a_file_of_4_gib_is_refused_before_it_is_read(tmp_path):
    big = tmp_path / "big"
    with big.open("wb") as file:
        file.truncate(2**32)
    with pytest.raises(UserError, match="4 GiB"):
        archive(Tree([File("/big", big)]))


@pytest.mark.parametrize("mtime", [-1, 2**32])
def test_a_time_that_does_not_fit_is_refused(mtime):
    with pytest.raises(UserError, match="does not fit"):
        archive(TREE, mtime=mtime)


@pytest.mark.parametrize("size", [10, 1_500_000])
@pytest.mark.parametrize("change", [-1, 1])
def test_a_source_that_changes_while_it_is_read_is_an_error(tmp_path, monkeypatch, size, change):
    source = tmp_path / "source"
    source.write_bytes(bytes(size + change))
    monkeypatch.setattr(cpio, "_size", lambda node: size if isinstance(node, File) else 0)
    with pytest.raises(BuildError, match="changed while it was read"):
        archive(Tree([File("/a", source)]))


UNPACK = {
    "zstd": lambda data: zstandard.ZstdDecompressor().stream_reader(io.BytesIO(data)).read(),
    "gzip": gzip.decompress,
    "lz4": lambda data: subprocess.run(["lz4", "-dc"], input=data, capture_output=True, check=True).stdout,
    "none": bytes,
}


@pytest.mark.parametrize("compression", UNPACK)
def test_compressed_it_is_the_same_archive_and_the_same_bytes_each_time(tmp_path, compression):
    for name in ("one", "two"):
        cpio.write_initrd(TREE, tmp_path / name, compression=compression)
    one, two = (tmp_path / name).read_bytes(), (tmp_path / "two").read_bytes()
    assert one == two
    assert UNPACK[compression](one) == archive(TREE)


def test_gzip_has_neither_name_nor_time(tmp_path):
    cpio.write_initrd(TREE, tmp_path / "secret", compression="gzip")
    magic, flags, time = struct.unpack("<3sBI", (tmp_path / "secret").read_bytes()[:8])
    assert (magic, flags, time) == (b"\x1f\x8b\x08", 0, 0)


@pytest.mark.parametrize(
    ("missing", "compression"),
    [
        ((), "lz4"),
        (("CONFIG_RD_LZ4",), "zstd"),
        (("CONFIG_RD_LZ4", "CONFIG_RD_ZSTD"), "gzip"),
        (("CONFIG_RD_LZ4", "CONFIG_RD_ZSTD", "CONFIG_RD_GZIP"), "none"),
    ],
)
def test_without_a_wish_the_kernels_configuration_decides(missing, compression):
    assert compression_for(without(missing)) == compression


@pytest.mark.parametrize("wanted", COMPRESSIONS)
def test_what_is_wanted_is_taken_if_the_kernel_unpacks_it(wanted):
    assert compression_for(CONFIG, wanted) == wanted


@pytest.mark.parametrize(
    ("wanted", "missing", "others"), [("lz4", "CONFIG_RD_LZ4", "zstd, gzip, none"), ("zstd", "CONFIG_RD_ZSTD", "lz4")]
)
def test_a_kernel_that_does_not_unpack_what_is_wanted_lacks_an_option_that_is_named(wanted, missing, others):
    with pytest.raises(UserError, match=rf"initrd\.compression: .*lacks {missing}") as caught:
        compression_for(without([missing]), wanted)
    assert f"{missing}=y" in caught.value.hint
    assert others in caught.value.hint


@pytest.mark.parametrize("wanted", [None, "none"])
def test_a_kernel_that_boots_no_initrd_is_told_which_option_it_lacks(wanted):
    with pytest.raises(UserError, match="CONFIG_BLK_DEV_INITRD"):
        compression_for(without(["CONFIG_BLK_DEV_INITRD"]), wanted)


def without(options):
    return {key: value for key, value in CONFIG.items() if key not in options}


@pytest.mark.parametrize("size", [0, 1, 999, 1000, 1001, 5007])
def test_the_lz4_program_unpacks_blocks_of_any_number(size, monkeypatch):
    monkeypatch.setattr(compress, "LZ4_BLOCK", 1000)
    data = random.Random(size).randbytes(size)
    out = io.BytesIO()
    with compressed(out, "lz4") as stream:
        stream.write(data[:5])
        stream.write(data[5:])
    assert UNPACK["lz4"](out.getvalue()) == data


def initrd_entry(store, config, agent=b"agent", compression=None):
    initrd = Initrd(compression=compression)
    return Evaluation(store).entry(initrd_step(ARCH, Rootfs(), fake_parts(agent), fake_kernel(config), initrd))


def test_the_step_makes_it_once_and_anew_for_another_compression(tmp_path):
    store = Store(tmp_path)
    first = initrd_entry(store, CONFIG)
    assert first.files[INITRD].size > 100
    assert initrd_entry(store, CONFIG).reused
    assert not initrd_entry(store, {**CONFIG, "CONFIG_RD_ZSTD": "n"}).reused
    assert initrd_entry(store, CONFIG, compression="none").path.joinpath(INITRD).read_bytes()[:6] == b"070701"
    assert not initrd_entry(store, CONFIG, b"another agent").reused


def test_a_full_disk_is_a_clear_error_and_leaves_nothing(tmp_path, monkeypatch):
    def full(file):
        raise OSError(28, "No space left on device", file)

    store = Store(tmp_path)
    monkeypatch.setattr(store_module.os, "fsync", full)
    with pytest.raises(BuildError, match="No space left on device") as caught:
        initrd_entry(store, CONFIG)
    assert "free some space" in caught.value.hint
    left = [path for path in Path(tmp_path).rglob("*") if path.is_file() and path.parent.name != "locks"]
    assert left == [tmp_path / TAG]  # what says that the directory is ours
