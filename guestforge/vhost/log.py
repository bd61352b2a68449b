"""Lines on standard error. A guest can cause most of them, so there is a limit to how many come in a second."""

import sys
import threading
import time

BURST = 50  # lines that may come at once
PER_SECOND = 5.0


class Log:
    """Writes `<name>: <message>`; drops lines above the limit and later says how many it dropped. For all threads.

    Control characters, which a guest may have put into a name, are escaped.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._tokens = float(BURST)
        self._last = time.monotonic()
        self._dropped = 0
        self._lock = threading.Lock()

    def say(self, message: str) -> None:
        """Write a line that a guest or a client can cause: limited."""
        with self._lock:
            now = time.monotonic()
            self._tokens = min(float(BURST), self._tokens + (now - self._last) * PER_SECOND)
            self._last = now
            if self._tokens < 1.0:
                self._dropped += 1
                return
            self._tokens -= 1.0
            if self._dropped:
                self.always(f"{self._dropped} lines left out")
                self._dropped = 0
            self.always(message)

    def always(self, message: str) -> None:
        """Write a line that comes at most a few times in the life of the process."""
        safe = message if message.isprintable() else message.encode("unicode_escape").decode()
        sys.stderr.write(f"{self._name}: {safe}\n")
        sys.stderr.flush()
