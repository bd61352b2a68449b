"""What a person sees of long work: bars on a terminal, plain timestamped lines in a log."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from tqdm import tqdm

LINE_INTERVAL = 15.0  # seconds between two lines about the same bar in a log


def interactive() -> bool:
    """Whether standard error is a terminal, where a bar can be redrawn."""
    return sys.stderr.isatty()


def say(text: str) -> None:
    """Print a line for the user, above any bar; with the time of day (UTC) where the output is a log."""
    stamp = "" if interactive() else f"{datetime.now(UTC):%H:%M:%S} "
    tqdm.write(f"{stamp}{text}", file=sys.stderr)
    sys.stderr.flush()


@contextmanager
def step(label: str) -> Iterator[None]:
    """Say that a step begins and, once it is done, in how many seconds."""
    say(f"{label} ...")
    start = time.monotonic()
    yield
    say(f"{label}: done in {time.monotonic() - start:.1f} s")


class Bar:
    """The progress of one piece of work; `total` may be None (unknown) and may be corrected while it runs."""

    def __init__(self, label: str, total: int | None, unit: str) -> None:
        self.label = label
        self.unit = unit
        self.count = 0
        self.total = total
        self._last_line = time.monotonic()
        self._tqdm: tqdm[Any] | None = None
        if interactive():
            # bytes are scaled to KiB, MiB, ...; objects and checks are counted one by one
            self._tqdm = tqdm(
                desc=label, total=total, unit=unit, unit_scale=unit == "B", unit_divisor=1024, leave=False
            )

    def update(self, amount: int = 1) -> None:
        """Add `amount` units."""
        self.count += amount
        if self._tqdm is not None:
            if self.total is not None and self.count > self.total:
                self._tqdm.total = self.total = self.count  # an estimate that was too low
            self._tqdm.update(amount)
        elif time.monotonic() - self._last_line >= LINE_INTERVAL:
            self._line()

    def close(self) -> None:
        """End the bar; in a log, say how far it came."""
        if self._tqdm is not None:
            self._tqdm.close()
        elif self.count:
            self._line()

    def _line(self) -> None:
        self._last_line = time.monotonic()
        # an estimate that was too low is not told
        of = f" of {human(self.total, self.unit)}" if self.total and self.count <= self.total else ""
        say(f"{self.label}: {human(self.count, self.unit)}{of}")


@contextmanager
def bar(label: str, total: int | None, unit: str) -> Iterator[Bar]:
    """Show the progress of a piece of work; `unit` is `B` for bytes or the name of what is counted."""
    shown = Bar(label, total, unit)
    try:
        yield shown
    finally:
        shown.close()


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
