"""A file as the body of a request."""

from collections.abc import Iterator
from typing import IO, Final

from guestforge.core.errors import UserError
from guestforge.core.progress import Bar

CHUNK: Final = 256 * 1024


class Body:
    """The bytes of a file from a place on, sent as they are read: requests asks for the length and iterates."""

    def __init__(self, file: IO[bytes], start: int, size: int, shown: Bar) -> None:
        """`size` is the whole file's, in bytes."""
        self._file = file
        self._start = start
        self._size = size
        self._shown = shown

    def __len__(self) -> int:
        return self._size - self._start

    def __iter__(self) -> Iterator[bytes]:
        self._file.seek(self._start)
        left = len(self)
        self._shown.update(self._start - self._shown.count)  # what was sent before a cut is sent again
        while left:
            data = self._file.read(min(CHUNK, left))
            if not data:
                raise UserError(f"{self._file.name} became shorter while it was sent")
            left -= len(data)
            yield data
            self._shown.update(len(data))
