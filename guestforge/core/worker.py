"""Work in a process of its own, which is forked from ours: it can be interrupted whatever it waits for.

What it tells (`events`) comes to us through a pipe, and so does what it raises. It is ended when we are.
"""

import contextlib
import multiprocessing
import os
import pickle
import signal
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Final

from guestforge.core import events
from guestforge.core.errors import BuildError, GuestforgeError
from guestforge.core.run import die_with_parent, ending
from guestforge.core.signals import ENDING, PATIENCE, heeded, held, interrupt_on

INTERRUPT: Final = signal.SIGTERM  # what ends a worker, as Ctrl-C would
_fork = multiprocessing.get_context("fork")


@dataclass(frozen=True, slots=True)
class Returned:
    """The work has been done. What it returned stays where it was: only a word goes through the pipe."""


@dataclass(frozen=True, slots=True)
class Raised:
    """What the work has raised. One that is none of ours has a note that says where."""

    error: BaseException


Message = events.Event | Returned | Raised


class Worker:
    """A process that works. It starts at once, and must be seen to its end: `receive` until that comes, or `kill`."""

    def __init__(self, work: Callable[[], object]) -> None:
        self._receiver, sender = _fork.Pipe(duplex=False)
        self._process = _fork.Process(target=_run, args=(work, self._receiver, sender, os.getpid()), daemon=True)
        with held():  # until the child has handlers of its own
            self._process.start()
            sender.close()

    def fileno(self) -> int:
        """The descriptor that becomes readable when there is something to `receive`."""
        return self._receiver.fileno()

    def receive(self) -> Message:
        """Wait for what comes next. After Returned or Raised, which come last, the process has ended."""
        try:
            message: Message = self._receiver.recv()
        except (EOFError, OSError, pickle.UnpicklingError):
            message = Raised(self._died())
        if isinstance(message, Returned | Raised):
            self._process.join()
            self._receiver.close()
        return message

    def interrupt(self) -> None:
        """End the work as Ctrl-C does. Nothing more can be received."""
        self._receiver.close()
        with contextlib.suppress(ProcessLookupError):
            if self._process.pid is not None and self._process.exitcode is None:
                os.kill(self._process.pid, INTERRUPT)

    def await_end(self, deadline: float) -> None:
        """Wait for the process to end, which is killed where it has not by `deadline` (on the monotonic clock)."""
        self._process.join(max(0.0, deadline - time.monotonic()))
        if self._process.exitcode is None:
            self._process.kill()
            self._process.join()

    def _died(self) -> BaseException:
        self._process.join()
        how = ending(self._process.exitcode or 0)
        return BuildError(f"the process that worked on it {how}", hint="was it short of memory? `dmesg` would say so")


def end(workers: list[Worker]) -> None:
    """Interrupt workers, and wait until all have ended."""
    for worker in workers:
        worker.interrupt()
    deadline = time.monotonic() + PATIENCE
    for worker in workers:
        worker.await_end(deadline)


def _run(work: Callable[[], object], receiver: Connection, sender: Connection, parent: int) -> None:
    """Work, in the child; nothing is raised."""
    receiver.close()
    die_with_parent()
    interrupt_on({INTERRUPT, *heeded()})
    message: Message | None = None
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
        if os.getppid() == parent:  # else it died before we said that we would with it
            events.use(lambda event: _send(sender, event))
            work()
            message = Returned()
    except KeyboardInterrupt as e:
        message = _raised(e)
    except Exception as e:
        if not isinstance(e, GuestforgeError):
            e.add_note("".join(traceback.format_exception(e)))
        message = _raised(e)
    _send(sender, message)


def _raised(error: BaseException) -> Raised:
    """Return the message without what the error still holds: frames, and in them `with` blocks that were just entered.

    Nothing closes those when this process ends.
    """
    return Raised(error.with_traceback(None))


def _send(sender: Connection, message: Message | None) -> None:
    with contextlib.suppress(OSError):  # nobody listens any more: we are being ended
        sender.send(message)
