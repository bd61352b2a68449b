"""Lines on standard error. A guest can cause most of them, so there is a limit to how many come in a second.

And nobody need read them: `guard_standard_error` makes standard error one that never blocks and never fails.
"""

import contextlib
import io
import os
import select
import stat
import sys
import threading
import time

BURST = 50  # lines that may come at once
PER_SECOND = 5.0
SHARED = 2  # the descriptor of standard error
LONGEST = 2000  # characters of a line: less than PIPE_BUF, so a pipe takes it whole or not at all


class Log:
    """Writes `<name>: <message>`; drops lines above the limit and later says how many it dropped. For all threads.

    Control characters, which a guest may have put into a name, are escaped.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._tokens = float(BURST)
        self._last = time.monotonic()
        self._dropped = 0
        self._lock = threading.Lock()

    def say(self, message: str) -> None:
        """Write a line that a guest or a client can cause: limited."""
        with self._lock:
            now = time.monotonic()
            self._tokens = min(float(BURST), self._tokens + (now - self._last) * PER_SECOND)
            self._last = now
            if self._tokens < 1.0:
                self._dropped += 1
                return
            self._tokens -= 1.0
            if self._dropped:
                self.always(f"{self._dropped} lines left out")
                self._dropped = 0
            self.always(message)

    def always(self, message: str) -> None:
        """Write a line that comes at most a few times in the life of the process."""
        safe = message if message.isprintable() else message.encode("unicode_escape").decode()
        with contextlib.suppress(OSError, ValueError):  # nobody reads it any more
            sys.stderr.write(f"{self._name}: {safe[:LONGEST]}\n")
            sys.stderr.flush()


class StandardError(io.RawIOBase):
    """Writes to descriptor 2 what it takes at once, drops the rest, and says how much that was as soon as it can.

    O_NONBLOCK belongs to the open file description, which is shared with whoever started us and may be a terminal. So a
    pipe or a terminal is opened once more, for a description of our own. Where that can't be had we look whether there
    is room before we write; that fails only where others fill it in between.
    """

    def __init__(self) -> None:
        self._own = _opened_again(SHARED)
        self._lost = 0  # writes

    def writable(self) -> bool:
        """Return that it can be written to."""
        return True

    def write(self, data: "bytes | bytearray | memoryview") -> int:  # type: ignore[override]
        """Take all of it, whatever becomes of it."""
        note = f"({self._lost} pieces of text left out here: nobody read them)\n".encode() if self._lost else b""
        try:
            if self._own == SHARED and not select.select([], [SHARED], [], 0)[1]:
                raise BlockingIOError
            os.write(self._own, note + bytes(data))
            self._lost = 0
        except OSError:
            self._lost += 1
        return len(data)


def guard_standard_error() -> None:
    """Let nobody who reads standard error, or does not, stop or end this process.

    Whichever of the standard descriptors is closed leads to /dev/null from here on: or the next file that is opened
    would get its number, and our lines. To be called first.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free
    sys.stderr = io.TextIOWrapper(StandardError(), "utf-8", "backslashreplace", write_through=True)


def _opened_again(descriptor: int) -> int:
    """Return a non-blocking descriptor for the same pipe or terminal, or this one."""
    kind = os.fstat(descriptor).st_mode
    if stat.S_ISFIFO(kind) or stat.S_ISCHR(kind):  # not files, which have a position and never block
        with contextlib.suppress(OSError):
            return os.open(f"/proc/self/fd/{descriptor}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    return descriptor
