"""A signal that another thread takes, of which Python's main thread learns nothing while it sleeps."""

import contextlib
import signal
import threading
import time

LIMIT = 10.0  # seconds that a wait may have; one that heeds the signal takes far fewer


class TakenError(Exception):
    """The main thread has acted upon it."""


def _act(*_):
    raise TakenError


@contextlib.contextmanager
def heeds_what_another_takes():
    """Have another thread take a signal in a moment; the block must be left by it long before LIMIT is over."""
    before = signal.signal(signal.SIGUSR1, _act)
    taker = threading.Timer(0.1, lambda: signal.pthread_kill(threading.get_ident(), signal.SIGUSR1))
    taker.start()
    begun = time.monotonic()
    try:
        yield
        raise AssertionError("the block ended by itself")
    except TakenError:
        assert time.monotonic() - begun < LIMIT / 2
    finally:
        taker.join()
        signal.signal(signal.SIGUSR1, before)
