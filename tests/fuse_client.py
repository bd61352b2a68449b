"""A guest's kernel as far as FUSE goes: requests in any byte order and with any architecture's open flags.

The layouts stand here once more, written down from include/uapi/linux/fuse.h: a mistake in the server's is not made
twice.
"""

import itertools
import os
import struct
import threading
from types import SimpleNamespace

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


def failing(number):
    """A context that takes this refusal and no other."""
    import pytest  # noqa: PLC0415

    return pytest.raises(FuseError, match=os.strerror(number))


class Client:
    """Talks to a server; every method is a request."""

    def __init__(self, server, order="<", family="generic", uid=0, gid=0, pieces=None):
        self.server, self.order, self.family, self.uid, self.gid = server, order, family, uid, gid
        self.pieces = pieces  # sizes into which requests and replies are cut
        self.unique = itertools.count(2, 2)
        self.opened = {}  # flags of open files, which go with each write

    # messages

    def pack(self, fields, *values):
        return struct.pack(self.order + fields, *values)

    def unpack(self, fields, data):
        return struct.unpack_from(self.order + fields, data)

    def header(self, opcode, node, size, unique=None):
        unique = next(self.unique) if unique is None else unique
        return self.pack("IIQQIIIHH", 40 + size, opcode, unique, node, self.uid, self.gid, 4711, 0, 0), unique

    def call(self, opcode, node, body=b"", room=65536, unique=None):
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

    def wait(self, request, memory):
        """Make a request that may wait for a lock, and wait for its reply."""
        came, replies = threading.Event(), []

        def done(reply):
            replies.append(reply)
            came.set()

        reply = self.server.wait(request, len(memory), done, patient=True)
        if reply is None:
            came.wait()
            (reply,) = replies
        memory[: len(reply)] = reply
        return len(reply)

    def cut(self, data, usual):
        """Cut memory into pieces, as a guest's descriptors do."""
        rest, views = memoryview(data), []
        for size in self.pieces or usual:
            views.append(rest[:size])
            rest = rest[size:]
        return [view for view in (*views, rest) if len(view)]

    # operations

    def init(self, major=7, minor=39, flags=ALL, flags2=ALL, padded=True):
        body = self.pack("4I", major, minor, 131072, flags) + (self.pack("I44x", flags2) if padded else b"")
        return self.unpack("4I2H2I2HI", self.call(26, 0, body))

    def open_flags(self, names):
        table = {name: getattr(os, name) for name in names if name not in FLAGS["generic"]}
        table |= {name: FLAGS[self.family][name] for name in names if name in FLAGS["generic"]}
        return sum(table.values())

    def attributes(self, data):
        fields = self.unpack("6Q10I", data)
        names = "ino size blocks atime mtime ctime atimensec mtimensec ctimensec mode nlink uid gid rdev blksize flags"
        return SimpleNamespace(**dict(zip(names.split(), fields, strict=True)))

    def entry(self, data):
        node, _, _, _, _, _ = self.unpack("4Q2I", data)
        return SimpleNamespace(node=node, attr=self.attributes(data[40:]))

    def lookup(self, name, node=ROOT):
        return self.entry(self.call(1, node, name + b"\0"))

    def forget(self, node, count):
        assert self.call(2, node, self.pack("Q", count)) is None

    def batch_forget(self, *pairs):
        body = self.pack("2I", len(pairs), 0) + b"".join(self.pack("2Q", *pair) for pair in pairs)
        assert self.call(42, 0, body) is None

    def getattr(self, node):
        return self.attributes(self.call(3, node, self.pack("2IQ", 0, 0, 0))[16:])

    def setattr(self, node, valid, *, fh=0, size=0, times=(0, 0, 0, 0), mode=0, uid=0, gid=0):
        atime, atimensec, mtime, mtimensec = times
        body = self.pack(
            "2I3Q2qQ8I", valid, 0, fh, size, 0, atime, mtime, 0, atimensec, mtimensec, 0, mode, 0, uid, gid, 0
        )
        return self.attributes(self.call(4, node, body)[16:])

    def readlink(self, node):
        return self.call(5, node)

    def symlink(self, name, target, node=ROOT):
        return self.entry(self.call(6, node, name + b"\0" + target + b"\0"))

    def mknod(self, name, mode, rdev=0, node=ROOT):
        return self.entry(self.call(8, node, self.pack("4I", mode, rdev, 0, 0) + name + b"\0"))

    def mkdir(self, name, mode=0o755, node=ROOT):
        return self.entry(self.call(9, node, self.pack("2I", mode, 0) + name + b"\0"))

    def unlink(self, name, node=ROOT):
        self.call(10, node, name + b"\0")

    def rmdir(self, name, node=ROOT):
        self.call(11, node, name + b"\0")

    def rename(self, old, new, node=ROOT, to=ROOT):
        self.call(12, node, self.pack("Q", to) + old + b"\0" + new + b"\0")

    def rename2(self, old, new, flags, node=ROOT, to=ROOT):
        self.call(45, node, self.pack("Q2I", to, flags, 0) + old + b"\0" + new + b"\0")

    def link(self, old, name, node=ROOT):
        return self.entry(self.call(13, node, self.pack("Q", old) + name + b"\0"))

    def open(self, node, *flags, kill=0):
        fh, opened, _ = self.unpack("QIi", self.call(14, node, self.pack("2I", self.open_flags(flags), kill)))
        self.opened[fh] = self.open_flags(flags)
        return SimpleNamespace(fh=fh, flags=opened)

    def create(self, name, *flags, mode=0o644, node=ROOT, opcode=35):
        body = self.pack("4I", self.open_flags(("O_CREAT", *flags)), mode, 0, 0) + name + b"\0"
        data = self.call(opcode, node, body)
        fh, opened, _ = self.unpack("QIi", data[128:])
        self.opened[fh] = self.open_flags(flags)
        found = self.entry(data)
        return SimpleNamespace(fh=fh, flags=opened, node=found.node, attr=found.attr)

    def tmpfile(self, *flags, mode=0o600, node=ROOT):
        return self.create(b"", "O_DIRECTORY", "O_RDWR", *flags, mode=mode, node=node, opcode=51)

    def read(self, fh, offset, size, node=ROOT):
        return self.call(15, node, self.pack("2Q2IQ2I", fh, offset, size, 0, 0, 0, 0), room=size)

    def write(self, fh, offset, data, node=ROOT, kill=0):
        body = self.pack("2Q2IQ2I", fh, offset, len(data), kill, 0, self.opened.get(fh, 0), 0) + data
        return self.unpack("2I", self.call(16, node, body))[0]

    def statfs(self):
        return self.unpack("5Q3I", self.call(17, ROOT))

    def release(self, fh, node=ROOT):
        self.call(18, node, self.pack("Q2IQ", fh, 0, 0, 0))

    def flush(self, fh, owner=0):
        self.call(25, ROOT, self.pack("Q2IQ", fh, 0, 0, owner))

    def fsync(self, fh, opcode=20):
        self.call(opcode, ROOT, self.pack("Q2I", fh, 1, 0))

    def access(self, node, mask):
        self.call(34, node, self.pack("2I", mask, 0))

    def setxattr(self, node, name, value, flags=0):
        self.call(21, node, self.pack("2I", len(value), flags) + name + b"\0" + value)

    def getxattr(self, node, name, size=4096):
        return self.call(22, node, self.pack("2I", size, 0) + name + b"\0")

    def listxattr(self, node, size=4096):
        return self.call(23, node, self.pack("2I", size, 0))

    def removexattr(self, node, name):
        self.call(24, node, name + b"\0")

    def opendir(self, node=ROOT):
        return self.unpack("QIi", self.call(27, node, self.pack("2I", 0, 0)))[0]

    def readdir(self, fh, offset=0, size=4096, plus=False, node=ROOT):
        """One answer: a list of (entry or None, inode, next offset, type, name)."""
        body = self.pack("2Q2IQ2I", fh, offset, size, 0, 0, 0, 0)
        data, found = self.call(44 if plus else 28, node, body, room=size), []
        assert len(data) <= size
        while data:
            about = self.entry(data) if plus else None
            data = data[128:] if plus else data
            inode, following, length, kind = self.unpack("2Q2I", data)
            found.append((about, inode, following, kind, data[24 : 24 + length]))
            data = data[(24 + length + 7) & ~7 :]
        return found

    def names(self, fh, offset=0, size=4096, plus=False):
        """All names from an offset on."""
        while answer := self.readdir(fh, offset, size, plus):
            yield from (row[4] for row in answer if row[4] not in (b".", b".."))
            offset = answer[-1][2]

    def releasedir(self, fh):
        self.call(29, ROOT, self.pack("Q2IQ", fh, 0, 0, 0))

    def lock(self, opcode, fh, owner, start, end, kind, flock=False, unique=None):
        body = self.pack("2Q2Q2I2I", fh, owner, start, end, kind, 99, int(flock), 0)
        return self.call(opcode, ROOT, body, unique=unique)

    def getlk(self, fh, owner, start, end, kind):
        return self.unpack("2Q2I", self.lock(31, fh, owner, start, end, kind))

    def interrupt(self, unique):
        self.call(36, 0, self.pack("Q", unique))

    def fallocate(self, fh, offset, length, mode=0):
        self.call(43, ROOT, self.pack("3Q2I", fh, offset, length, mode, 0))

    def lseek(self, fh, offset, whence):
        return self.unpack("Q", self.call(46, ROOT, self.pack("2Q2I", fh, offset, whence, 0)))[0]

    def copy_file_range(self, source, at, target, into, length):
        body = self.pack("7Q", source, at, ROOT, target, into, length, 0)
        return self.unpack("2I", self.call(47, ROOT, body))[0]

    def statx(self, node):
        data = self.call(52, node, self.pack("2IQ2I", 0, 0, 0, 0, 0xFFF))
        uid, gid, mode, ino, size = self.unpack("2IH2x2Q", data[32 + 20 :])
        btime = self.unpack("q", data[32 + 80 :])[0]
        return SimpleNamespace(uid=uid, gid=gid, mode=mode, ino=ino, size=size, btime=btime)

    def destroy(self):
        self.call(38, 0)
