"""What the host puts on a storage for the guest to find, different in every run.

The tree is the root directory of a container. Everything that is compared later follows from the run's nonce, so
nothing that an earlier run left behind, and no constant in a guest, can pass for it.
"""

import hashlib
import os
import secrets
from pathlib import Path

from guestforge.core.runtime import Runtime
from guestforge.image.ext4 import ext4_image
from guestforge.rootfs.tree import Directory, File, Node, Symlink, Tree

NONCE_BYTES = 16
BLOB_SIZE = 1024 * 1024 + 123  # more than one FUSE request (1 MiB at most), and no multiple of a page
LONG_SIZE = 10_000
MANY = 1_000  # more than one READDIRPLUS answer holds
SOME = 100  # where a listing is no question of its own
MTIME = 1_000_000_000  # 2001-09-09T01:46:40Z: no file of this run has it by itself
DISK_MIB = 24
MOUNT_POINTS = ("/proc", "/dev", "/sys", "/tmp", "/run", "/etc")  # noqa: S108 - what a runtime mounts on


def new_nonce() -> str:
    """Return a nonce of 128 random bits, in hex."""
    return secrets.token_hex(NONCE_BYTES)


def content(nonce: str, label: str, size: int) -> bytes:
    """Return `size` bytes that follow from a nonce and a label and look random."""
    return hashlib.shake_256(f"{nonce}/{label}".encode()).digest(size)


def many_names(nonce: str, count: int) -> tuple[str, ...]:
    """Return the names of the large directory, in an order that no file system has by itself."""
    return tuple(f"{content(nonce, f'name-{number}', 6).hex()}-{number:04}" for number in range(count))


def container_tree(nonce: str, probe: Path, entries: int = MANY) -> Tree:
    """Return the root of a container: the probe as `/probe`, what it is to find in `/data`, and an empty `/out`.

    `entries` are those of the large directory.
    """
    nodes: tuple[Node, ...] = (
        *(Directory(path) for path in MOUNT_POINTS),
        File("/probe", probe, 0o755),
        Directory("/out"),
        File("/data/nonce", f"{nonce}\n".encode(), 0o640),
        File("/data/blob", content(nonce, "blob", BLOB_SIZE), 0o444),
        Symlink("/data/link", "nonce"),
        File("/data/old", content(nonce, "old", 100)),
        File("/data/doomed", content(nonce, "doomed", 100)),
        File("/data/mode", content(nonce, "mode", 100), 0o600),
        File("/data/long", content(nonce, "long", LONG_SIZE)),
        Directory("/data/many", 0o750),
        *(File(f"/data/many/{name}", b"") for name in many_names(nonce, entries)),
    )
    return Tree(nodes)


def write_directory(tree: Tree, root: Path) -> None:
    """Write a tree into an empty directory, with its modes, and MTIME on everything; the owner is who runs this."""
    place = os.fspath(root)
    for node in tree:
        _write(place + node.path, node)
    for node in reversed(tree.nodes):  # children first: making them has touched their directory
        if isinstance(node, Directory):
            os.utime(place + node.path, (MTIME, MTIME))


def give_to_owner(root: Path) -> None:
    """Have all that is in a directory belong to the owner of that."""
    owner = root.stat()
    if (owner.st_uid, owner.st_gid) == (os.geteuid(), os.getegid()):
        return
    for _, directories, files, directory in os.fwalk(root):
        for name in (*directories, *files):
            os.chown(name, owner.st_uid, owner.st_gid, dir_fd=directory, follow_symlinks=False)


def write_disk(tree: Tree, disk: Path, runtime: Runtime, *, size_mib: int = DISK_MIB) -> None:
    """Write a tree into a new disk file with a bare ext4 file system, MTIME on everything."""
    ext4_image(tree, disk, runtime, size_mib=size_mib, time=MTIME)


def _write(path: str, node: Node) -> None:
    match node:
        case Directory():
            if node.path != "/":
                os.mkdir(path)  # noqa: PTH102 - a thousand of them, and Path takes longer than the system call
            os.chmod(path, node.mode)  # noqa: PTH101
        case Symlink():
            os.symlink(node.target, path)  # noqa: PTH211
            os.utime(path, (MTIME, MTIME), follow_symlinks=False)
        case File():
            _write_file(path, node)


def _write_file(path: str, node: File) -> None:
    data = node.source if isinstance(node.source, bytes) else node.source.read_bytes()
    with open(path, "xb", buffering=0) as file:  # noqa: PTH123 - as above
        file.write(data)
        os.fchmod(file.fileno(), node.mode)
        os.utime(file.fileno(), (MTIME, MTIME))
