"""The signals that end us. One that was ignored when we were started stays so: that is what `nohup` and `&` ask for."""

import signal
from typing import Final

ENDING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def heeded() -> tuple[signal.Signals, ...]:
    """Return those that are not ignored just now."""
    return tuple(number for number in ENDING if signal.getsignal(number) is not signal.SIG_IGN)
