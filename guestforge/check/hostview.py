"""What a storage holds once the guest has written to it, read by the host without trusting what the guest made of it.

Both views take paths relative to the storage's root and know the same three questions.
"""

import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from guestforge.errors import CheckError
from guestforge.files import open_regular
from guestforge.run import run

Kind = Literal["file", "directory", "symlink", "other"]

READ_LIMIT = 16 * 1024 * 1024  # bytes; nothing that we look for is larger
NAMES_LIMIT = 100_000
SUPERBLOCK = 1024  # bytes from the start of an ext4 file system
INCOMPAT_RECOVER = 0x4
DEBUGFS_TIMEOUT = 20.0  # seconds: a guest can leave a damaged file system behind


@dataclass(frozen=True, slots=True)
class Seen:
    """What is at a path. `mode` has the permission bits alone; `size` is a file's, in bytes."""

    kind: Kind
    mode: int
    size: int


class HostView(Protocol):
    """The host's view of a storage."""

    def stat(self, path: str) -> Seen | None:
        """Return what is at a path, None if nothing is."""

    def read(self, path: str) -> bytes | None:
        """Return the content of a file, None if there is none or it is larger than READ_LIMIT."""

    def names(self, path: str) -> frozenset[str] | None:
        """Return the names in a directory, None if there is none."""


def kind_of(mode: int) -> Kind:
    """Return the kind of a file by its st_mode."""
    kinds: dict[int, Kind] = {stat.S_IFREG: "file", stat.S_IFDIR: "directory", stat.S_IFLNK: "symlink"}
    return kinds.get(stat.S_IFMT(mode), "other")


class SharedDirectory:
    """A directory of the host that is shared with a guest.

    The guest may put a symbolic link, a pipe or a device where a file or directory is expected: nothing of the kind
    is followed or opened.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def stat(self, path: str) -> Seen | None:
        """Return what is at a path, None if nothing is."""
        try:
            with _opened_parent(self.root, path) as (directory, name):
                status = os.stat(name, dir_fd=directory, follow_symlinks=False)
        except OSError:
            return None
        return Seen(kind_of(status.st_mode), stat.S_IMODE(status.st_mode), status.st_size)

    def read(self, path: str) -> bytes | None:
        """Return the content of a file, None if there is none or it is larger than READ_LIMIT."""
        try:
            with _opened_parent(self.root, path) as (directory, name):
                file = open_regular(name, directory)
            if file is None:
                return None
            with file:
                data = file.read(READ_LIMIT + 1)
        except OSError:
            return None
        return data if len(data) <= READ_LIMIT else None

    def names(self, path: str) -> frozenset[str] | None:
        """Return the names in a directory, None if there is none."""
        try:
            with _opened_parent(self.root, f"{path}/.") as (directory, _), os.scandir(directory) as found:
                return frozenset(entry.name for entry, _ in zip(found, range(NAMES_LIMIT), strict=False))
        except OSError:
            return None


@contextmanager
def _opened_parent(root: Path, path: str) -> Iterator[tuple[int, str]]:
    """Yield the opened directory that holds a path, reached without following a symbolic link, and the last name."""
    *parents, name = path.split("/")
    with ExitStack() as stack:
        directory = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
        stack.callback(os.close, directory)
        for parent in parents:
            directory = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=directory)
            stack.callback(os.close, directory)
        yield directory, name


class Ext4Disk:
    """A disk file with an ext4 file system that no guest has in use, read with debugfs: no mount, no root."""

    def __init__(self, image: Path, scratch: Path) -> None:
        self.image = image
        self._scratch = scratch

    def stat(self, path: str) -> Seen | None:
        """Return what is at a path, None if nothing is."""
        parent, _, name = path.rpartition("/")
        return self._list(parent).get(name)

    def read(self, path: str) -> bytes | None:
        """Return the content of a file, None if there is none or it is larger than READ_LIMIT."""
        seen = self.stat(path)
        if seen is None or seen.kind != "file" or seen.size > READ_LIMIT:
            return None
        copy = self._scratch / "dumped"
        copy.unlink(missing_ok=True)
        self._debugfs(f"dump /{path} {copy}")
        return copy.read_bytes() if copy.is_file() else None

    def names(self, path: str) -> frozenset[str] | None:
        """Return the names in a directory, None if there is none."""
        listed = self._list(path)
        return frozenset(listed) - {".", ".."} if listed else None

    def needs_recovery(self) -> bool:
        """Whether a guest left it mounted: s_feature_incompat has RECOVER (kernel, Documentation/filesystems/ext4)."""
        with self.image.open("rb") as file:
            file.seek(SUPERBLOCK + 0x60)
            incompatible = int.from_bytes(file.read(4), "little")
        return bool(incompatible & INCOMPAT_RECOVER)

    def _list(self, path: str) -> dict[str, Seen]:
        return parse_listing(self._debugfs(f"ls -p /{path}"))

    def _debugfs(self, request: str) -> str:
        argv: list[str | Path] = ["debugfs", "-R", request, self.image]
        return run(argv, timeout=DEBUGFS_TIMEOUT, error=CheckError, check=False).output


def parse_listing(text: str) -> dict[str, Seen]:
    """Return what `debugfs -R 'ls -p'` listed: a line an entry, `/inode/mode/uid/gid/name/size/`, the mode in octal."""
    found = {}
    for line in text.splitlines()[:NAMES_LIMIT]:
        fields = line.split("/")
        if len(fields) == 8 and fields[1].isdigit() and fields[2].isdigit():
            mode = int(fields[2], 8)
            found[fields[5]] = Seen(kind_of(mode), stat.S_IMODE(mode), int(fields[6] or 0))
    return found
