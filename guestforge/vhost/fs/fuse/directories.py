"""Operations on open directories. Positions are the host's own, so they hold while the directory changes."""

import ctypes
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from guestforge.vhost.fs.fuse.abi import layout
from guestforge.vhost.fs.fuse.files import synced
from guestforge.vhost.fs.fuse.inodes import Handle
from guestforge.vhost.fs.fuse.protocol import (
    DIRENT,
    ENTRY_FIELDS,
    ENTRY_OUT,
    FSYNC_IN,
    OPEN_OUT,
    READ_IN,
    RELEASE_IN,
    Op,
)
from guestforge.vhost.fs.fuse.share import Operation, Request, Share
from guestforge.vhost.fs.fuse.shown import entry
from guestforge.vhost.fs.fuse.syscalls import getdents

MAX_ANSWER: Final = 128 * 1024  # bytes of one answer; the guest asks for a page, or for as much as it reads ahead
MOST: Final = 32 * 1024  # bytes taken from the host at once
DENTRY: Final = struct.Struct("=QqHB")  # struct linux_dirent64 without its name, getdents64(2)


@dataclass(frozen=True, slots=True)
class Entry:
    """A directory's entry; `next` is the position of the one that follows it."""

    inode: int
    next: int
    kind: int  # DT_*
    name: bytes


def opendir(share: Share, request: Request) -> bytes:
    """Open a directory."""
    inode = share.inodes.directory(request.nodeid)
    descriptor = share.reopen(inode, os.O_RDONLY | os.O_DIRECTORY)
    return request.pack(OPEN_OUT, share.handles.add(descriptor, inode, directory=True), 0, 0)


def readdir(share: Share, request: Request) -> bytes:
    """Tell names."""
    return _read(share, request, plus=False)


def readdirplus(share: Share, request: Request) -> bytes:
    """Tell names, and what is under each."""
    return _read(share, request, plus=True)


def _read(share: Share, request: Request, *, plus: bool) -> bytes:
    number, offset, size, *_ = request.fields(READ_IN)
    handle, lock = share.handles.directory(number)
    size = min(size, request.room, MAX_ANSWER)
    parts: list[bytes] = []
    head, record = layout(request.order, ENTRY_OUT).size if plus else 0, layout(request.order, DIRENT).size
    number_of, number_at = layout(request.order, "Q"), layout(request.order, ENTRY_FIELDS).size
    with lock:
        for one in _entries(handle, offset, size):
            length = head + (record + len(one.name) + 7 & ~7)
            if length > size:
                break
            size -= length
            about = _about(share, request, handle, one) if plus else b""
            inode = about and number_of.unpack_from(about, number_at)[0]
            parts += [about, _record(request, one, inode or share.inodes.numbers.shown(handle.inode.device, one.inode))]
    return b"".join(parts)


def _entries(handle: Handle, offset: int, size: int) -> Iterator[Entry]:
    """Yield the entries from a position on, as many as an answer of that size can have at most."""
    os.lseek(handle.descriptor, offset, os.SEEK_SET)
    buffer = ctypes.create_string_buffer(max(512, min(size, MOST)))
    while filled := getdents(handle.descriptor, buffer):
        data, at = buffer.raw[:filled], 0
        while at < filled:
            inode, following, length, kind = DENTRY.unpack_from(data, at)
            yield Entry(inode, following, kind, data[at + DENTRY.size : at + length].split(b"\0", 1)[0])
            at += length


def _record(request: Request, one: Entry, inode: int) -> bytes:
    head = request.pack(DIRENT, inode, one.next, len(one.name), one.kind)
    return (head + one.name).ljust((len(head) + len(one.name) + 7) & ~7, b"\0")


def _about(share: Share, request: Request, handle: Handle, one: Entry) -> bytes:
    """Return ENTRY_OUT; an empty one for `.` and `..`, which the guest knows, and for what is gone by now."""
    if one.name not in (b".", b".."):
        try:
            return entry(share, request, *share.find(handle.inode, one.name))
        except OSError:
            pass
    return bytes(layout(request.order, ENTRY_OUT).size)


def releasedir(share: Share, request: Request) -> bytes:
    """Close a directory."""
    number, *_ = request.fields(RELEASE_IN)
    share.handles.directory(number)
    share.handles.remove(number)
    return b""


def fsyncdir(share: Share, request: Request) -> bytes:
    """Write a directory to the disk."""
    number, flags, _ = request.fields(FSYNC_IN)
    return synced(share.handles.directory(number)[0].descriptor, flags)


OPERATIONS: dict[int, Operation] = {
    Op.OPENDIR: opendir,
    Op.READDIR: readdir,
    Op.READDIRPLUS: readdirplus,
    Op.RELEASEDIR: releasedir,
    Op.FSYNCDIR: fsyncdir,
}
