"""An ext4 file system with a tree in it, byte for byte the same for the same tree; without root, mounts, loop devices.

mke2fs makes it empty, debugfs writes every node straight into it (see `debugfs`). Against `mke2fs -d` of a staged
copy this leaves out the copy, and with it what the host adds to files: owners, extended attributes, change times.
"""

import contextlib
import hashlib
import os
import struct
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from guestforge.core.errors import UserError
from guestforge.core.need import Need
from guestforge.core.progress import human
from guestforge.core.runtime import Runtime
from guestforge.core.scratch import scratch_directory
from guestforge.image import debugfs
from guestforge.rootfs.tree import Directory, File, Node, Symlink, Tree

NEEDS = tuple(Need("e2fsprogs", tool=tool) for tool in ("mke2fs", "debugfs", "e2fsck"))

MIB = 1024 * 1024
BLOCK_SIZE = 4096  # the page size of most guests; DAX needs the two to be equal
INODE_SIZE = 256
JOURNAL_MIB = 4  # the smallest that mke2fs makes with this block size: 1024 blocks
BYTES_PER_INODE = 16 * 1024  # on a disk of a given size, mke2fs's own default
SPARE_INODES = 64
FAST_SYMLINK = 60  # bytes of an inode that hold a short link's target; a longer one takes a block

# Fixed here rather than taken from the host's mke2fs.conf. has_journal: runtimes mount the root with `data=ordered`,
# which ext4 refuses on a file system without a journal.
FEATURES = (
    "has_journal", "ext_attr", "dir_index", "filetype", "extent", "64bit", "flex_bg", "sparse_super",
    "large_file", "huge_file", "dir_nlink", "extra_isize", "metadata_csum",
)  # fmt: skip
CONFIG = """[options]
enable_periodic_fsck = 0
[defaults]
default_mntopts = acl,user_xattr
[fs_types]
ext4 = {
    inode_size = 256
}
small = {
    inode_size = 256
}
"""

# Sizing: at least this stays free, the larger of the two; a size is found in steps.
HEADROOM = MIB
HEADROOM_PERCENT = 3
SIZE_STEP = 2 * MIB
_TRIAL_UUID = str(uuid.UUID(int=1))  # of file systems that only answer how much is free


@dataclass(frozen=True, slots=True)
class Format:
    """An empty file system to be: where in the file it begins, its size (both in bytes) and what names it."""

    size: int
    inodes: int
    uuid: str
    offset: int = 0
    label: str = ""
    time: int = 1  # seconds since 1970 of every time stamp


@dataclass(frozen=True, slots=True)
class Free:
    """What a file system has left."""

    blocks: int
    inodes: int


@dataclass(frozen=True, slots=True)
class Work:
    """A directory for scratch files, and where the programs run that use them."""

    directory: Path
    runtime: Runtime


def e2fsprogs_version(runtime: Runtime) -> str:
    """Return the version of mke2fs, which decides where it puts what."""
    return runtime.run(["mke2fs", "-V"]).output.split("\n")[0]


def ext4_image(
    tree: Tree, out: Path, runtime: Runtime, *, size_mib: int | None = None, label: str = "", time: int = 0
) -> None:
    """Write a bare ext4 image of a tree, of `size_mib` MiB or of the size that the tree needs.

    `time` is in seconds since 1970. Raises UserError when the size is too small or the tree holds a name that
    debugfs cannot write, BuildError when a tool fails or the disk is full; `out` is then as it was before.
    """
    with scratch(out, runtime) as work:
        image = work.directory / "image"
        size = size_mib * MIB if size_mib else needed_size(tree, work)
        format = format_for(tree, size, fixed=size_mib is not None, label=label, time=time)
        write(tree, image, format, work)
        image.replace(out)


def format_for(tree: Tree, size: int, *, fixed: bool, offset: int = 0, label: str = "", time: int = 0) -> Format:
    """Return the format of a tree's file system; one of a `fixed` size gets inodes for more than the tree."""
    inodes = len(tree.nodes) + SPARE_INODES
    if fixed:
        inodes = max(inodes, size // BYTES_PER_INODE)
    # libext2fs takes a fake time of 0 for none
    return Format(size, inodes, identity(tree, label), offset, label, max(1, time))


def identity(tree: Tree, label: str) -> str:
    """Return the UUID of a tree's file system: made from its content, so that it is the same on every build."""
    digest = hashlib.sha256(f"guestforge ext4\0{label}\0{tree.digest()}".encode()).digest()
    return str(uuid.UUID(bytes=digest[:16], version=4))


def write(tree: Tree, image: Path, format: Format, work: Work) -> None:
    """Make the file system in `image`, growing the file where it must, and fill it; scratch files go into `work`.

    Raises UserError, with the size that would do, when the tree does not fit.
    """
    if format.size < _least(tree, format.inodes):
        raise too_small(tree, format, work)
    make_empty(image, format, work)
    if not _fits(tree, image, format):
        raise too_small(tree, format, work)
    try:
        debugfs.populate(tree, image, work.directory, work.runtime, offset=format.offset, time=format.time)
    except debugfs.FullError as e:
        raise too_small(tree, format, work) from e


def too_small(tree: Tree, format: Format, work: Work) -> UserError:
    """Return the error about a size that a tree does not fit, with one that it fits."""
    needed = format.offset + needed_size(tree, work, start=-format.offset % SIZE_STEP)
    return UserError(
        f"an image of {human(format.offset + format.size)} is too small for this tree",
        hint=f"it needs {-(-needed // MIB)} MiB",
    )


def make_empty(image: Path, format: Format, work: Work) -> None:
    """Run mke2fs; the file is made, sparse, where it is not there."""
    config = work.directory / "mke2fs.conf"
    config.write_text(CONFIG)
    with image.open("ab") as file:
        file.truncate(max(file.tell(), format.offset + format.size))
    env = {"E2FSPROGS_FAKE_TIME": str(format.time), "MKE2FS_CONFIG": str(config)}
    work.runtime.run(mke2fs_argv(image, format), env=env)


def mke2fs_argv(image: Path, format: Format) -> list[str]:
    """Return the command that makes an empty file system, with nothing left to chance or to the host's settings."""
    extended = {
        "offset": format.offset,
        "hash_seed": format.uuid,
        # initialised now: the guest would start a kernel thread to do it at its first mount
        "lazy_itable_init": 0,
        # no zeros written: the file is new, so the journal's blocks are holes and read as zeros
        "lazy_journal_init": 1,
    }
    return [
        "mke2fs", "-q", "-F", "-t", "ext4", "-b", str(BLOCK_SIZE), "-I", str(INODE_SIZE), "-N", str(format.inodes),
        "-m", "0", "-J", f"size={JOURNAL_MIB}", "-U", format.uuid, "-L", format.label,
        "-O", ",".join(("none", *FEATURES)), "-E", ",".join(f"{key}={value}" for key, value in extended.items()),
        str(image), f"{format.size // 1024}k",
    ]  # fmt: skip


def needed_size(tree: Tree, work: Work, *, start: int = 0) -> int:
    """Return the smallest size in bytes, in steps of SIZE_STEP from `start`, that holds a tree and the headroom.

    Measured: an empty file system of each size is made and its free blocks are read.
    """
    inodes = len(tree.nodes) + SPARE_INODES
    least = _least(tree, inodes)
    size = start + -(-(least - start) // SIZE_STEP) * SIZE_STEP
    with tempfile.TemporaryDirectory(dir=work.directory) as directory:
        trial = Path(directory, "trial")
        while True:
            make_empty(trial, Format(size, inodes, _TRIAL_UUID), work)
            headroom = max(HEADROOM, size * HEADROOM_PERCENT // 100) // BLOCK_SIZE
            short = needed_blocks(tree) + headroom - free(trial).blocks
            if short <= 0:
                return size
            trial.unlink()
            size += -(-short * BLOCK_SIZE // SIZE_STEP) * SIZE_STEP


def _least(tree: Tree, inodes: int) -> int:
    """Return the bytes below which mke2fs need not be asked."""
    journal = JOURNAL_MIB * MIB
    # mke2fs takes a journal of up to half of what is free beside its own tables, of which inodes are the most; and
    # below 8 MiB it leaves the journal out, with no more than a remark
    contents = max(needed_blocks(tree) * BLOCK_SIZE, journal + MIB // 2)
    return journal + contents + inodes * INODE_SIZE


def needed_blocks(tree: Tree) -> int:
    """Return the most blocks that a tree's nodes can take in a new, unfragmented file system."""
    entries: dict[str, int] = {}
    for node in tree:
        parent, _, name = node.path.rpartition("/")
        # a directory entry: 8 bytes and the name, in units of 4 (Documentation/filesystems/ext4/directory.rst)
        entries[parent or "/"] = entries.get(parent or "/", 0) + 8 + -(-len(os.fsencode(name)) // 4) * 4
    return sum(_blocks(node, entries.get(node.path, 0)) for node in tree)


def _blocks(node: Node, entries: int) -> int:
    match node:
        case File():
            # an extent covers up to 128 MiB and four of them fit the inode; beyond that one block holds 340
            blocks = -(-node.size // BLOCK_SIZE)
            return blocks + (-(-blocks // (340 * 1024)) if blocks > 4 * 1024 else 0)
        case Directory():
            # an entry never crosses a block, so that a block's last 255 + 8 bytes may stay empty
            return 1 + entries // (BLOCK_SIZE - 300)
        case Symlink():
            return int(len(os.fsencode(node.target)) >= FAST_SYMLINK)
        case _:
            return 0


def free(image: Path, offset: int = 0) -> Free:
    """Return what is free, from the superblock (Documentation/filesystems/ext4/super.rst)."""
    with image.open("rb") as file:
        file.seek(offset + 1024)
        superblock = file.read(1024)
    low, inodes = struct.unpack_from("<II", superblock, 0x0C)
    (high,) = struct.unpack_from("<I", superblock, 0x158)
    return Free(high << 32 | low, inodes)


def _fits(tree: Tree, image: Path, format: Format) -> bool:
    left = free(image, format.offset)
    return left.blocks >= needed_blocks(tree) and left.inodes >= len(tree.nodes)


@contextlib.contextmanager
def scratch(out: Path, runtime: Runtime) -> Iterator[Work]:
    """Yield a directory beside `out`, on the same file system, that is removed when the block is left."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with scratch_directory(f".{out.name}.", out.parent) as directory:
        yield Work(directory, runtime)
