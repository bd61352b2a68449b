"""The initrd: a cpio archive in the `newc` format, byte for byte the same for the same tree.

Format: https://docs.kernel.org/driver-api/early-userspace/buffer-format.html
"""

import os
from pathlib import Path
from typing import IO

from guestforge.core.errors import BuildError, UserError
from guestforge.core.files import atomic_file
from guestforge.image.compress import compressed
from guestforge.rootfs.tree import Device, Directory, File, Node, Symlink, Tree, file_type

FIELD_MAX = 2**32 - 1  # a header's field is eight hexadecimal digits
FILE_MAX = FIELD_MAX
ALIGNMENT = 4
BLOCK = 512  # what cpio(1) pads a whole archive to
READ_SIZE = 1024 * 1024
TRAILER = b"TRAILER!!!"


def write_initrd(tree: Tree, out: Path, *, compression: str, mtime: int = 0) -> None:
    """Write a tree as a compressed cpio archive. `mtime` is in seconds since 1970.

    Raises UserError for what the format cannot hold and BuildError for a source that changes while it is read;
    `out` is then as it was before.
    """
    with atomic_file(out) as file, compressed(file, compression) as stream:
        write_newc(tree, stream, mtime=mtime)


def write_newc(tree: Tree, out: IO[bytes], *, mtime: int = 0) -> None:
    """Write a tree as an uncompressed cpio archive."""
    if not 0 <= mtime <= FIELD_MAX:
        raise UserError(f"initrd: the time {mtime} does not fit a cpio archive (0 to {FIELD_MAX})")
    length = 0
    # inode numbers are the places in the tree's order: stable, and never 0, which marks the trailer
    for inode, node in enumerate(tree, start=1):
        length += _member(node, inode, mtime, out)
    length += _write(out, _header(TRAILER, nlink=1))
    _write(out, _padding(length, BLOCK))


def _member(node: Node, inode: int, mtime: int, out: IO[bytes]) -> int:
    size = _size(node)
    fields = {"inode": inode, "mode": file_type(node) | node.mode, "uid": node.uid, "gid": node.gid, "mtime": mtime}
    # two links, "." and the parent's entry, are what cpio(1) records for a directory
    header = _header(_name(node), **fields, nlink=1 + isinstance(node, Directory), size=size, device=_device(node))
    length = _write(out, header)
    length += _content(node, size, out)
    return length + _write(out, _padding(size))


def _name(node: Node) -> bytes:
    return os.fsencode(node.path[1:]) or b"."


def _size(node: Node) -> int:
    match node:
        case File():
            if node.size > FILE_MAX:
                raise UserError(f"initrd: {node.path!r} has {node.size} bytes; a cpio archive's files end at 4 GiB")
            return node.size
        case Symlink():
            return len(os.fsencode(node.target))
        case _:
            return 0


def _device(node: Node) -> tuple[int, int]:
    return (node.major, node.minor) if isinstance(node, Device) else (0, 0)


def _header(
    name: bytes,
    *,
    nlink: int,
    inode: int = 0,
    mode: int = 0,
    uid: int = 0,
    gid: int = 0,
    mtime: int = 0,
    size: int = 0,
    device: tuple[int, int] = (0, 0),
) -> bytes:
    """Return a member's header and name, padded; the containing file system's device and the checksum are 0."""
    values = (inode, mode, uid, gid, nlink, mtime, size, 0, 0, *device, len(name) + 1, 0)
    header = b"070701" + b"".join(b"%08X" % value for value in values) + name + b"\0"
    return header + _padding(len(header))


def _padding(length: int, alignment: int = ALIGNMENT) -> bytes:
    return bytes(-length % alignment)


def _content(node: Node, size: int, out: IO[bytes]) -> int:
    match node:
        case File(source=bytes() as data):
            return _write(out, data)
        case File(source=Path() as source):
            return _copy(source, size, out)
        case Symlink():
            return _write(out, os.fsencode(node.target))
        case _:
            return 0


def _copy(source: Path, size: int, out: IO[bytes]) -> int:
    left = size
    with source.open("rb") as file:
        while data := file.read(min(READ_SIZE, left + 1)):  # one more byte shows a file that grows
            left -= len(data)
            if left < 0:
                break
            out.write(data)
    if left:
        raise BuildError(f"initrd: {source} changed while it was read")
    return size


def _write(out: IO[bytes], data: bytes) -> int:
    out.write(data)
    return len(data)
