"""The user's terminal: made raw for a while, and always given back as it was."""

import contextlib
import os
import signal
import termios
import tty
from collections.abc import Iterator
from typing import Final

STDIN: Final = 0
OUTPUT_FLAGS: Final = 1  # of the list that tcgetattr returns


@contextlib.contextmanager
def raw() -> Iterator[None]:
    """Pass every key on as it is while the block runs; a line feed still begins a line."""
    if not os.isatty(STDIN):
        yield
        return
    before = termios.tcgetattr(STDIN)
    try:
        tty.setraw(STDIN)
        settings = termios.tcgetattr(STDIN)
        settings[OUTPUT_FLAGS] |= termios.OPOST | termios.ONLCR
        termios.tcsetattr(STDIN, termios.TCSADRAIN, settings)
        yield
    finally:
        with _without_stop():
            termios.tcsetattr(STDIN, termios.TCSADRAIN, before)


@contextlib.contextmanager
def _without_stop() -> Iterator[None]:
    """Hold SIGTTOU back: it stops whoever changes a terminal from the background, which we may have to do."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTTOU})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
