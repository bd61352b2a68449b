"""What happens while work is done, as data. Whoever works sends events; one renderer shows them (`render`)."""

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

State = Literal["built", "passed", "reused", "failed", "skipped"]  # what became of a step


@dataclass(frozen=True, slots=True)
class Said:
    """A line for the user, or several that stay together."""

    text: str


@dataclass(frozen=True, slots=True)
class Advanced:
    """How far a piece of work is: `count` of `total` units, which is None where nobody knows; `unit` is B for bytes.

    `bar` tells pieces apart that go on at once, in one process or in several. One that is `over` comes last.
    """

    bar: tuple[int, int]
    label: str
    count: int
    total: int | None
    unit: str
    over: bool = False


@dataclass(frozen=True, slots=True)
class Began:
    """A step is being made."""

    step: str


@dataclass(frozen=True, slots=True)
class Ended:
    """What became of a step, in how many seconds, and why that where it is not plain."""

    step: str
    state: State
    seconds: float = 0.0
    why: str = ""


@dataclass(frozen=True, slots=True)
class Complained:
    """An error that a person must be told: `subject` is what it happened to, the rest as in GuestforgeError."""

    subject: str
    report: str
    message: str
    exit_code: int


@dataclass(frozen=True, slots=True)
class Finished:
    """All steps have come to their end."""

    steps: tuple[Ended, ...]


@dataclass(frozen=True, slots=True)
class Foretold:
    """What would become of a step: it is `reused`, `made`, or that `depends` on what is missing."""

    step: str
    state: str
    missing: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Listed:
    """A node of a root file system. `type` is file, directory, symlink, char or block; the others are None elsewhere.

    `size` is a file's, in bytes; `target` is a symbolic link's; `device` has a device's major and minor number.
    """

    path: str
    type: str
    mode: int
    size: int | None = None
    target: str | None = None
    device: tuple[int, int] | None = None


Answer = Foretold | Listed  # what was asked for, which goes to standard output
Event = Said | Advanced | Began | Ended | Complained | Finished | Answer
Sink = Callable[[Event], None]


def plain(event: Event) -> None:
    """Write what is said, and errors, to standard error, for programs that have no renderer."""
    text = event.text if isinstance(event, Said) else event.report if isinstance(event, Complained) else ""
    if text:
        print(text, file=sys.stderr, flush=True)


class _Stage:
    """Where events go: to what was chosen last."""

    def __init__(self) -> None:
        self.sink: Sink = plain
        self.lock = threading.Lock()


_stage = _Stage()


def send(event: Event) -> None:
    """Send an event, from any thread."""
    with _stage.lock:
        _stage.sink(event)


def use(sink: Sink) -> None:
    """Have all events of this process go to a sink, from now on."""
    _stage.lock = threading.Lock()  # after fork(2) the old one may be held by a thread that is not here
    _stage.sink = sink


@contextlib.contextmanager
def shown_by(sink: Sink) -> Iterator[None]:
    """Have events go to a sink while the block lasts."""
    before, _stage.sink = _stage.sink, sink
    try:
        yield
    finally:
        _stage.sink = before
