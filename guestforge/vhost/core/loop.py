"""One thread, one epoll: descriptors, timers, signals."""

import contextlib
import heapq
import os
import select
import signal
import threading
import time
from collections.abc import Callable

IN = select.EPOLLIN
OUT = select.EPOLLOUT
HUP = select.EPOLLHUP | select.EPOLLERR

MAX_EVENTS = 128


class Timer:
    """A call that is due; `cancel()` takes it back."""

    __slots__ = ("call", "due")

    def __init__(self, due: float, call: Callable[[], None]) -> None:
        self.due = due
        self.call: Callable[[], None] | None = call

    def cancel(self) -> None:
        """Take the call back. Does nothing when it is done already."""
        self.call = None

    def __lt__(self, other: "Timer") -> bool:
        return self.due < other.due


class Loop:
    """Calls `handler(events)` for each ready descriptor, then `after_batch` once: there notifications are sent."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._handlers: dict[int, Callable[[int], None]] = {}
        self._timers: list[Timer] = []
        self._soon: list[Callable[[], None]] = []
        self._running = True
        self._closed = False
        self._wake_lock = threading.Lock()
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.after_batch: Callable[[], None] = lambda: None
        self.stop_reason = ""
        self.add(self._wake_read, IN, self._woken)

    def add(self, fd: int, events: int, handler: Callable[[int], None]) -> None:
        """Watch a descriptor. EPOLLHUP and EPOLLERR come unasked."""
        self._epoll.register(fd, events)
        self._handlers[fd] = handler

    def modify(self, fd: int, events: int) -> None:
        """Change what a watched descriptor is watched for."""
        self._epoll.modify(fd, events)

    def remove(self, fd: int) -> None:
        """Stop watching a descriptor; call this before closing it."""
        del self._handlers[fd]
        self._epoll.unregister(fd)

    def call_later(self, seconds: float, call: Callable[[], None]) -> Timer:
        """Call once after so many seconds."""
        timer = Timer(time.monotonic() + seconds, call)
        heapq.heappush(self._timers, timer)
        return timer

    def call_soon(self, call: Callable[[], None]) -> None:
        """Call once after the descriptors that are ready now have had their turn."""
        self._soon.append(call)

    def wake(self) -> None:
        """End the present or the next sleep, so that `after_batch` is called; from any thread, at any time."""
        with self._wake_lock, contextlib.suppress(BlockingIOError):  # a full pipe wakes it as well
            if not self._closed:
                os.write(self._wake_write, b"\0")

    def stop_on_signals(self, *numbers: int) -> None:
        """End the loop on these signals; the handler only notes it, so it is safe at any point."""
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        for number in numbers:
            signal.signal(number, lambda got, _frame: self.stop(signal.Signals(got).name))

    def stop(self, reason: str) -> None:
        """End `run` after the present batch."""
        self.stop_reason = self.stop_reason or reason
        self._running = False

    def run(self) -> None:
        """Serve until `stop`."""
        while self._running:
            self.step(self._wait())

    def step(self, seconds: float) -> None:
        """Wait so long for events, -1 is for ever, and serve one batch of them."""
        ready = self._epoll.poll(seconds, MAX_EVENTS)
        # A handler may close a descriptor whose number is then given out again: an event of the old one must not
        # reach the new owner, so the owners are looked up before the first of them runs.
        batch = [(fd, events, self._handlers.get(fd)) for fd, events in ready]
        for fd, events, handler in batch:
            if handler is not None and self._handlers.get(fd) is handler:
                handler(events)
        self._run_due()
        self.after_batch()

    def close(self) -> None:
        """Release the descriptors of the loop itself."""
        signal.set_wakeup_fd(-1)
        with self._wake_lock:  # or a late thread would write to whatever gets the descriptor's number
            self._closed = True
        self._epoll.close()
        os.close(self._wake_read)
        os.close(self._wake_write)

    def _wait(self) -> float:
        """Return how long epoll may sleep, in seconds; -1 is for ever."""
        while self._timers and self._timers[0].call is None:
            heapq.heappop(self._timers)
        if self._soon or not self._running:
            return 0
        return max(0.0, self._timers[0].due - time.monotonic()) if self._timers else -1

    def _run_due(self) -> None:
        soon, self._soon = self._soon, []
        for call in soon:
            call()
        now = time.monotonic()
        while self._timers and self._timers[0].due <= now:
            timer = heapq.heappop(self._timers)
            if timer.call is not None:
                timer.call()

    def _woken(self, _events: int) -> None:
        os.read(self._wake_read, 4096)


class Watch:
    """What one descriptor is watched for, changed only when it changes."""

    __slots__ = ("_events", "_fd", "_handler", "_loop")

    def __init__(self, loop: Loop, fd: int, handler: Callable[[int], None]) -> None:
        self._loop = loop
        self._fd = fd
        self._handler = handler
        self._events: int | None = None

    def want(self, events: int | None) -> None:
        """Watch for these events; 0 still reports a hang-up, None reports nothing."""
        if events == self._events:
            return
        if events is None:
            self._loop.remove(self._fd)
        elif self._events is None:
            self._loop.add(self._fd, events, self._handler)
        else:
            self._loop.modify(self._fd, events)
        self._events = events
