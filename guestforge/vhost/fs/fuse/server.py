"""Serves a guest's FUSE requests on a directory of the host: sessions, dispatch, errors."""

import errno
import os
import struct
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from guestforge.arch import Arch
from guestforge.vhost.core.scattered import scatter, split
from guestforge.vhost.fs.fuse import attributes, directories, files, locks, make, names, xattrs
from guestforge.vhost.fs.fuse.abi import byte_order, layout, operation_of
from guestforge.vhost.fs.fuse.inodes import MAX_INODES
from guestforge.vhost.fs.fuse.protocol import (
    IN_HEADER,
    IN_HEADER_SIZE,
    INIT_EXT_IN,
    INIT_IN,
    INIT_OUT,
    LEAST_MINOR,
    MAJOR,
    MAX_PAGES,
    MAX_WRITE,
    MINOR,
    OUT_HEADER,
    OUT_HEADER_SIZE,
    ROOT_ID,
    Init,
    Op,
)
from guestforge.vhost.fs.fuse.share import Answer, Operation, Request, Share, open_share
from guestforge.vhost.fs.fuse.space import Quota, Space
from guestforge.vhost.fs.fuse.waiters import Waiter
from guestforge.vhost.fs.work import Work

OFFERED: Final = (
    Init.ASYNC_READ | Init.POSIX_LOCKS | Init.ATOMIC_O_TRUNC | Init.BIG_WRITES | Init.FLOCK_LOCKS
    | Init.AUTO_INVAL_DATA | Init.DO_READDIRPLUS | Init.READDIRPLUS_AUTO | Init.ASYNC_DIO | Init.PARALLEL_DIROPS
    | Init.MAX_PAGES | Init.HANDLE_KILLPRIV_V2 | Init.INIT_EXT | Init.DIRECT_IO_ALLOW_MMAP
)  # fmt: skip
MAX_BACKGROUND: Final = 64  # requests that the guest's kernel makes for itself, such as to read ahead
HELD: Final = (errno.EAGAIN, errno.EACCES)  # somebody else has a lock that is in the way, fcntl(2)
LOG_INTERVAL: Final = 1.0  # seconds between two lines about what a guest sent

MAKING: Final = (Op.MKNOD, Op.MKDIR, Op.SYMLINK, Op.LINK, Op.CREATE, Op.TMPFILE, Op.SETXATTR)


def _counted(operation: Operation) -> Operation:
    """Return an operation that makes something in its inode, and is refused where there is no room for it."""

    def counted(share: Share, request: Request) -> Answer:
        if not share.read_only:
            share.space.make(share.inodes[request.nodeid])
        return operation(share, request)

    return counted


OPERATIONS: Final[dict[int, Operation]] = {
    **names.OPERATIONS,
    **attributes.OPERATIONS,
    **make.OPERATIONS,
    **files.OPERATIONS,
    **directories.OPERATIONS,
    **xattrs.OPERATIONS,
    **locks.OPERATIONS,
}
for number in MAKING:
    OPERATIONS[number] = _counted(OPERATIONS[number])


WORK: Final[dict[int, Work]] = {
    **dict.fromkeys((Op.FSYNC, Op.FSYNCDIR, Op.SYNCFS), Work.SYNC),
    **dict.fromkeys((Op.FALLOCATE, Op.COPY_FILE_RANGE), Work.MOVE),
    Op.SETLKW: Work.LOCK,
}


class FuseServer:
    """Serves one guest. May be called from several threads at once."""

    def __init__(
        self,
        root: Path,
        guest: Arch,
        *,
        read_only: bool = False,
        log: Callable[[str], None] = lambda _: None,
        quota: Quota | None = None,
        max_inodes: int = MAX_INODES,
    ) -> None:
        self._share = open_share(root, guest, read_only=read_only, space=Space(quota), max_inodes=max_inodes)
        self._log = log
        self._last_line = -LOG_INTERVAL
        self._order: str | None = None  # known from FUSE_INIT on

    def accept(self, request: list[memoryview]) -> Work:
        """Copy a request's header into a piece of its own, and return what kind of work the request is.

        A guest that changes the operation once we have looked can't make us wait for it. Raises ValueError for a
        request that has no whole header.
        """
        header, body = split(request, IN_HEADER_SIZE)
        request[:] = [memoryview(header), *body]
        return WORK.get(operation_of(header), Work.QUICK)

    def serve(self, request: Sequence[memoryview], reply: Sequence[memoryview]) -> int:
        """Do one request; return how many bytes the reply has, 0 for none.

        `request` is what the guest wrote, `reply` where it wants the answer. Raises nothing for what a guest sends.
        A lock that can't be had at once is refused with EAGAIN; `wait` waits for it.
        """
        try:
            parsed, fault = self._parse(request, reply)
        except (ValueError, struct.error) as e:
            self._complain(f"malformed request: {e}")
            return 0
        if fault:
            self._complain(f"malformed request: {fault}")
            return self._reply(parsed, reply, -errno.EINVAL, 0)
        return self._do(parsed, reply)

    def wait(self, request: bytes, room: int, done: Callable[[bytes], None], *, patient: bool) -> bytes | None:
        """Do one request, which may wait for a lock. Return the reply, of at most `room` bytes; or None.

        Then `done` is called with it later, once, in any thread. Where there is no more room for one that waits it is
        refused with ENOLCK, as it always is without `patient`.
        """
        pieces, reply = (memoryview(request),), memoryview(bytearray(room))
        size = self.serve(pieces, (reply,) if room else ())
        if size < OUT_HEADER_SIZE:
            return bytes(reply[:size])
        parsed, _ = self._parse(pieces, (reply,))
        error = layout(parsed.order, OUT_HEADER).unpack_from(reply)[1]
        if parsed.opcode != Op.SETLKW or -error not in HELD:
            return bytes(reply[:size])

        def attempt(number: int) -> bytes | None:
            size = self._reply(parsed, (reply,), -number, 0) if number else self._do(parsed, (reply,))
            error = layout(parsed.order, OUT_HEADER).unpack_from(reply)[1]
            return None if -error in HELD else bytes(reply[:size])

        waiter = Waiter(parsed.unique, parsed.nodeid, attempt, done)
        refused = self._share.waiters.add(waiter) if patient else errno.ENOLCK
        return attempt(refused) if refused else None

    def limits(self) -> str:
        """Return what a guest may take of the host's file system, for people."""
        return "it changes nothing" if self._share.read_only else self._share.space.say(self._share.inodes[ROOT_ID])

    def stay_among_descriptors(self) -> None:
        """Have this process's working directory where its descriptors are, for a process that has left all paths."""
        self._share.stay_among_descriptors()

    def reset(self) -> None:
        """Forget the guest: its driver begins anew."""
        self._order = None
        share = self._share
        share.waiters.end_all()
        share.handles.clear()
        share.inodes.clear()

    def close(self) -> None:
        """Forget the guest and the directory."""
        self._share.waiters.close()
        self.reset()
        self._share.inodes.close()
        os.close(self._share.proc)

    def _do(self, request: Request, reply: Sequence[memoryview]) -> int:
        self._share.retired.begin()
        try:
            return self._answer(request, reply)
        finally:
            self._share.retired.end()

    def _parse(self, request: Sequence[memoryview], reply: Sequence[memoryview]) -> tuple[Request, str]:
        """Return a request, and what is wrong with it; raises ValueError where nobody could be told."""
        header, body = split(request, IN_HEADER_SIZE)
        order = self._order or byte_order(header)
        if order is None:
            raise ValueError("there was no FUSE_INIT before it")
        length, opcode, unique, nodeid, uid, gid, _, extensions, _ = layout(order, IN_HEADER).unpack(header)
        _, payload = split(reply, OUT_HEADER_SIZE) if reply else (b"", [])
        fault = ""
        if length != IN_HEADER_SIZE + sum(map(len, body)):
            fault = f"it says that it has {length} bytes"
        elif extensions:
            fault = "it has extensions, which were not agreed on"
        return Request(opcode, unique, nodeid, uid, gid, body, payload, order), fault

    def _answer(self, request: Request, reply: Sequence[memoryview]) -> int:
        """Do a request and write the reply, an error at need; return its length."""
        operation = OPERATIONS.get(request.opcode)
        try:
            answer = operation(self._share, request) if operation else self._session(request)
        except OSError as e:
            return self._reply(request, reply, -(e.errno or errno.EIO), 0)
        except (ValueError, OverflowError, struct.error) as e:  # numbers that no system call of the host takes
            self._complain(f"operation {request.opcode}: {e}")
            return self._reply(request, reply, -errno.EINVAL, 0)
        except Exception as e:  # a mistake of ours, or no memory: that request ends, not the guest's file system
            self._mistaken(request, e)
            return self._reply(request, reply, -errno.EIO, 0)
        if answer is None:
            return 0
        if isinstance(answer, bytes):
            size = len(answer)
            if scatter(request.payload, answer) < size:
                return self._reply(request, reply, -errno.EINVAL, 0)
            answer = size
        return self._reply(request, reply, 0, answer)

    def _session(self, request: Request) -> bytes:
        """Begin or end a session. Raises ENOSYS for whatever else no operation is for."""
        if request.opcode == Op.INIT:
            return self._init(request)
        if request.opcode == Op.DESTROY:
            self.reset()
            return b""
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    def _init(self, request: Request) -> bytes:
        """Begin a session: both sides' versions and what both can do."""
        major, minor, read_ahead, flags = request.fields(INIT_IN)
        if major < MAJOR or (major == MAJOR and minor < LEAST_MINOR):
            self._complain(f"the guest speaks FUSE {major}.{minor}; {MAJOR}.{LEAST_MINOR} is the least")
            raise OSError(errno.EPROTO, os.strerror(errno.EPROTO))
        self.reset()
        self._order = request.order
        if flags & Init.INIT_EXT:
            flags |= request.fields(INIT_EXT_IN)[4] << 32
        agreed = flags & OFFERED if major == MAJOR else 0  # a newer guest asks again, with our version
        self._share.uncached = bool(agreed & Init.DIRECT_IO_ALLOW_MMAP)
        return request.pack(
            INIT_OUT, MAJOR, MINOR, read_ahead, agreed & 0xFFFF_FFFF, MAX_BACKGROUND, MAX_BACKGROUND * 3 // 4,
            MAX_WRITE, 1, MAX_PAGES, 0, agreed >> 32,
        )  # fmt: skip

    def _reply(self, request: Request, reply: Sequence[memoryview], error: int, size: int) -> int:
        """Write the reply's header; return the whole reply's length, 0 where there is no room for one."""
        header = layout(request.order, OUT_HEADER)
        length = OUT_HEADER_SIZE + size
        if reply and len(reply[0]) >= OUT_HEADER_SIZE:  # as guests lay it out
            header.pack_into(reply[0], 0, length, error, request.unique)
        elif sum(map(len, reply)) < OUT_HEADER_SIZE:
            return 0
        else:
            scatter(reply, header.pack(length, error, request.unique))
        return length

    def _mistaken(self, request: Request, error: Exception) -> None:
        self._complain(f"operation {request.opcode}: {type(error).__name__}: {error}")

    def _complain(self, text: str) -> None:
        now = time.monotonic()
        if now - self._last_line >= LOG_INTERVAL:
            self._last_line = now
            self._log(text)
