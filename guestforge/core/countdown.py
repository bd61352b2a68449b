"""Time that several calls share."""

import math
import time
from collections.abc import Callable


def countdown(seconds: float | None) -> Callable[[], float]:
    """Return what tells how many of the seconds from now on are left, never less than none; None are for ever."""
    deadline = math.inf if seconds is None else time.monotonic() + seconds
    return lambda: max(0.0, deadline - time.monotonic())
