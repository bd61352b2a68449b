"""The signals that end us. One that was ignored when we were started stays so: that is what `nohup` and `&` ask for."""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Final, TypeVar

from guestforge.core.countdown import countdown

ENDING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
AGAIN: Final = 0.01  # seconds from an interruption that Python has dropped to the next
PATIENCE: Final = 10.0  # seconds that an end may take: programs have a few to end by themselves
NAP: Final = 0.5  # seconds, the most by which a wait delays what a signal asks for

T = TypeVar("T")


def heeded() -> tuple[signal.Signals, ...]:
    """Return those that are not ignored just now."""
    return tuple(number for number in ENDING if signal.getsignal(number) is not signal.SIG_IGN)


@contextlib.contextmanager
def held() -> Iterator[set[int | signal.Signals]]:
    """Have what would end us wait until the block is left; yield the signals that were held before.

    For moments in which something is there already and nothing would remove or end it yet. A thread that is started in
    such a block holds them for good. One that was not would take them for us, and Python would tell us at once.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    try:
        signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)  # one that has just come is raised here
        yield before
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def awaited(wait: Callable[[float], T], seconds: float | None = None) -> T:
    """Have `wait` wait until it returns something true, for so many seconds or for ever; return what it returned last.

    It is called for short times again and again. Python notes a signal and acts on it when its main thread runs; one
    that comes in the moment before that goes to sleep, or that another thread takes, does not wake it.
    https://docs.python.org/3/library/signal.html#execution-of-python-signal-handlers
    """
    left = countdown(seconds)
    while True:
        rest = left()
        if (found := wait(min(rest, NAP))) or rest <= NAP:
            return found


def end() -> None:
    """End this process's work from any thread as a signal does, unless it was started to ignore them all."""
    for number in heeded()[:1]:
        os.kill(os.getpid(), number)


def interrupt_on(numbers: Iterable[signal.Signals]) -> None:
    """Have each of these signals end this process's work as Ctrl-C does, by KeyboardInterrupt."""
    interrupted = _Interrupted()
    for number in numbers:
        signal.signal(number, interrupted)
    sys.unraisablehook = interrupted.dropped


class _Interrupted:
    """Ends the task as Ctrl-C does, so that every `with` block is left and nothing stays behind.

    A second signal that comes while they are left would break that off: it is no news, unless the end takes too long.
    """

    def __init__(self) -> None:
        self._first: float | None = None
        self._number = int(signal.SIGINT)

    def __call__(self, number: int, _frame: object) -> None:
        now = time.monotonic()
        if self._first is None or now - self._first > PATIENCE:
            self._first, self._number = now, number
            raise KeyboardInterrupt

    def dropped(self, unraisable: "sys.UnraisableHookArgs") -> None:
        """Interrupt once more, in a moment, where Python has dropped the exception.

        It does so with one that is raised in a finalizer, or in a function that a module has registered to be called
        at each fork(2), as logging does: the signal came while such a function ran.
        """
        if isinstance(unraisable.exc_value, KeyboardInterrupt):
            self._first = None
            threading.Timer(AGAIN, os.kill, (os.getpid(), self._number)).start()
        else:
            sys.__unraisablehook__(unraisable)
