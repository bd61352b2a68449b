"""A guest's kernel as far as FUSE goes: requests in any byte order and with any architecture's open flags.

The layouts stand here once more, written down from include/uapi/linux/fuse.h: a mistake in the server's is not made
twice.
"""

import contextlib
import itertools
import os
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

# asm/fcntl.h of each family, in octal
FLAGS = {
    "generic": {"O_DIRECT": 0o40000, "O_LARGEFILE": 0o100000, "O_DIRECTORY": 0o200000, "O_NOFOLLOW": 0o400000},
    "arm64": {"O_DIRECTORY": 0o40000, "O_NOFOLLOW": 0o100000, "O_DIRECT": 0o200000, "O_LARGEFILE": 0o400000},
    "powerpc": {"O_DIRECTORY": 0o40000, "O_NOFOLLOW": 0o100000, "O_LARGEFILE": 0o200000, "O_DIRECT": 0o400000},
}
ROOT = 1
SETLKW = 33
ALL = 0xFFFF_FFFF


class FuseError(OSError):
    """The server's refusal."""


@contextlib.contextmanager
def failing(number: int) -> Iterator[None]:
    """A context that must end with this refusal, and takes no other."""
    try:
        yield
    except FuseError as e:
        assert e.errno == number, f"{e} in the place of {os.strerror(number)}"
    else:
        raise AssertionError(f"no refusal in the place of {os.strerror(number)}")


class Server(Protocol):
    """A file server, as a device has it: `serve` answers at once, `wait` when a lock can be had."""

    def serve(self, request: Sequence[memoryview], reply: Sequence[memoryview]) -> int:
        """Answer a request; return the length of the reply, 0 where there is none."""

    def wait(self, request: bytes, room: int, done: Callable[[bytes], None], *, patient: bool) -> bytes | None:
        """Answer a request that may wait; None where `done` is called with the reply later."""


@dataclass(frozen=True)
class Attributes:
    """struct fuse_attr."""

    ino: int
    size: int
    blocks: int
    atime: int
    mtime: int
    ctime: int
    atimensec: int
    mtimensec: int
    ctimensec: int
    mode: int
    nlink: int
    uid: int
    gid: int
    rdev: int
    blksize: int
    flags: int


@dataclass(frozen=True)
class Entry:
    """struct fuse_entry_out, as far as anybody looks at it."""

    node: int
    attr: Attributes


@dataclass(frozen=True)
class Opened:
    """struct fuse_open_out."""

    fh: int
    flags: int


@dataclass(frozen=True)
class Created:
    """Both of them."""

    fh: int
    flags: int
    node: int
    attr: Attributes


@dataclass(frozen=True)
class Statx:
    """struct fuse_statx, as far as anybody looks at it."""

    uid: int
    gid: int
    mode: int
    ino: int
    size: int
    btime: int


Listed = tuple[Entry | None, int, int, int, bytes]  # entry, inode, next offset, type, name


class Client:
    """Talks to a server; every method is a request."""

    def __init__(
        self,
        server: Server,
        order: str = "<",
        family: str = "generic",
        uid: int = 0,
        gid: int = 0,
        pieces: Sequence[int] | None = None,
    ) -> None:
        self.server, self.order, self.family, self.uid, self.gid = server, order, family, uid, gid
        self.pieces = pieces  # sizes into which requests and replies are cut
        self.unique = itertools.count(2, 2)
        self.opened: dict[int, int] = {}  # flags of open files, which go with each write

    # messages

    def pack(self, fields: str, *values: int) -> bytes:
        return struct.pack(self.order + fields, *values)

    def unpack(self, fields: str, data: bytes | bytearray) -> tuple[Any, ...]:
        return struct.unpack_from(self.order + fields, data)

    def header(self, opcode: int, node: int, size: int, unique: int | None = None) -> tuple[bytes, int]:
        unique = next(self.unique) if unique is None else unique
        return self.pack("IIQQIIIHH", 40 + size, opcode, unique, node, self.uid, self.gid, 4711, 0, 0), unique

    def call(self, opcode: int, node: int, body: bytes = b"", room: int = 65536, unique: int | None = None) -> bytes:
        """Make a request that has a reply; return its payload. Raises FuseError."""
        reply = self.send(opcode, node, body, room, unique)
        assert reply is not None
        return reply

    def send(
        self, opcode: int, node: int, body: bytes = b"", room: int = 65536, unique: int | None = None
    ) -> bytes | None:
        """Make a request; return the reply's payload, None if there is no reply. Raises FuseError."""
        header, unique = self.header(opcode, node, len(body), unique)
        memory = bytearray(16 + room)
        if opcode == SETLKW:
            size = self.wait(header + body, memory)
        else:
            size = self.server.serve(self.cut(header + body, [40]), self.cut(memory, [16]))
        if size == 0:
            return None
        length, error, answered = self.unpack("IiQ", memory)
        assert (length, answered) == (size, unique)
        if error:
            assert length == 16
            raise FuseError(-error, os.strerror(-error))
        return bytes(memory[16:length])

    def wait(self, request: bytes, memory: bytearray) -> int:
        """Make a request that may wait for a lock, and wait for its reply."""
        came = threading.Event()
        replies: list[bytes] = []

        def done(reply: bytes) -> None:
            replies.append(reply)
            came.set()

        reply = self.server.wait(request, len(memory), done, patient=True)
        if reply is None:
            came.wait()
            (reply,) = replies
        memory[: len(reply)] = reply
        return len(reply)

    def cut(self, data: bytes | bytearray, usual: Sequence[int]) -> list[memoryview]:
        """Cut memory into pieces, as a guest's descriptors do."""
        rest = memoryview(data)
        views: list[memoryview] = []
        for size in self.pieces or usual:
            views.append(rest[:size])
            rest = rest[size:]
        return [view for view in (*views, rest) if len(view)]

    # operations

    def init(
        self, major: int = 7, minor: int = 39, flags: int = ALL, flags2: int = ALL, padded: bool = True
    ) -> tuple[Any, ...]:
        body = self.pack("4I", major, minor, 131072, flags) + (self.pack("I44x", flags2) if padded else b"")
        return self.unpack("4I2H2I2HI", self.call(26, 0, body))

    def open_flags(self, names: Sequence[str]) -> int:
        table: dict[str, int] = {name: getattr(os, name) for name in names if name not in FLAGS["generic"]}
        table |= {name: FLAGS[self.family][name] for name in names if name in FLAGS["generic"]}
        return sum(table.values())

    def attributes(self, data: bytes) -> Attributes:
        return Attributes(*self.unpack("6Q10I", data))

    def entry(self, data: bytes) -> Entry:
        node, _, _, _, _, _ = self.unpack("4Q2I", data)
        return Entry(node, self.attributes(data[40:]))

    def lookup(self, name: bytes, node: int = ROOT) -> Entry:
        return self.entry(self.call(1, node, name + b"\0"))

    def forget(self, node: int, count: int) -> None:
        assert self.send(2, node, self.pack("Q", count)) is None

    def batch_forget(self, *pairs: tuple[int, int]) -> None:
        body = self.pack("2I", len(pairs), 0) + b"".join(self.pack("2Q", *pair) for pair in pairs)
        assert self.send(42, 0, body) is None

    def getattr(self, node: int) -> Attributes:
        return self.attributes(self.call(3, node, self.pack("2IQ", 0, 0, 0))[16:])

    def setattr(
        self,
        node: int,
        valid: int,
        *,
        fh: int = 0,
        size: int = 0,
        times: tuple[int, int, int, int] = (0, 0, 0, 0),
        mode: int = 0,
        uid: int = 0,
        gid: int = 0,
    ) -> Attributes:
        atime, atimensec, mtime, mtimensec = times
        body = self.pack(
            "2I3Q2qQ8I", valid, 0, fh, size, 0, atime, mtime, 0, atimensec, mtimensec, 0, mode, 0, uid, gid, 0
        )
        return self.attributes(self.call(4, node, body)[16:])

    def readlink(self, node: int) -> bytes:
        return self.call(5, node)

    def symlink(self, name: bytes, target: bytes, node: int = ROOT) -> Entry:
        return self.entry(self.call(6, node, name + b"\0" + target + b"\0"))

    def mknod(self, name: bytes, mode: int, rdev: int = 0, node: int = ROOT) -> Entry:
        return self.entry(self.call(8, node, self.pack("4I", mode, rdev, 0, 0) + name + b"\0"))

    def mkdir(self, name: bytes, mode: int = 0o755, node: int = ROOT) -> Entry:
        return self.entry(self.call(9, node, self.pack("2I", mode, 0) + name + b"\0"))

    def unlink(self, name: bytes, node: int = ROOT) -> None:
        self.call(10, node, name + b"\0")

    def rmdir(self, name: bytes, node: int = ROOT) -> None:
        self.call(11, node, name + b"\0")

    def rename(self, old: bytes, new: bytes, node: int = ROOT, to: int = ROOT) -> None:
        self.call(12, node, self.pack("Q", to) + old + b"\0" + new + b"\0")

    def rename2(self, old: bytes, new: bytes, flags: int, node: int = ROOT, to: int = ROOT) -> None:
        self.call(45, node, self.pack("Q2I", to, flags, 0) + old + b"\0" + new + b"\0")

    def link(self, old: int, name: bytes, node: int = ROOT) -> Entry:
        return self.entry(self.call(13, node, self.pack("Q", old) + name + b"\0"))

    def open(self, node: int, *flags: str, kill: int = 0) -> Opened:
        fh, opened, _ = self.unpack("QIi", self.call(14, node, self.pack("2I", self.open_flags(flags), kill)))
        self.opened[fh] = self.open_flags(flags)
        return Opened(fh, opened)

    def create(self, name: bytes, *flags: str, mode: int = 0o644, node: int = ROOT, opcode: int = 35) -> Created:
        body = self.pack("4I", self.open_flags(("O_CREAT", *flags)), mode, 0, 0) + name + b"\0"
        data = self.call(opcode, node, body)
        fh, opened, _ = self.unpack("QIi", data[128:])
        self.opened[fh] = self.open_flags(flags)
        found = self.entry(data)
        return Created(fh, opened, found.node, found.attr)

    def tmpfile(self, *flags: str, mode: int = 0o600, node: int = ROOT) -> Created:
        return self.create(b"", "O_DIRECTORY", "O_RDWR", *flags, mode=mode, node=node, opcode=51)

    def read(self, fh: int, offset: int, size: int, node: int = ROOT) -> bytes:
        return self.call(15, node, self.pack("2Q2IQ2I", fh, offset, size, 0, 0, 0, 0), room=size)

    def write(self, fh: int, offset: int, data: bytes, node: int = ROOT, kill: int = 0) -> int:
        body = self.pack("2Q2IQ2I", fh, offset, len(data), kill, 0, self.opened.get(fh, 0), 0) + data
        return int(self.unpack("2I", self.call(16, node, body))[0])

    def statfs(self) -> tuple[Any, ...]:
        return self.unpack("5Q3I", self.call(17, ROOT))

    def release(self, fh: int, node: int = ROOT) -> None:
        self.call(18, node, self.pack("Q2IQ", fh, 0, 0, 0))

    def flush(self, fh: int, owner: int = 0) -> None:
        self.call(25, ROOT, self.pack("Q2IQ", fh, 0, 0, owner))

    def fsync(self, fh: int, opcode: int = 20) -> None:
        self.call(opcode, ROOT, self.pack("Q2I", fh, 1, 0))

    def access(self, node: int, mask: int) -> None:
        self.call(34, node, self.pack("2I", mask, 0))

    def setxattr(self, node: int, name: bytes, value: bytes, flags: int = 0) -> None:
        self.call(21, node, self.pack("2I", len(value), flags) + name + b"\0" + value)

    def getxattr(self, node: int, name: bytes, size: int = 4096) -> bytes:
        return self.call(22, node, self.pack("2I", size, 0) + name + b"\0")

    def listxattr(self, node: int, size: int = 4096) -> bytes:
        return self.call(23, node, self.pack("2I", size, 0))

    def removexattr(self, node: int, name: bytes) -> None:
        self.call(24, node, name + b"\0")

    def opendir(self, node: int = ROOT) -> int:
        return int(self.unpack("QIi", self.call(27, node, self.pack("2I", 0, 0)))[0])

    def readdir(self, fh: int, offset: int = 0, size: int = 4096, plus: bool = False, node: int = ROOT) -> list[Listed]:
        """One answer: a list of (entry or None, inode, next offset, type, name)."""
        body = self.pack("2Q2IQ2I", fh, offset, size, 0, 0, 0, 0)
        data = self.call(44 if plus else 28, node, body, room=size)
        found: list[Listed] = []
        assert len(data) <= size
        while data:
            about = self.entry(data) if plus else None
            data = data[128:] if plus else data
            inode, following, length, kind = self.unpack("2Q2I", data)
            found.append((about, inode, following, kind, data[24 : 24 + length]))
            data = data[(24 + length + 7) & ~7 :]
        return found

    def names(self, fh: int, offset: int = 0, size: int = 4096, plus: bool = False) -> Iterator[bytes]:
        """All names from an offset on."""
        while answer := self.readdir(fh, offset, size, plus):
            yield from (row[4] for row in answer if row[4] not in (b".", b".."))
            offset = answer[-1][2]

    def releasedir(self, fh: int) -> None:
        self.call(29, ROOT, self.pack("Q2IQ", fh, 0, 0, 0))

    def lock(
        self,
        opcode: int,
        fh: int,
        owner: int,
        start: int,
        end: int,
        kind: int,
        flock: bool = False,
        unique: int | None = None,
    ) -> bytes:
        body = self.pack("2Q2Q2I2I", fh, owner, start, end, kind, 99, int(flock), 0)
        return self.call(opcode, ROOT, body, unique=unique)

    def getlk(self, fh: int, owner: int, start: int, end: int, kind: int) -> tuple[Any, ...]:
        return self.unpack("2Q2I", self.lock(31, fh, owner, start, end, kind))

    def interrupt(self, unique: int) -> None:
        self.send(36, 0, self.pack("Q", unique))

    def fallocate(self, fh: int, offset: int, length: int, mode: int = 0) -> None:
        self.call(43, ROOT, self.pack("3Q2I", fh, offset, length, mode, 0))

    def lseek(self, fh: int, offset: int, whence: int) -> int:
        return int(self.unpack("Q", self.call(46, ROOT, self.pack("2Q2I", fh, offset, whence, 0)))[0])

    def copy_file_range(self, source: int, at: int, target: int, into: int, length: int) -> int:
        body = self.pack("7Q", source, at, ROOT, target, into, length, 0)
        return int(self.unpack("2I", self.call(47, ROOT, body))[0])

    def statx(self, node: int) -> Statx:
        data = self.call(52, node, self.pack("2IQ2I", 0, 0, 0, 0, 0xFFF))
        uid, gid, mode, ino, size = self.unpack("2IH2x2Q", data[32 + 20 :])
        btime = self.unpack("q", data[32 + 80 :])[0]
        return Statx(uid, gid, mode, ino, size, btime)

    def destroy(self) -> None:
        self.send(38, 0)
