"""Whether a later change of a file shows in its time of change, so that what was read of it may be kept.

A file system takes the time from a clock that moves at ticks: two changes between two of them have one time. Since
Linux 6.13 many give a change that follows a look at the file a time of its own ("multigrain timestamps",
https://docs.kernel.org/filesystems/multigrain-ts.html).
"""

import contextlib
import os
import time
from typing import Final

SECOND: Final = 1_000_000_000
# Nanoseconds after which a change gives a file another time: those of a tick of the kernel's clock, and some more, and
# those of a file system that keeps whole seconds, or every second one.
TICK: Final = SECOND // 20
COARSE: Final = 2 * SECOND
TRIES: Final = 8
_CLOCK: Final = 5  # CLOCK_REALTIME_COARSE, linux/time.h: the clock of file systems; its resolution is a tick


def settled(changed: int, now: int) -> bool:
    """Whether a file that is changed now gets another time of change than it has, both in nanoseconds."""
    return now - changed > (TICK if changed % SECOND else COARSE)


def each_shows(directory: int) -> bool:
    """Whether the file system of a directory (O_PATH will do) gives each change that follows a look a time of its own.

    It is tried with a file that has no name. False where there can be none, and where that is not certain.
    """
    with contextlib.suppress(OSError):
        descriptor = os.open(f"/proc/self/fd/{directory}", os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            begun = time.monotonic()
            times = _changed_in_a_row(descriptor)
            return tells(times, time.monotonic() - begun, time.clock_getres(_CLOCK))
        finally:
            os.close(descriptor)
    return False


def _changed_in_a_row(descriptor: int) -> list[int]:
    """Change a file again and again, and return the time of each change."""
    times = []
    for _ in range(TRIES):
        os.fchmod(descriptor, 0o600)
        times.append(os.fstat(descriptor).st_ctime_ns)
    return times


def tells(times: list[int], seconds: float, tick: float) -> bool:
    """Whether times of changes that took so many seconds can't be those of ticks: none is there twice."""
    return len(set(times)) == len(times) and seconds < tick
