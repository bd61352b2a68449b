"""How often something is tried again, and how long is waited before."""

import email.utils
import time
from collections.abc import Mapping
from typing import Final

from guestforge.core.errors import BuildError
from guestforge.core.progress import say

TRIES: Final = 6
PAUSE: Final = 0.5  # seconds before the second try; each further one waits twice as long
MAX_PAUSE: Final = 16.0  # seconds, where the other side does not say how long
MAX_ASKED: Final = 300.0  # seconds that the other side may ask for at once
MAX_WAITED: Final = 600.0  # seconds, of all pauses of one request
TOLD: Final = 2.0  # seconds; a longer pause is told of


class Patience:
    """The tries of one piece of work. `what` is what it is called in an error."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._failed = 0
        self._waited = 0.0

    def wait(self, why: str, asked: float | None = None) -> None:
        """Wait before the next try: as long as was asked for, in seconds. Raises BuildError where it is enough."""
        self._failed += 1
        pause = min(PAUSE * 2 ** (self._failed - 1), MAX_PAUSE) if asked is None else max(asked, 0.0)
        if pause > MAX_ASKED or self._waited + pause > MAX_WAITED:
            hint = f"it asks to wait {pause:.0f} s: do the same again after that; what is there by now is kept"
            raise BuildError(f"{self._what}: {why}", hint=hint)
        if self._failed >= TRIES:
            hint = "do the same again once it answers; what is there by now is kept"
            raise BuildError(f"{self._what}: {why}, {TRIES} times", hint=hint)
        if pause >= TOLD:
            say(f"{self._what}: {why}; waiting {pause:.0f} s")
        time.sleep(pause)
        self._waited += pause

    def progressed(self) -> None:
        """Begin anew to count tries: what was tried has come further than before. The waiting is counted on."""
        self._failed = 0


def asked_pause(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that an answer asks to wait: Retry-After by RFC 9110, else what is left of a rate limit.

    GitHub's limits: https://docs.github.com/en/rest/using-the-rest-api/rate-limits-for-the-rest-api
    """
    after = headers.get("Retry-After", "").strip()[:100]
    if after.isascii() and after.isdecimal():
        return float(after[:9])
    if after:
        try:
            return max(email.utils.parsedate_to_datetime(after).timestamp() - time.time(), 0.0)
        except (ValueError, OverflowError):
            return None
    reset = headers.get("X-RateLimit-Reset", "").strip()
    if headers.get("X-RateLimit-Remaining", "").strip() == "0" and reset.isascii() and reset.isdecimal():
        return max(float(reset[:12]) - time.time(), 0.0) + 1
    return None
