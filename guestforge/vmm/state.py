"""What is known of a running machine: fed by the watcher's thread, waited on by others."""

import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeVar

from guestforge.core.signals import NAP
from guestforge.vmm.console import Console, Fault
from guestforge.vmm.errors import Kind, MachineError

T = TypeVar("T")

EXCERPT_LINES: Final = 20
# A trace follows the line that gives a fault away. It is waited for until the console is quiet, but not for long.
TRACE_QUIET: Final = 0.05  # seconds
TRACE_LIMIT: Final = 0.5

_WORDS: Final = {
    "no-memory": "the guest has too little memory",
    "panic": "the guest's kernel panicked",
    "oops": "the guest's kernel crashed",
    "lockup": "the guest's kernel hangs or waits",
    "no-init": "the guest's kernel has nothing to start",
    "warning": "the guest's kernel warned",
    "firmware": "the machine's firmware stopped",
}


@dataclass(frozen=True, slots=True)
class Ended:
    """How QEMU ended: the reason that it gave (`guest-shutdown`, `guest-reset`, ...; `unknown` if none), its code."""

    reason: str
    returncode: int

    def __str__(self) -> str:
        return f"QEMU ended with {how_it_ended(self.returncode)}" + (
            "" if self.reason == "unknown" else f" after {self.reason}"
        )


def how_it_ended(returncode: int) -> str:
    """Return a program's exit code in words: negative ones are signals."""
    return f"exit code {returncode}" if returncode >= 0 else signal.Signals(-returncode).name


@dataclass(frozen=True, slots=True)
class _Trouble:
    kind: Kind
    message: str
    excerpt: Callable[[], str]
    trace: bool = False


class State:
    """The state of one machine. `started` is when it began to start, by time.monotonic().

    Without `faults_count` what no healthy guest prints is no trouble: a person looks, and may have printed it.
    """

    def __init__(
        self,
        console: Console,
        kernel_log_start: str,
        on_line: Callable[[str], None] | None,
        *,
        faults_count: bool = True,
    ) -> None:
        self.started = time.monotonic()
        self.phases: dict[str, float] = {}
        self.version: str | None = None  # QEMU's, once it answers
        self.ended: Ended | None = None
        self.stopping = False  # set while we stop it ourselves: later events are not faults
        self.shutdown_reason = "unknown"
        self._console = console
        self._kernel_log_start = kernel_log_start
        self._on_line = on_line
        self._faults_count = faults_count
        self._trouble: _Trouble | None = None
        self._callbacks: list[Callable[[], None]] = []
        self._last_output = self.started
        self._changed = threading.Condition()

    # the watcher's side

    def attach(self, console: Console) -> None:
        """Take the console that is to be fed."""
        self._console = console

    def feed(self, data: bytes) -> None:
        """Take in what the console printed."""
        with self._changed:
            lines = self._console.feed(data)
            self._last_output = time.monotonic()
            self._note(lines)
            if error := self._console.log_error:
                self._fail(_Trouble("log-failed", f"the console's log can't be written: {error.strerror}", str))
        self._tell(lines)

    def answers(self, version: str) -> None:
        """QEMU answers on QMP."""
        with self._changed:
            self.version = version
            self._reach("qemu_start")
            self._changed.notify_all()

    def has_ended(self, returncode: int) -> None:
        """QEMU has ended, and all that it had to say is in."""
        with self._changed:
            lines = self._console.close()
            self._note(lines)
            self.ended = Ended(self.shutdown_reason, returncode)
            self._changed.notify_all()
        self._tell(lines)

    def fail(self, kind: Kind, message: str, excerpt: Callable[[], str]) -> None:
        """The machine is beyond use; the first reason counts."""
        with self._changed:
            self._fail(_Trouble(kind, message, excerpt))
        self._tell([])

    # the other side

    def wait(self, ready: Callable[[], T | None], limit: float, what: str, *, needs_qemu: bool = True) -> T:
        """Return what `ready` returns, as soon as that is not None; it is asked again whenever something happens.

        Raises MachineError as soon as waiting is in vain, or with `timeout` after `limit` seconds.
        """
        deadline = time.monotonic() + limit
        with self._changed:
            while True:
                self._raise(qemu=False)
                if (value := ready()) is not None:
                    return value
                self._raise(qemu=needs_qemu)
                left = deadline - time.monotonic()
                if left <= 0:
                    raise MachineError("timeout", f"no {what} within {limit:g} s", excerpt=self.tail(EXCERPT_LINES))
                self._changed.wait(min(left, NAP))  # not `awaited`: between two naps it would miss a change

    def verify(self, grace: float = 0.0) -> None:
        """Raise MachineError if the machine is beyond use, or turns out to be within `grace` seconds."""
        with self._changed:
            if grace:
                self._changed.wait_for(lambda: self._trouble or self.ended, grace)
            self._raise(qemu=True)

    def why(self) -> str | None:
        """Return why the machine is beyond use, None while it is not."""
        with self._changed:
            return self._trouble.message if self._trouble else str(self.ended) if self.ended else None

    def on_end(self, callback: Callable[[], None]) -> None:
        """Have a function called, in another thread, when the machine is beyond use; at once if it is already."""
        with self._changed:
            self._callbacks.append(callback)
        self._tell([])

    def find(self, text: str) -> str | None:
        """Return the console's first line with a text."""
        with self._changed:
            return self._console.find(text)

    def tail(self, count: int) -> str:
        """Return the console's last lines."""
        with self._changed:
            return self._console.tail(count)

    def faults(self) -> tuple[Fault, ...]:
        """Return the lines of the whole console that no healthy guest prints."""
        with self._changed:
            return tuple(self._console.faults)

    def _note(self, lines: list[str]) -> None:
        if "kernel_up" not in self.phases and any(self._kernel_log_start in line for line in lines):
            self._reach("kernel_up")
        if self._faults_count and self._console.faults and self._trouble is None:
            fault = self._console.faults[0]
            message = f"{_WORDS[fault.kind]}: {fault.line.strip()}"
            self._fail(_Trouble(fault.kind, message, lambda: self._console.excerpt(fault), trace=True))
        self._changed.notify_all()

    def _reach(self, phase: str) -> None:
        self.phases[phase] = round(time.monotonic() - self.started, 3)

    def _fail(self, trouble: _Trouble) -> None:
        if self._trouble is None and not self.stopping:
            self._trouble = trouble
            self._changed.notify_all()

    def _raise(self, *, qemu: bool) -> None:
        if trouble := self._trouble:
            if trouble.trace:
                self._await_trace()
            raise MachineError(trouble.kind, trouble.message, excerpt=trouble.excerpt())
        if qemu and self.ended:
            raise MachineError("qemu-exited", str(self.ended), excerpt=self.tail(EXCERPT_LINES))

    def _await_trace(self) -> None:
        deadline = time.monotonic() + TRACE_LIMIT
        while self.ended is None and (now := time.monotonic()) < min(deadline, self._last_output + TRACE_QUIET):
            self._changed.wait(min(deadline, self._last_output + TRACE_QUIET) - now)

    def _tell(self, lines: list[str]) -> None:
        """Call those who asked for it, without the lock: they may ask us."""
        for line in lines if self._on_line else ():
            assert self._on_line
            self._on_line(line)
        with self._changed:
            callbacks: list[Callable[[], None]] = []
            if self._trouble or self.ended:
                callbacks, self._callbacks = self._callbacks, callbacks
        for callback in callbacks:
            callback()
