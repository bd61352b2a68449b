"""How much runs at once, in all programs together: a pool of tokens, which is GNU make's jobserver.

Whoever starts the first program has one token without asking. Each further one that is to run beside it is taken from a
pipe, where each byte is a token, and put back when it has ended. A make that is told of the pipe does the same with
its compilers, so that several of them and our own steps share one number.
https://www.gnu.org/software/make/manual/html_node/POSIX-Jobserver.html
"""

import contextlib
import fcntl
import os
import struct
import termios
import weakref
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Final

TOKEN: Final = b"+"  # what make itself writes


class Jobserver:
    """A pool for `jobs` programs at once. Its pipe is made when it is first used, and closed with the pool."""

    def __init__(self, jobs: int) -> None:
        self.jobs = jobs

    @property
    def descriptors(self) -> tuple[int, int]:
        """The pipe's two ends, which a program must inherit that takes tokens itself."""
        return self._pipe.ends

    @property
    def environment(self) -> Mapping[str, str]:
        """What tells a make that inherits the descriptors to share the pool; it must get no -j besides."""
        reads, writes = self.descriptors
        return {"MAKEFLAGS": f" -j{self.jobs} --jobserver-auth={reads},{writes}"}

    @property
    def waiting(self) -> int:
        """A descriptor that becomes readable when there is a token, which somebody else may take first."""
        return self._pipe.polled

    def take(self) -> bool:
        """Take a token; return False where there is none."""
        try:
            return os.read(self._pipe.polled, 1) == TOKEN
        except BlockingIOError:
            return False

    def give(self, tokens: int = 1) -> None:
        """Put tokens back."""
        os.write(self._pipe.ends[1], TOKEN * tokens)

    @contextlib.contextmanager
    def borrowed(self) -> Iterator[int]:
        """Take all tokens that are free, for a program that can't share; yield how many jobs it may run with them."""
        extra = 0
        try:
            while extra < self.jobs - 1 and self.take():
                extra += 1
            yield 1 + extra
        finally:
            self.give(extra)

    def restore(self) -> None:
        """Put back what programs that were killed have not; nobody must have a token."""
        free = struct.unpack("i", fcntl.ioctl(self._pipe.polled, termios.FIONREAD, bytes(4)))[0]
        self.give(self.jobs - 1 - free)

    @cached_property
    def _pipe(self) -> "_Pipe":
        return _Pipe(self.jobs - 1)


class _Pipe:
    def __init__(self, tokens: int) -> None:
        self.ends = os.pipe()
        # Another open file description of the same pipe: whether reads of it wait is not for make to change.
        self.polled = os.open(f"/proc/self/fd/{self.ends[0]}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        weakref.finalize(self, _close, *self.ends, self.polled)
        os.write(self.ends[1], TOKEN * tokens)


def _close(*descriptors: int) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
