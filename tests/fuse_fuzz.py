"""Throws mutated requests at the FUSE server: `python -m tests.fuse_fuzz --requests 1000000`.

Requests are made by guestforge/testing/fuse_client.py with nodes and handles that exist, so most would succeed; then
some of their bytes, numbers, names, lengths or pieces are changed. All binary interfaces have their turn. A share with
all that may lead elsewhere lies beside files that must stay as they are.

It fails when the server raises or makes a mistake, when a reply is none, when a node or a handle is something outside
the share or a device, when what lies beside the share changes, when descriptors are left open, and when it hangs.
"""

import argparse
import collections
import contextlib
import errno
import faulthandler
import gc
import os
import random
import resource
import shutil
import stat
import struct
import sys
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path

from guestforge.arch import ARCHES
from guestforge.testing.fuse_client import ROOT, Client, FuseError
from guestforge.vhost.fs.fuse import make, retired
from guestforge.vhost.fs.fuse.inodes import Handle
from guestforge.vhost.fs.fuse.server import OPERATIONS, FuseServer
from guestforge.vhost.fs.fuse.space import Quota

ABIS = (("<", "generic"), ("<", "arm64"), ("<", "powerpc"), (">", "generic"))
NAMES = b"f g d e l out absolute fifo zero hard inside new1 new2".split()
BAD_NAMES = [
    b"", b".", b"..", b"../outside", b"a/b", b"/etc/passwd", b"a\0b", b"x" * 255, b"x" * 256, b"\xff\xfe",
]  # fmt: skip
NUMBERS = [
    0, 1, 2, 3, 4, 7, 8, 16, 40, 255, 256, 4095, 4096, 0xFFFF, 0x10000, 0x100001, 2**31 - 1, 2**31, 2**32 - 1, 2**62,
    2**63 - 1, 2**63, 2**64 - 4096, 2**64 - 1, 0o100644, 0o40755, 0o120777, 0o10600, 0o20666, 0o60666,
]  # fmt: skip
FLAGS = ("O_RDONLY", "O_WRONLY", "O_RDWR", "O_TRUNC", "O_APPEND", "O_EXCL", "O_NONBLOCK", "O_DIRECT", "O_DIRECTORY",
         "O_NOFOLLOW", "O_LARGEFILE", "O_TMPFILE", "O_PATH", "O_NOATIME", "O_SYNC")  # fmt: skip
ROUND = 10_000  # requests, then everything is looked at and begun anew
ROOM = 256 << 20  # bytes, or the host would have none
HANG = 60  # seconds for a round's slowest request, generously
FILE_SIZE = 4 << 20  # bytes; a guest may ask for a file as large as the disk


class Mistake(AssertionError):
    """What the server must not do."""


class Watched(FuseServer):
    """A server that does not hide its mistakes."""

    def _mistaken(self, request, error):
        raise Mistake(f"operation {request.opcode} of {request}") from error


class Captured(Exception):
    """A request that a client would have made."""


class Guest(Client):
    """A client that lies."""

    def __init__(self, server, share, order, family, rng, known):
        super().__init__(server, order, family, rng.choice([0, os.getuid(), 1000]), rng.choice([0, 1000]))
        self.share = share
        self.rng, self.known, self.capturing = rng, known, True
        self.outcomes = collections.Counter()

    def send(self, opcode, node, body=b"", room=65536, unique=None):
        if self.capturing:
            raise Captured(opcode, node, body, room)
        return super().send(opcode, node, body, room, unique)

    def call(self, opcode, node, body=b"", room=65536, unique=None):
        answer = self.send(opcode, node, body, room, unique)
        if answer is None:  # another guest has ended the session
            raise FuseError(errno.ENOTCONN, "no session")
        return answer

    def begin(self):
        """A session."""
        self.capturing = False
        self.init()
        self.capturing = True
        self.look_around()

    def look_around(self):
        """Have a few things there, known and open; what other guests did may be in the way."""
        furnish(self.share)
        self.capturing = False
        for name in (b"f", b"d", b"l", b"out", b"fifo", b"zero", b"hard"):
            with contextlib.suppress(FuseError):
                self.known["node"].append(self.lookup(name).node)
        self.known["node"] += [ROOT, ROOT]
        with contextlib.suppress(FuseError):
            self.known["file"].append(self.create(b"f", "O_RDWR").fh)
        with contextlib.suppress(FuseError):
            self.known["directory"].append(self.opendir())
        self.capturing = True

    def pick(self, kind):
        known = self.known[kind]
        return self.rng.choice(known[-12:]) if known and self.rng.random() > 0.02 else self.rng.choice(NUMBERS)

    def number(self, least=0):
        return self.rng.choice([self.rng.randrange(20), self.rng.randrange(5000), self.rng.choice(NUMBERS)]) or least

    def name(self):
        return self.rng.choice(NAMES if self.rng.random() < 0.9 else BAD_NAMES)

    def directory(self):
        return ROOT if self.rng.random() < 0.7 else self.pick("node")

    def flags(self):
        return self.rng.sample(FLAGS, self.rng.randrange(1, 4))

    def some(self):
        """A request as it should be: operation, node, body, room for the reply."""
        r, node, file, where = self.rng, self.pick("node"), self.pick("file"), self.directory()
        small = r.randrange(2**32)
        requests = (
            lambda: self.lookup(self.name(), where),
            lambda: self.forget(node, r.randrange(2)),
            lambda: self.batch_forget(*((self.pick("node"), 1) for _ in range(r.randrange(2)))),
            lambda: self.getattr(node),
            lambda: self.setattr(
                node, r.randrange(1 << 12), fh=file, size=self.number() % 2**63, times=(1, 2, 3, 4), mode=small,
                uid=r.randrange(3), gid=small,
            ),
            lambda: self.readlink(node),
            lambda: self.symlink(self.name(), self.name(), where),
            lambda: self.mknod(self.name(), r.choice(NUMBERS) % 2**32, small, where),
            lambda: self.mkdir(self.name(), r.choice([0o755, small]), where),
            lambda: self.unlink(self.name(), where),
            lambda: self.rmdir(self.name(), where),
            lambda: self.rename(self.name(), self.name(), where, self.directory()),
            lambda: self.rename2(self.name(), self.name(), r.randrange(4), where, self.directory()),
            lambda: self.link(node, self.name(), where),
            lambda: self.open(node, *self.flags(), kill=r.randrange(2)),
            lambda: self.create(self.name(), *self.flags(), mode=r.choice([0o644, small]), node=where),
            lambda: self.create(b"", *self.flags(), node=where, opcode=51),
            lambda: self.read(file, self.number() % 2**64, r.randrange(8192)),
            lambda: self.write(file, self.number() % 2**64, r.randbytes(r.randrange(300)), kill=r.randrange(8)),
            self.statfs,
            lambda: self.release(file),
            lambda: self.flush(file, r.randrange(3)),
            lambda: self.fsync(file),
            lambda: self.setxattr(node, b"user." + self.name()[:8], r.randbytes(r.randrange(50)), r.randrange(3)),
            lambda: self.getxattr(node, b"user." + self.name()[:8], r.randrange(100)),
            lambda: self.listxattr(node, r.randrange(100)),
            lambda: self.removexattr(node, b"user." + self.name()[:8]),
            lambda: self.opendir(node),
            lambda: self.readdir(
                self.pick("directory"), self.number() % 2**64, r.randrange(5000), plus=r.random() < 0.5
            ),
            lambda: self.releasedir(self.pick("directory")),
            lambda: self.lock(r.choice([31, 32, 33]), file, r.randrange(3), r.randrange(9), self.number(9) % 2**64,
                              r.randrange(4), flock=r.random() < 0.3),
            lambda: self.interrupt(r.randrange(100)),
            lambda: self.fallocate(file, self.number() % 2**64, r.randrange(9999), r.randrange(64)),
            lambda: self.lseek(file, self.number() % 2**64, r.randrange(5)),
            lambda: self.copy_file_range(file, 0, self.pick("file"), r.randrange(99), r.randrange(9999)),
            lambda: self.statx(node),
            lambda: self.access(node, r.randrange(9)),
            lambda: self.call(r.choice([37, 39, 40, 48, 49]), node, r.randbytes(40)),
        )  # fmt: skip
        try:
            r.choice(requests)()
        except Captured as made:
            return made.args
        except struct.error:  # a number that has no place in that field
            return self.some()
        raise AssertionError("a request was made behind our back")

    def mutated(self, opcode, node, body, room):
        """The same, but for one change."""
        r, body = self.rng, bytearray(body)
        at = r.randrange(len(body) + 1)
        match r.randrange(10):
            case 0 if body:
                body[at % len(body)] ^= 1 << r.randrange(8)
            case 1 | 2 if len(body) >= 8:
                at &= ~3
                size = min(r.choice([4, 8]), len(body) - at)
                body[at : at + size] = self.pack("Q", r.choice(NUMBERS))[:size]
            case 3:
                del body[at:]
            case 4:
                body += r.randbytes(r.randrange(1, 60))
            case 5:
                body[at:] = self.name() + b"\0"
            case 6:
                opcode = r.choice([r.choice(list(OPERATIONS)), r.randrange(70), r.randrange(2**32)])
            case 7:
                node = r.choice([self.pick("node"), r.choice(NUMBERS)])
            case 8:
                room = r.choice([0, 1, 24, 127, 128, 4096])
            case _:
                body[:] = self.some()[2]
        return opcode, node, bytes(body), room

    def torn(self, data):
        """Memory as a guest's descriptors may have it."""
        view, found = memoryview(data), []
        while view and self.rng.random() < 0.4 and len(found) < 6:
            size = self.rng.choice([0, 1, 16, 40, self.rng.randrange(len(view) + 1)])
            found.append(view[:size])
            view = view[size:]
        return [*found, view] if len(view) else found

    def step(self):
        """One request, and what must hold of its reply."""
        if self.rng.random() < 1 / 40:
            self.look_around()
        request = self.some()
        for _ in range(self.rng.choice([0, 0, 1, 1, 2])):
            request = self.mutated(*request)
        opcode, node, body, room = request
        header, unique = self.header(opcode, node, len(body))
        if self.rng.random() < 0.01:
            header = bytearray(header)
            header[self.rng.randrange(40)] ^= 1 << self.rng.randrange(8)
            opcode, unique = self.unpack("IQ", header[4:8] + header[8:16])
        if opcode == 33:  # nobody else would end its wait
            self.server.serve(self.torn(self.header(36, 0, 8)[0] + self.pack("Q", unique)), [])
        memory = bytearray(max(0, (16 if self.rng.random() < 0.99 else self.rng.randrange(16)) + room))
        before = bytes(header) + body
        size = self.server.serve(self.torn(before), self.torn(memory))
        self.check(opcode, unique, memory, size)
        if opcode in (26, 38):
            self.begin()

    def check(self, opcode, unique, memory, size):
        if size == 0:
            self.outcomes["no reply"] += 1
            return
        if not 16 <= size <= len(memory):
            raise Mistake(f"operation {opcode}: a reply of {size} bytes in {len(memory)}")
        length, error, answered = self.unpack("IiQ", memory)
        if (length, answered) != (size, unique) or not -4096 < error <= 0 or (error and size != 16):
            raise Mistake(f"operation {opcode}, request {unique}: reply is {length}, {error}, {answered}, {size} bytes")
        self.outcomes[errno.errorcode.get(-error, str(error)) if error else "done"] += 1
        self.learn(opcode, memory[16:size]) if not error else None

    def learn(self, opcode, data):
        """Remember what a reply tells of, and see that it is of the share."""
        server = self.server._share
        server.retired.begin()  # or another guest could have closed what we look at
        if opcode in (1, 6, 8, 9, 13, 35, 51) and len(data) >= 128:
            self.known["node"].append(self.unpack("Q", data)[0])
            look_at(server.inodes._by_id.get(self.known["node"][-1]), self.share)
        if (opcode in (35, 51) and len(data) == 144) or (opcode in (14, 27) and len(data) == 16):
            kind = "directory" if opcode == 27 else "file"
            self.known[kind].append(self.unpack("Q", data[-16:])[0])
            look_at(server.handles._by_id.get(self.known[kind][-1]), self.share)
        server.retired.end()


def new_file(path):
    """Make a file where there is nothing, nor a link that a guest has just made."""
    path.touch(exist_ok=False)


def furnish(share):
    """Have what may lead elsewhere in the share, as far as other things have not its name."""
    zero = (lambda path: os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 5))) if os.geteuid() == 0 else new_file
    things = {
        "d": Path.mkdir,
        "f": new_file,
        "l": lambda path: path.symlink_to("../outside"),
        "out": lambda path: path.symlink_to(".."),
        "absolute": lambda path: path.symlink_to("/"),
        "fifo": os.mkfifo,
        "zero": zero,
        "hard": lambda path: path.hardlink_to(share / "f"),
    }
    for name, create in things.items():
        path = share / name
        with contextlib.suppress(OSError):  # of the guest's making, or another thread's
            create(path)


def snapshot(place):
    """All that lies beside the share."""
    found = {}
    for path in sorted(place.rglob("*")):
        if not path.is_relative_to(place / "share"):
            status = path.lstat()
            content = path.read_bytes() if path.is_file() else sorted(one.name for one in path.iterdir())
            found[path] = (status.st_mode, status.st_uid, status.st_gid, status.st_nlink, status.st_mtime_ns, content)
    found[place] = sorted(one.name for one in place.iterdir())
    return found


def open_files():
    """How many descriptors this process has."""
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def look_at(one, share):
    """Raise Mistake for a node or a handle that is not of the share, or is open on what may not be opened."""
    if one is None:  # another guest has made an end of it
        return
    try:
        path = str(Path(f"/proc/self/fd/{one.descriptor}").readlink())
        mode = os.fstat(one.descriptor).st_mode
    except OSError:
        return
    if not f"{path}/".startswith(f"{share}/"):
        raise Mistake(f"{one} is {path}")
    if isinstance(one, Handle) and stat.S_IFMT(mode) not in (stat.S_IFREG, stat.S_IFDIR):
        raise Mistake(f"{one} is no file or directory but {path}")


def run_round(server, share, abi, rng, count, threads):
    """Make requests from some threads at once; return what came of them."""
    known = {"node": [ROOT], "file": [], "directory": []}
    guests = [Guest(server, share, *abi, random.Random(rng.random()), known) for _ in range(threads)]
    guests[0].begin()
    failures = []

    def work(guest):
        try:
            for _ in range(count // threads):
                guest.step()
        except BaseException as e:
            failures.append(e)

    others = [threading.Thread(target=work, args=(guest,)) for guest in guests[1:]]
    for one in others:
        one.start()
    work(guests[0])
    for one in others:
        one.join()
    if failures:
        raise failures[0]
    return sum((guest.outcomes for guest in guests), collections.Counter())


def close_once(descriptor):
    """Close what is open; what is closed already may have been another file's by now."""
    try:
        os.close(descriptor)
    except OSError as e:
        raise Mistake(f"descriptor {descriptor} is closed twice") from e


@contextlib.contextmanager
def harmless():
    """What a mistake of the server could do to this machine: fill its disk, open its devices. All devices are zero."""
    limit, decode = resource.getrlimit(resource.RLIMIT_FSIZE), make.decode_device
    resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_SIZE, limit[1]))
    make.decode_device = lambda number: os.makedev(1, 5) if decode(number) >= 0 else -1
    shut, retired._shut = retired._shut, close_once
    faulthandler.dump_traceback_later(HANG, exit=True)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
        make.decode_device, retired._shut = decode, shut
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)


def fuzz(place, requests, seed, threads=1):
    """Make requests, in rounds; return what came of them. Raises Mistake."""
    rng, share, outcomes = random.Random(seed), place / "share", collections.Counter()
    (place / "beside").mkdir()
    (place / "outside").write_text("secret")
    (place / "beside" / "file").write_text("secret too")
    before = snapshot(place) | {place: ["beside", "outside", "share"]}
    gc.collect()  # descriptors that others have left to the collector would go in the middle of a round
    with harmless():
        for done in range(0, requests, ROUND):
            faulthandler.dump_traceback_later(HANG, exit=True)
            shutil.rmtree(share, ignore_errors=True)
            share.mkdir()
            order, family = ABIS[(seed + done // ROUND) % len(ABIS)]
            open_before = open_files()
            server = Watched(share, replace(ARCHES["x86_64"], open_flags=family), quota=Quota(max_bytes=ROOM))
            outcomes += run_round(server, share, (order, family), rng, min(ROUND, requests - done), threads)
            for one in (*server._share.inodes._by_id.values(), *server._share.handles._by_id.values()):
                look_at(one, share)
            server.close()
            if (now := open_files()) != open_before:
                raise Mistake(f"{now - open_before} descriptors are left open")
            now = snapshot(place)
            if changed := {path: now.get(path) for path in before | now if before.get(path) != now.get(path)}:
                raise Mistake(f"what lies beside the share has changed: {changed}")
    return outcomes


def main():
    """Fuzz for as long as asked; print what came of it."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuse_fuzz", description=__doc__)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--threads", type=int, default=1, help="that make requests at once")
    parser.add_argument("--directory", type=Path, help="where the share is made, a temporary directory without")
    options = parser.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory(dir=options.directory) as place:
        outcomes = fuzz(Path(place).resolve(), options.requests, options.seed, options.threads)
    seconds = time.monotonic() - started
    print(f"{sum(outcomes.values())} requests, seed {options.seed}, {options.threads} threads, {seconds:.0f} s")
    print(", ".join(f"{what}: {count}" for what, count in outcomes.most_common()))


if __name__ == "__main__":
    sys.exit(main())
