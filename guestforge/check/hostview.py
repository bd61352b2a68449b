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

from guestforge.core.files import open_regular
from guestforge.core.runtime import Runtime
from guestforge.image import readback
from guestforge.image.readback import Ext4Reader

Kind = Literal["file", "directory", "symlink", "other"]

READ_LIMIT = 16 * 1024 * 1024  # bytes; nothing that we look for is larger
NAMES_LIMIT = 100_000


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
    """A disk file with an ext4 file system that no guest has in use: no mount, no root.

    Its methods raise CheckError for a file system that can't be read.
    """

    def __init__(self, image: Path, runtime: Runtime) -> None:
        self.image = image
        self._reader = Ext4Reader(image, runtime)

    def stat(self, path: str) -> Seen | None:
        """Return what is at a path, None if nothing is."""
        found = self._reader.find(f"/{path}")
        return None if found is None else Seen(_KINDS.get(found.type, "other"), found.mode, found.size)

    def read(self, path: str) -> bytes | None:
        """Return the content of a file, None if there is none or it is larger than READ_LIMIT."""
        found = self._reader.find(f"/{path}")
        if found is None or found.type != readback.REGULAR or found.size > READ_LIMIT:
            return None
        return self._reader.content(f"/{path}", found)

    def names(self, path: str) -> frozenset[str] | None:
        """Return the names in a directory, None if there is none."""
        seen = self.stat(path)
        if seen is None or seen.kind != "directory":
            return None
        return frozenset(self._reader.list_dir(f"/{path}", limit=NAMES_LIMIT))

    def needs_recovery(self) -> bool:
        """Whether a guest left it mounted."""
        return readback.was_left_mounted(self.image)


_KINDS: dict[str, Kind] = {readback.REGULAR: "file", readback.DIRECTORY: "directory", readback.SYMLINK: "symlink"}
