"""Between Invoke and the library: errors become messages and exit codes, signals become a clean end."""

import functools
import signal
import sys
from collections.abc import Callable
from typing import Any, TypeVar

from guestforge.errors import GuestforgeError

F = TypeVar("F", bound=Callable[..., Any])

INTERRUPTED = 130  # what shells give for SIGINT


def job(function: F) -> F:
    """Wrap a task's body: a GuestforgeError or Ctrl-C ends the program with its message and code, no traceback."""

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - whatever the task takes and gives
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, _interrupt)
        try:
            return function(*args, **kwargs)
        except GuestforgeError as error:
            print(error.report(), file=sys.stderr)
            raise SystemExit(error.exit_code) from None
        except KeyboardInterrupt:
            print("interrupted; what was done is kept, and the next run goes on from there", file=sys.stderr)
            raise SystemExit(INTERRUPTED) from None

    return wrapped  # type: ignore[return-value]


def _interrupt(_number: int, _frame: object) -> None:
    """End as Ctrl-C does, so that every `with` block is left and nothing stays behind."""
    raise KeyboardInterrupt
