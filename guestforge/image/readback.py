"""Reading an ext4 image without mounting it: what a guest has written, seen from the host after its shutdown.

The image is the guest's work and so untrusted: sizes and numbers of entries are bounded before anything is read.
"""

import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from guestforge.core.errors import CheckError
from guestforge.core.runtime import Runtime
from guestforge.core.scratch import scratch_directory
from guestforge.image.debugfs import command, target

READ_LIMIT = 64 * 1024 * 1024  # bytes of one file
ENTRIES_LIMIT = 100_000  # entries of one directory
TIMEOUT = 20.0  # seconds: debugfs may come to no end on a file system that a guest has damaged
# Documentation/filesystems/ext4/super.rst
_MAGIC, _MAGIC_AT = 0xEF53, 0x38
_INCOMPAT_AT, _NEEDS_RECOVERY = 0x60, 0x4
# `ls -p`: /inode/mode/uid/gid/name/size/, with no size for a directory
_ENTRY = re.compile(r"/(\d+)/([0-7]{6})/(-?\d+)/(-?\d+)/(.*)/(\d*)/")
# `stat`. It begins with this; what a guest has written, such as a link's target, may follow and look like anything.
_STAT = re.compile(
    r"^Inode: \d+ +Type: ([\w ]+?) +Mode: +(\d+) .*\n.*\nUser: +(-?\d+) +Group: +(-?\d+) .*Size: (\d+)\n", re.MULTILINE
)
_VERSION = re.compile(r"debugfs \d.*")
ID_BITS = 0xFFFFFFFF  # debugfs prints the upper half of the owners' range as negative numbers
_MISSING = "File not found by ext2_lookup"
SCRATCH = "guestforge-read-"
REGULAR, DIRECTORY, SYMLINK = "regular", "directory", "symlink"


@dataclass(frozen=True, slots=True)
class Stat:
    """A file's type (as debugfs calls it: regular, directory, symlink, ...), permission bits, owner, size in bytes."""

    type: str
    mode: int
    uid: int
    gid: int
    size: int


@dataclass(frozen=True, slots=True)
class Ext4Reader:
    """Reads the ext4 file system that begins at byte `offset` of an image, with programs of a runtime.

    Its methods raise CheckError for a file system that is damaged or was not unmounted.
    """

    image: Path
    runtime: Runtime
    offset: int = 0

    def read_file(self, path: str, *, limit: int = READ_LIMIT) -> bytes:
        """Return the content of a regular file; raises CheckError too when there is none, or it is over `limit`."""
        found = self.stat(path)
        if found.type != REGULAR:
            raise CheckError(f"{path} in {self.image.name} is not a regular file but a {found.type}")
        if found.size > limit:
            raise CheckError(f"{path} in {self.image.name} has {found.size} bytes, more than the {limit} that are read")
        return self.content(path, found)

    def content(self, path: str, found: Stat) -> bytes:
        """Return what is in a regular file that was found, of a size that a caller is content with."""
        with scratch_directory(SCRATCH) as work:
            self._debugfs(work, command("dump", path, "content"))
            copy = work / "content"
            if not copy.is_file() or copy.stat().st_size != found.size:
                raise CheckError(f"{path} in {self.image.name} cannot be read whole")
            return copy.read_bytes()

    def stat(self, path: str) -> Stat:
        """Return what a path is, links not followed; raises CheckError too where it is nothing."""
        found = self.find(path)
        if found is None:
            raise CheckError(f"{path} is not in the file system of {self.image.name}")
        return found

    def find(self, path: str) -> Stat | None:
        """Return what a path is, None if it is not there.

        No link is followed, neither the last name nor one before. A path with a control character is none that debugfs
        can be asked for: UserError.
        """
        above = path.rpartition("/")[0]
        if above:
            directory = self.find(above)
            if directory is None or directory.type != DIRECTORY:
                return None
        with scratch_directory(SCRATCH) as work:
            output = self._debugfs(work, command("stat", path))
        found = _STAT.search(output)
        if found is None:
            if _MISSING in output:
                return None
            raise CheckError(f"{path} in {self.image.name} cannot be looked up", excerpt=output[:2000])
        kind, mode, uid, gid, size = found.groups()
        return Stat(kind, int(mode, 8), int(uid) & ID_BITS, int(gid) & ID_BITS, int(size))

    def list_dir(self, path: str, *, limit: int = ENTRIES_LIMIT) -> list[str]:
        """Return the sorted names in a directory; raises CheckError too for anything else, and for too many entries."""
        if self.stat(path).type != DIRECTORY:
            raise CheckError(f"{path} in {self.image.name} is not a directory")
        names: list[str] = []

        def add(line: str) -> None:
            entry = _ENTRY.fullmatch(line)
            if (not entry and line and not _VERSION.fullmatch(line)) or "\N{REPLACEMENT CHARACTER}" in line:
                raise CheckError(f"{path} in {self.image.name} has a name that can't be listed: {line[:80]!r}")
            if entry:
                names.append(entry[5])
            if len(names) > limit + 2:
                raise CheckError(f"{path} in {self.image.name} has more than {limit} entries")

        with scratch_directory(SCRATCH) as work:
            self._debugfs(work, command("ls", "-p", path), add)
        return sorted(name for name in names if name not in (".", ".."))

    def _debugfs(self, work: Path, request: bytes, on_line: Callable[[str], None] | None = None) -> str:
        _check_superblock(self.image, self.offset)
        argv = ["debugfs", "-R", request.decode(errors="surrogateescape"), target(work, self.image, self.offset)]
        return self.runtime.run(argv, cwd=work, on_line=on_line, timeout=TIMEOUT, error=CheckError).output


def was_left_mounted(image: Path, *, offset: int = 0) -> bool:
    """Whether a file system needs recovery: what it holds may lie in its journal."""
    with image.open("rb") as file:
        file.seek(offset + 1024)
        return _left_mounted(file.read(1024))


def _left_mounted(superblock: bytes) -> bool:
    return bool(int.from_bytes(superblock[_INCOMPAT_AT : _INCOMPAT_AT + 4], "little") & _NEEDS_RECOVERY)


def _check_superblock(image: Path, offset: int) -> None:
    with image.open("rb") as file:
        file.seek(offset + 1024)
        superblock = file.read(1024)
    if len(superblock) < 1024 or struct.unpack_from("<H", superblock, _MAGIC_AT)[0] != _MAGIC:
        raise CheckError(f"{image} has no ext4 file system at byte {offset}")
    if _left_mounted(superblock):
        raise CheckError(
            f"the file system of {image.name} was not unmounted: what it holds may lie in its journal",
            hint="the guest has to unmount it or to power off cleanly before it is read",
        )
