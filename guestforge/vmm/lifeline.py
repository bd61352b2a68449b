"""A program that ends another when whoever started both is gone, however that went: kill -9 included.

The kernel does so by itself for most programs (`run.spawn`), but forgets it of one that becomes another user, prctl(2).
It runs beside QEMU as a process of its own, of the standard library alone, so that it is there at once and small.
"""

import contextlib
import select
import signal
import sys


def watch(process: int, starter: int) -> None:
    """Wait for a process, a pidfd, to end; kill it if `starter`, the reading end of a pipe, comes to its end first."""
    poll = select.poll()
    poll.register(process, select.POLLIN)
    poll.register(starter, select.POLLHUP)
    if process not in dict(poll.poll()):
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(process, signal.SIGKILL)


if __name__ == "__main__":
    watch(int(sys.argv[1]), sys.stdin.fileno())
