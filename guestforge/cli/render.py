"""Shows events to a person or a program: bars on a terminal, timestamped lines in a log, or a JSON object a line.

Nobody else writes of a build to standard error; what a task was asked for goes to standard output.
"""

import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, Final, TextIO

from tqdm import tqdm

from guestforge.core.events import (
    Advanced,
    Answer,
    Began,
    Complained,
    Ended,
    Event,
    Finished,
    Foretold,
    Listed,
    Said,
    Sink,
)
from guestforge.core.progress import human

LINE_INTERVAL: Final = 15.0  # seconds between two lines about the same bar in a log
NAMES: Final = {
    Said: "log", Advanced: "progress", Began: "started", Ended: "done", Complained: "error", Finished: "finished",
    Foretold: "foretold", Listed: "node",
}  # fmt: skip
FORETOLD: Final = {"reused": "reused", "made": "would be made", "depends": "depends"}
LETTERS: Final = {"file": "-", "directory": "d", "symlink": "l", "char": "c", "block": "b"}  # as ls(1) has them

tqdm.monitor_interval = 0  # a thread of its own, which fork(2) would not take along


def standard() -> Sink:
    """Return the renderer for standard error as it is: a terminal or a log."""
    return Terminal() if sys.stderr.isatty() else Log()


class Terminal:
    """Lines, with the bars of all that goes on below them."""

    def __init__(self) -> None:
        self._bars: dict[tuple[int, int], tqdm[Any]] = {}

    def __call__(self, event: Event) -> None:
        """Show an event."""
        if isinstance(event, Advanced):
            self._move(event)
        elif isinstance(event, Answer):
            print(answer(event))
        elif text := _as_text(event):
            tqdm.write(text, file=sys.stderr)
            sys.stderr.flush()

    def _move(self, event: Advanced) -> None:
        shown = self._bars.get(event.bar)
        if shown is None:
            # bytes are scaled to KiB, MiB, ...; objects and checks are counted one by one
            scaled = event.unit == "B"
            shown = self._bars[event.bar] = tqdm(
                desc=event.label, unit=event.unit, unit_scale=scaled, unit_divisor=1024, leave=False
            )
        shown.total = event.total
        shown.update(event.count - shown.n)
        if event.over:
            self._bars.pop(event.bar).close()


class Log:
    """Lines with the time of day (UTC)."""

    def __init__(self, shown: Callable[[str], str] = str) -> None:
        """`shown` is what becomes of a line before it is written."""
        self._shown = shown
        self._told: dict[tuple[int, int], float] = {}

    def __call__(self, event: Event) -> None:
        """Show an event."""
        if isinstance(event, Advanced):
            self._move(event)
        elif isinstance(event, Answer):
            print(answer(event))
        elif text := _as_text(event):
            self._print(text, stamped=not isinstance(event, Complained))

    def _print(self, text: str, *, stamped: bool = True) -> None:
        stamp = f"{datetime.now(UTC):%H:%M:%S} " if stamped else ""
        print(self._shown(f"{stamp}{text}"), file=sys.stderr, flush=True)

    def _move(self, event: Advanced) -> None:
        now = time.monotonic()
        last = self._told.setdefault(event.bar, now)
        if event.count and (event.over or now - last >= LINE_INTERVAL):
            self._told[event.bar] = now
            of = f" of {human(event.total, event.unit)}" if event.total else ""
            self._print(f"{event.label}: {human(event.count, event.unit)}{of}")
        if event.over:
            del self._told[event.bar]


class JsonLines:
    """A JSON object a line: `event` names its kind, `time` is in ISO 8601 (UTC), the rest is the event's own."""

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def __call__(self, event: Event) -> None:
        """Show an event."""
        head = {"event": NAMES[type(event)], "time": datetime.now(UTC).isoformat(timespec="milliseconds")}
        # GitHub's runner takes `##[` anywhere in a line, and in JSON it can stand only in a string
        line = json.dumps(head | asdict(event)).replace("##[", r"#\u0023[")
        print(line, file=self._out, flush=True)


def answer(event: Answer) -> str:
    """Return the line of an answer."""
    if isinstance(event, Foretold):
        missing = f" on {', '.join(event.missing)}" if event.missing else ""
        return f"{event.step:<34} {FORETOLD[event.state]}{missing}"
    extent = event.size if event.size is not None else ",".join(map(str, event.device or ())) or "-"
    target = f" -> {event.target}" if event.target is not None else ""
    return f"{LETTERS[event.type]}{event.mode:04o} {extent:>8} {event.path}{target}"


def table(steps: tuple[Ended, ...]) -> str:
    """Return a line for each step: what became of it, in how many seconds, and why."""
    width = max((len(step.step) for step in steps), default=0)
    rows = (
        f"  {step.step:<{width}}  {step.state:<7}  {_seconds(step):>9}  {step.why.partition(chr(10))[0]}".rstrip()
        for step in steps
    )
    return "\n".join(rows)


def _seconds(step: Ended) -> str:
    return f"{step.seconds:.1f} s" if step.seconds else ""


def _as_text(event: Event) -> str:
    match event:
        case Said():
            return event.text
        case Complained():
            return f"{event.subject}: {event.report}" if event.subject else event.report
        case Finished() if event.steps:
            return f"what became of each step:\n{table(event.steps)}"
    return ""
