"""A root file system as pure data: what each path is, who owns it, what it holds. Nothing here needs root.

The images are written from this description, so that an owner, a device node or a mode never has to exist on the
host's own file system.
"""

import hashlib
import json
import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path, PurePosixPath
from typing import Literal

from guestforge.core.errors import BuildError, UserError
from guestforge.core.files import digest_file

# limits.h of Linux: NAME_MAX; PATH_MAX counts the NUL
NAME_MAX = 255
PATH_MAX = 4095
ID_MAX = 2**32 - 2  # the last one means "no change" to chown(2)
# the kernel's dev_t has 12 bits of major; its 20 bits of minor are cut to what debugfs's mknod takes
MAJOR_MAX = 0xFFF
MINOR_MAX = 0xFFFF


@dataclass(frozen=True, slots=True)
class File:
    """A regular file. `source` is its content: a file of the host, or the bytes themselves."""

    path: str
    source: Path | bytes
    mode: int = 0o644
    uid: int = 0
    gid: int = 0

    @property
    def size(self) -> int:
        """The content's length in bytes; raises BuildError when the source is not a readable regular file."""
        return len(self.source) if isinstance(self.source, bytes) else _regular(self.source, self.path).st_size

    def digest(self) -> str:
        """Return the content's SHA-256 in hex."""
        if isinstance(self.source, bytes):
            return hashlib.sha256(self.source).hexdigest()
        _regular(self.source, self.path)
        return digest_file(self.source)


@dataclass(frozen=True, slots=True)
class Directory:
    """A directory."""

    path: str
    mode: int = 0o755
    uid: int = 0
    gid: int = 0


@dataclass(frozen=True, slots=True)
class Symlink:
    """A symbolic link; `target` is what readlink(2) gives in the guest."""

    path: str
    target: str
    uid: int = 0
    gid: int = 0

    @property
    def mode(self) -> int:
        """The mode that Linux shows for every symbolic link."""
        return 0o777


@dataclass(frozen=True, slots=True)
class Device:
    """A device node."""

    path: str
    kind: Literal["char", "block"]
    major: int
    minor: int
    mode: int = 0o600
    uid: int = 0
    gid: int = 0


Node = File | Directory | Symlink | Device

_KINDS = {"char": stat.S_IFCHR, "block": stat.S_IFBLK}


def file_type(node: Node) -> int:
    """Return the file type bits of st_mode, as in inode(7)."""
    match node:
        case File():
            return stat.S_IFREG
        case Directory():
            return stat.S_IFDIR
        case Symlink():
            return stat.S_IFLNK
        case Device():
            return _KINDS[node.kind]


@dataclass(frozen=True, slots=True)
class Tree:
    """A root file system: its nodes in a fixed order, parents before children, the root directory first.

    Missing parents are added as root's directories of mode 0755; a node given twice counts once. Raises UserError for
    a path that is not absolute and normalised, for two different nodes of one path, and for a node below a
    non-directory.
    """

    nodes: tuple[Node, ...]

    def __init__(self, nodes: Iterable[Node] = ()) -> None:
        by_path: dict[str, Node] = {}
        for node in nodes:
            _check(node)
            if by_path.setdefault(node.path, node) != node:
                raise UserError(f"root file system: {node.path!r} is given twice, with different content or owner")
        above = {parent for path in by_path for parent in parents(path)}
        for path in above | {"/"}:
            if not isinstance(by_path.setdefault(path, Directory(path)), Directory):
                raise UserError(f"root file system: {path!r} is not a directory, but there are files below it")
        object.__setattr__(self, "nodes", tuple(sorted(by_path.values(), key=_order)))

    def __iter__(self) -> Iterator[Node]:
        return iter(self.nodes)

    def find(self, path: str) -> Node | None:
        """Return the node of a path, or None."""
        return next((node for node in self.nodes if node.path == path), None)

    def digest(self) -> str:
        """Return a SHA-256 in hex over all that an image of this tree depends on; reads every file."""
        state = hashlib.sha256()
        for node in self.nodes:
            state.update(json.dumps(_facts(node)).encode() + b"\n")
        return state.hexdigest()


def parents(path: str) -> list[str]:
    """Return a path's parent directories, nearest first, the root included."""
    return [str(parent) for parent in PurePosixPath(path).parents]


def _order(node: Node) -> list[bytes]:
    return [] if node.path == "/" else os.fsencode(node.path[1:]).split(b"/")


def _facts(node: Node) -> list[object]:
    values = [getattr(node, field.name) for field in fields(node) if field.name != "source"]
    return [type(node).__name__, *values, node.digest() if isinstance(node, File) else None]


def _check(node: Node) -> None:
    _check_path(node.path)
    _check_number(node, "mode", node.mode, 0o7777)
    _check_number(node, "uid", node.uid, ID_MAX)
    _check_number(node, "gid", node.gid, ID_MAX)
    match node:
        case Symlink():
            _check_target(node)
        case Device():
            _check_number(node, "major", node.major, MAJOR_MAX)
            _check_number(node, "minor", node.minor, MINOR_MAX)
        case File() if node.path == "/":
            raise UserError("root file system: '/' is a directory")


def _check_path(path: str) -> None:
    parts = path[1:].split("/") if path != "/" else []
    if not path.startswith("/") or any(part in ("", ".", "..") for part in parts):
        raise UserError(
            f"root file system: {path!r} is not an absolute path in normal form",
            hint="start it with '/', without '.', '..', double or trailing slashes",
        )
    if "\0" in path or len(_encoded(path)) > PATH_MAX or any(len(_encoded(part)) > NAME_MAX for part in parts):
        raise UserError(f"root file system: {path[:80]!r} holds a NUL or is longer than Linux allows")


def _check_target(link: Symlink) -> None:
    if not link.target or "\0" in link.target or len(_encoded(link.target)) > PATH_MAX:
        raise UserError(f"root file system: the target of {link.path!r} is empty, too long or holds a NUL")


def _check_number(node: Node, name: str, value: int, maximum: int) -> None:
    if not 0 <= value <= maximum:
        raise UserError(f"root file system: {name} {value} of {node.path!r} is not between 0 and {maximum}")


def _encoded(text: str) -> bytes:
    try:
        return os.fsencode(text)
    except UnicodeEncodeError as e:
        raise UserError(f"root file system: {text[:80]!r} cannot be a file name") from e


def _regular(source: Path, path: str) -> os.stat_result:
    try:
        found = source.stat()
    except OSError as e:
        raise BuildError(f"root file system: cannot read {source}, the content of {path!r}: {e.strerror}") from e
    if not stat.S_ISREG(found.st_mode):
        raise BuildError(f"root file system: {source}, the content of {path!r}, is not a regular file")
    return found
