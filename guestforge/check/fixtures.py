"""What the host puts on a storage for the guest to find, different in every run.

The tree is the root directory of a container. Everything that is compared later follows from the run's nonce, so
nothing that an earlier run left behind, and no constant in a guest, can pass for it.
"""

import hashlib
import os
import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Kind = Literal["file", "directory", "symlink"]

NONCE_BYTES = 16
BLOB_SIZE = 1024 * 1024 + 123  # more than one FUSE request (1 MiB at most), and no multiple of a page
LONG_SIZE = 10_000
MANY = 1_000  # more than one READDIRPLUS answer holds
MTIME = 1_000_000_000  # 2001-09-09T01:46:40Z: no file of this run has it by itself
MOUNT_POINTS = ("proc", "dev", "sys", "tmp", "run", "etc")  # what a runtime mounts on; a container's root has them


@dataclass(frozen=True, slots=True)
class Entry:
    """A file, directory or symbolic link as the guest must see it. `path` is relative to the container's root."""

    path: str
    kind: Kind
    mode: int = 0o644
    content: bytes = b""
    target: str = ""
    mtime: int = MTIME

    @property
    def sha256(self) -> str:
        """The digest of a file's content, in hex."""
        return hashlib.sha256(self.content).hexdigest()


def new_nonce() -> str:
    """Return a nonce of 128 random bits, in hex."""
    return secrets.token_hex(NONCE_BYTES)


def content(nonce: str, label: str, size: int) -> bytes:
    """Return `size` bytes that follow from a nonce and a label and look random."""
    return hashlib.shake_256(f"{nonce}/{label}".encode()).digest(size)


def entries(nonce: str) -> tuple[Entry, ...]:
    """Return what the container's root holds besides the probe, parents before their children."""
    many = (Entry(f"data/many/{name}", "file") for name in many_names(nonce))
    return (
        *(Entry(name, "directory", 0o755) for name in MOUNT_POINTS),
        Entry("out", "directory", 0o755),
        Entry("data", "directory", 0o755),
        Entry("data/nonce", "file", 0o640, f"{nonce}\n".encode()),
        Entry("data/blob", "file", 0o444, content(nonce, "blob", BLOB_SIZE)),
        Entry("data/link", "symlink", 0o777, target="nonce"),
        Entry("data/old", "file", 0o644, content(nonce, "old", 100)),
        Entry("data/doomed", "file", 0o644, content(nonce, "doomed", 100)),
        Entry("data/mode", "file", 0o600, content(nonce, "mode", 100)),
        Entry("data/long", "file", 0o644, content(nonce, "long", LONG_SIZE)),
        Entry("data/many", "directory", 0o750),
        *many,
    )


def many_names(nonce: str) -> tuple[str, ...]:
    """Return the names of the large directory, in no order that a directory has by itself."""
    return tuple(f"{content(nonce, f'name-{number}', 6).hex()}-{number:04}" for number in range(MANY))


def write_tree(root: Path, tree: tuple[Entry, ...], probe: Path) -> None:
    """Write a container's root directory: the probe as `/probe`, and the tree's entries with their modes and times."""
    root.mkdir(parents=True)
    root.chmod(0o755)
    shutil.copyfile(probe, root / "probe")
    (root / "probe").chmod(0o755)
    for entry in tree:
        _write(root / entry.path, entry)
    for entry in reversed(tree):  # children first: making them has touched their directory
        os.utime(root / entry.path, (entry.mtime, entry.mtime), follow_symlinks=False)


def _write(path: Path, entry: Entry) -> None:
    if entry.kind == "symlink":
        path.symlink_to(entry.target)
        return
    if entry.kind == "directory":
        path.mkdir()
    else:
        path.write_bytes(entry.content)
    path.chmod(entry.mode)
