"""The user's terminal: lent to a program that we started, made raw for a while, and always given back as it was."""

import contextlib
import os
import signal
import termios
import tty
from collections.abc import Iterator
from typing import Final

STDIN: Final = 0


@contextlib.contextmanager
def kept() -> Iterator[None]:
    """Put the terminal back as it was when the block is left: its settings, and ourselves in the foreground."""
    if not os.isatty(STDIN):
        yield
        return
    settings = termios.tcgetattr(STDIN)
    try:
        yield
    finally:
        _to_foreground(os.getpgrp())
        with _without_stop():
            termios.tcsetattr(STDIN, termios.TCSADRAIN, settings)


def lend(pid: int) -> None:
    """Give the terminal to a program that leads a process group of its own, and wake it if it asked too early."""
    if os.isatty(STDIN):
        _to_foreground(pid)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGCONT)


@contextlib.contextmanager
def raw() -> Iterator[None]:
    """Pass every key on as it is while the block runs."""
    with kept():
        if os.isatty(STDIN):
            tty.setraw(STDIN)
        yield


def _to_foreground(group: int) -> None:
    with _without_stop(), contextlib.suppress(OSError):  # not our terminal any more, or the program has ended already
        os.tcsetpgrp(STDIN, group)


@contextlib.contextmanager
def _without_stop() -> Iterator[None]:
    """Hold SIGTTOU back: it stops whoever changes a terminal from the background, which we may have to do."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTTOU})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
