"""Texts that lie in several pieces of the guest's memory."""

from collections.abc import Iterator, Sequence


def split(views: Sequence[memoryview], size: int) -> tuple[bytes, Sequence[memoryview]]:
    """Return the first bytes of a scattered text, and what follows them. Raises ValueError where there are fewer."""
    if views and len(views[0]) == size:  # as guests lay it out
        return bytes(views[0]), views[1:]
    head, rest = [], []
    for view in views:
        head.append(bytes(view[:size]))
        if len(view) > size:
            rest.append(view[size:])
        size = max(0, size - len(view))
    if size:
        raise ValueError(f"it is {size} bytes too short")
    return b"".join(head), rest


def scatter(views: Sequence[memoryview], data: bytes) -> int:
    """Write bytes to the beginning of scattered memory; return how many there was room for."""
    if views and len(views[0]) >= len(data):  # as guests lay it out
        views[0][: len(data)] = data
        return len(data)
    at = 0
    for view in views:
        piece = data[at : at + len(view)]
        view[: len(piece)] = piece
        at += len(piece)
        if at == len(data):
            break
    return at


def limited(views: Sequence[memoryview], size: int) -> Iterator[memoryview]:
    """Yield the first bytes of scattered memory."""
    for view in views:
        if size <= 0:
            return
        yield view[:size]
        size -= len(view)
