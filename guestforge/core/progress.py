"""How whoever works tells of it: lines, steps with their seconds, and how far long work is. All of it is events."""

import itertools
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from guestforge.core.errors import GuestforgeError
from guestforge.core.events import Advanced, Complained, Said, send

INTERVAL: Final = 0.1  # seconds between two events of one bar
_numbers = itertools.count()


def say(text: str) -> None:
    """Tell the user a line."""
    send(Said(text))


def complain(error: GuestforgeError, subject: str = "") -> None:
    """Tell the user an error, and what it happened to."""
    send(Complained(subject, error.report(), error.message, error.exit_code))


@contextmanager
def step(label: str) -> Iterator[None]:
    """Say that a step begins and, once it is done, in how many seconds."""
    say(f"{label} ...")
    start = time.monotonic()
    yield
    say(f"{label}: done in {time.monotonic() - start:.1f} s")


class Bar:
    """The progress of one piece of work; `total` may be None (unknown)."""

    def __init__(self, label: str, total: int | None, unit: str) -> None:
        self.label = label
        self.unit = unit
        self.count = 0
        self.total = total
        self._number = (os.getpid(), next(_numbers))
        self._sent = 0.0

    def update(self, amount: int = 1) -> None:
        """Add `amount` units."""
        self.count += amount
        if time.monotonic() - self._sent >= INTERVAL:
            self.tell()

    def tell(self, *, over: bool = False) -> None:
        """Send how far it is."""
        self._sent = time.monotonic()
        total = self.total
        if total is not None and self.count > total:
            total = None  # an estimate that was too low is not told
        send(Advanced(self._number, self.label, self.count, total, self.unit, over))


@contextmanager
def bar(label: str, total: int | None, unit: str) -> Iterator[Bar]:
    """Show the progress of a piece of work; `unit` is `B` for bytes or the name of what is counted."""
    shown = Bar(label, total, unit)
    shown.tell()
    try:
        yield shown
    finally:
        shown.tell(over=True)


def human(amount: int, unit: str = "B") -> str:
    """Return an amount as people write it: `4.4 MiB` for bytes, `312 objects` for anything else."""
    if unit != "B":
        return f"{amount} {unit}"
    value = float(amount)
    for prefix in ("", "Ki", "Mi", "Gi"):
        if value < 1024:
            return f"{value:.1f} {prefix}B" if prefix else f"{amount} B"
        value /= 1024
    return f"{value:.1f} TiB"
