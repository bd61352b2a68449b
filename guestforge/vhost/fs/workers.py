"""Threads for requests that may take long, so that the others do not wait for them."""

import contextlib
import threading
from collections import deque
from collections.abc import Callable

STACK = 512 * 1024  # bytes; what is called is Python, whose frames are elsewhere


class Workers:
    """Runs calls in threads: a new one for each call while none is idle, up to `most`; then calls wait in order.

    The threads are daemons: one that blocks for ever, on a disk that does not answer, does not keep the process.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._calls: deque[Callable[[], None]] = deque()
        self._wanted = threading.Semaphore(0)
        self._lock = threading.Lock()
        self._idle = 0
        self._threads = 0

    def submit(self, call: Callable[[], None]) -> None:
        """Have a call made in another thread; it must not raise."""
        self._calls.append(call)
        with self._lock:
            start = self._idle < len(self._calls) and self._threads < self._most
            self._threads += start
        if start:
            self._start()
        self._wanted.release()

    def drop(self) -> int:
        """Forget the calls that no thread has begun; return how many they were."""
        dropped = 0
        with contextlib.suppress(IndexError):
            while True:
                self._calls.popleft()
                dropped += 1
        return dropped

    def _start(self) -> None:
        before = threading.stack_size(STACK)
        try:
            threading.Thread(target=self._run, name="vhost-worker", daemon=True).start()
        except RuntimeError:  # no thread can be had now; one that is there takes the call, or the next one started
            with self._lock:
                self._threads -= 1
        finally:
            threading.stack_size(before)

    def _run(self) -> None:
        while True:
            with self._lock:
                self._idle += 1
            self._wanted.acquire()
            with self._lock:
                self._idle -= 1
            try:
                call = self._calls.popleft()
            except IndexError:  # dropped
                continue
            call()
