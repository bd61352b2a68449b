"""Requests that wait for a lock: one thread tries them again, however many there are.

What this server itself lets go of is told at once (`released`), so most waits end without a look that finds nothing.
Locks of the host and of other guests tell nobody; for them there is a slow round: TRIES requests at a time, those first
whose last try is the longest ago. That is a fixed number of tries a second, and so is what they cost.
"""

import errno
import itertools
import threading
import time
from collections.abc import Callable
from typing import Final

MAX_WAITERS: Final = 4096
MAX_EARLY: Final = 1024  # interrupts of requests that have not been heard of
FIRST_ROUND: Final = 0.002  # seconds after somebody new has come, then twice as long each time
LONGEST_ROUND: Final = 0.05
TRIES: Final = 10  # a round
# Seconds of rest for each second of tries: a guest that locks and unlocks all the time can't keep a processor busy with
# its waiters, and there is time for the other threads in between.
REST: Final = 3.0
LONGEST_REST: Final = 0.05
STACK: Final = 512 * 1024  # bytes


class Waiter:
    """A request that waits. `attempt(0)` tries it, `attempt(number)` refuses it; both return a reply, or None yet."""

    __slots__ = ("attempt", "done", "interrupted", "nodeid", "number", "unique")

    def __init__(
        self, unique: int, nodeid: int, attempt: Callable[[int], bytes | None], done: Callable[[bytes], None]
    ) -> None:
        self.unique = unique
        self.nodeid = nodeid
        self.attempt = attempt
        self.done = done
        self.interrupted = False
        self.number = 0  # the order in which they came


class Waiters:
    """Requests by their unique numbers, which a session uses once. For all threads.

    An interrupt may overtake its request, which comes through another ring. So one that hits nothing is kept for a
    while; a request that has been answered already never comes again.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()  # around all that follows
        self._waiting: dict[int, Waiter] = {}  # those first whose last try is the longest ago
        self._urgent: list[Waiter] = []  # to be looked at now
        self._released: set[int] = set()  # nodeids, of which a lock has gone
        self._early: dict[int, None] = {}  # interrupts of what does not wait (yet), in the order in which they came
        self._numbers = itertools.count()
        self._pause = FIRST_ROUND
        self._round = 0.0  # when the next slow round is due
        self._runs = False
        self._closed = False

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, waiter: Waiter) -> int:
        """Have a request wait; return 0, or the error that it is to be refused with."""
        with self._changed:
            if waiter.unique in self._early:
                del self._early[waiter.unique]
                return errno.EINTR
            if waiter.unique in self._waiting:
                return errno.EINVAL
            if len(self._waiting) >= MAX_WAITERS or not self._thread():
                return errno.ENOLCK
            waiter.number = next(self._numbers)
            self._waiting[waiter.unique] = waiter
            self._urgent.append(waiter)  # what it waits for may have gone since its first try
            self._pause = FIRST_ROUND
            self._round = min(self._round, time.monotonic() + FIRST_ROUND)
            self._changed.notify()
        return 0

    def interrupt(self, unique: int) -> None:
        """End the wait of a request, which is then answered with EINTR."""
        with self._changed:
            waiter = self._waiting.get(unique)
            if waiter is None:
                self._early[unique] = None
                if len(self._early) > MAX_EARLY:
                    del self._early[next(iter(self._early))]
            elif not waiter.interrupted:
                waiter.interrupted = True
                self._urgent.append(waiter)
                self._changed.notify()

    def released(self, nodeid: int) -> None:
        """Take note that a lock on an inode may have gone."""
        if not self._waiting:  # as nearly always
            return
        with self._changed:
            self._released.add(nodeid)
            self._changed.notify()

    def end_all(self) -> None:
        """End all waits with EINTR, and forget the interrupts of others: the guest begins anew."""
        with self._changed:
            waiting = list(self._waiting.values())
            self._waiting.clear()
            self._urgent.clear()
            self._released.clear()
            self._early.clear()
        for waiter in waiting:
            _answer(waiter, waiter.attempt(errno.EINTR))

    def close(self) -> None:
        """End all waits, and the thread."""
        self.end_all()
        with self._changed:
            self._closed = True
            self._changed.notify()

    def _thread(self) -> bool:
        """Start the thread where it does not run; return whether it does."""
        if self._runs:
            return True
        before = threading.stack_size(STACK)
        try:
            threading.Thread(target=self._run, name="lock-waiters", daemon=True).start()
            self._runs = True
        except RuntimeError:  # no thread can be had now
            return False
        finally:
            threading.stack_size(before)
        return True

    def _run(self) -> None:
        while ready := self._ready():
            began = time.monotonic()
            for waiter in ready:
                self._try(waiter)
            time.sleep(min(LONGEST_REST, REST * (time.monotonic() - began)))

    def _ready(self) -> list[Waiter]:
        """Sleep until there is something to try, and return it in the order in which it came; nothing at the end."""
        with self._changed:
            while not self._closed:
                left = self._round - time.monotonic()
                if ready := self._due(slow=left <= 0):
                    return sorted(ready, key=lambda waiter: waiter.number)
                self._changed.wait(left if self._waiting else None)
        return []

    def _due(self, *, slow: bool) -> set[Waiter]:
        ready = set(self._urgent)
        self._urgent.clear()
        if self._released:
            ready.update(waiter for waiter in self._waiting.values() if waiter.nodeid in self._released)
            self._released.clear()
        if slow and self._waiting:
            for unique in list(itertools.islice(self._waiting, TRIES)):
                waiter = self._waiting.pop(unique)
                self._waiting[unique] = waiter
                ready.add(waiter)
            self._round = time.monotonic() + self._pause
            self._pause = min(2 * self._pause, LONGEST_ROUND)
        return ready

    def _try(self, waiter: Waiter) -> None:
        reply = waiter.attempt(errno.EINTR if waiter.interrupted else 0)
        if reply is None:
            return
        with self._changed:
            ours = self._waiting.get(waiter.unique) is waiter  # or it has been ended meanwhile
            if ours:
                del self._waiting[waiter.unique]
        if ours:
            _answer(waiter, reply)


def _answer(waiter: Waiter, reply: bytes | None) -> None:
    waiter.done(reply or b"")
