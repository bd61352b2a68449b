"""The two named pipes of a machine's console, which QEMU's chardev `pipe` opens as PATH.in and PATH.out.

A pipe and not a socket, because serial ports are written character by character and a guest does not wait: Linux's
driver gives up on a port that takes nothing for 10 ms, and characters are lost. Of a socket each one takes a buffer of
its own, so that 278 filled it, and a reader that was scheduled late was enough. A pipe packs them.
"""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

# as large as anybody may make one; a kernel's boot prints 30 to 100 KiB
SIZE: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class ConsolePipes:
    """Our ends, which do not block: what the guest prints can be read of `output`, `input` takes what is typed."""

    output: int
    input: int


@contextlib.contextmanager
def console_pipes(path: Path) -> Iterator[ConsolePipes]:
    """Make the pipes and open our ends of them, until the block is left."""
    with contextlib.ExitStack() as stack:
        ends = []
        # O_RDWR, for nobody reads yet; and `output` alone tells when QEMU's end is closed
        for suffix, flags in ((".out", os.O_RDONLY), (".in", os.O_RDWR)):
            name = path.with_name(path.name + suffix)
            os.mkfifo(name, 0o600)
            ends.append(os.open(name, flags | os.O_NONBLOCK | os.O_CLOEXEC))
            stack.callback(os.close, ends[-1])
        with contextlib.suppress(PermissionError):  # a user has so much for all pipes together, pipe(7)
            fcntl.fcntl(ends[0], fcntl.F_SETPIPE_SZ, SIZE)
        yield ConsolePipes(*ends)
