"""Downloads that go on where they were cut."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Final

import requests

from guestforge.core.errors import UserError
from guestforge.core.progress import Bar, bar
from guestforge.publish.http import AGAIN, Client, NetworkError, read_paced
from guestforge.publish.patience import Patience, asked_pause

MAX_PARTS: Final = 3  # tries to get the rest, before all is asked for
UNSATISFIABLE: Final = 416  # there is nothing behind the place that was asked for


def download(
    client: Client, url: str, path: Path, *, sha256: str, limit: int, headers: Mapping[str, str] | None = None
) -> None:
    """Write what an URL has, at most `limit` bytes, into a new file, found to have its SHA-256 in hex.

    An empty one is not compared.

    Raises BuildError for a server that does not answer, or gives something else again and again, UserError for one that
    does not have it.
    """
    patience = Patience(f"{client.title}: {path.name}")
    with path.open("xb") as out, bar(f"fetching {path.name}", None, "B") as shown:
        download = _Download(out, shown, limit, patience)
        while True:
            try:
                with client.opened("GET", url, headers={**(headers or {}), **download.range()}) as response:
                    status = response.status_code
                    if status == UNSATISFIABLE:
                        download.restart()
                    elif status not in (200, 206) and status not in AGAIN:
                        raise UserError(f"{client.title} does not give {path.name}: it answers {status}")
                    if status not in (200, 206):
                        patience.wait(f"it answers {status}", asked_pause(response.headers))
                        continue
                    download.take(response)
            except NetworkError as e:
                download.fail()
                patience.wait(str(e))
                continue
            if sha256 in ("", download.digest()):
                return
            download.restart()
            patience.wait("what it sends does not have its SHA-256")


class _Download:
    """What has come of a file."""

    def __init__(self, out: IO[bytes], shown: Bar, limit: int, patience: Patience) -> None:
        self._out = out
        self._shown = shown
        self._limit = limit
        self._patience = patience
        self._state = hashlib.sha256()
        self._size = 0
        self._most = 0  # that has ever come
        self._failed = 0  # tries since more of it came than ever

    def range(self) -> dict[str, str]:
        """Return the header that asks for the rest."""
        return {"Range": f"bytes={self._size}-"} if self._size else {}

    def fail(self) -> None:
        """Note a try that failed. After a few in which nothing came, it may be the asking for a part that fails."""
        self._failed += 1
        if self._failed >= MAX_PARTS:
            self.restart()

    def restart(self) -> None:
        """Forget what has come."""
        self._out.seek(0)
        self._out.truncate()
        self._state = hashlib.sha256()
        self._size = 0

    def take(self, response: requests.Response) -> None:
        """Take the rest, or all where the server gives no parts. Raises NetworkError where it ends early."""
        if response.status_code == 200:
            self.restart()
        elif not response.headers.get("Content-Range", "").startswith(f"bytes {self._size}-"):
            raise NetworkError("it sends another part than was asked for")
        length = response.headers.get("Content-Length", "")[:18]
        self._shown.total = self._size + int(length) if length.isascii() and length.isdecimal() else None
        self._shown.update(self._size - self._shown.count)
        for data in read_paced(response, self._limit - self._size):
            self._out.write(data)
            self._state.update(data)
            self._size += len(data)
            self._shown.update(len(data))
            if self._size > self._most:
                self._most = self._size
                self._failed = 0
                self._patience.progressed()

    def digest(self) -> str:
        """Return the SHA-256 of what has come."""
        return self._state.hexdigest()
