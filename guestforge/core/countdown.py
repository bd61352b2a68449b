"""Time that several calls share."""

import time
from collections.abc import Callable


def countdown(seconds: float) -> Callable[[], float]:
    """Return what tells how many of the seconds from now on are left, never less than none."""
    deadline = time.monotonic() + seconds
    return lambda: max(0.0, deadline - time.monotonic())
