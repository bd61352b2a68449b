"""Files with holes: what is done with one costs by the data in it and not by its size."""

import errno
import hashlib
import os
from collections.abc import Callable, Iterator
from typing import Final

BLOCK: Final = 4096  # bytes; the least hole that file systems keep
READ_SIZE: Final = 1024 * 1024
_ZEROS: Final = bytes(READ_SIZE)
# what lseek(2) and copy_file_range(2) say where a file system has no such thing
_UNKNOWN: Final = {errno.EINVAL, errno.ENOSYS, errno.ENOTTY, errno.EOPNOTSUPP}
_NO_RANGES: Final = {*_UNKNOWN, errno.EXDEV, errno.EPERM}


def extents(descriptor: int) -> Iterator[tuple[int, int]]:
    """Yield where a file has data, as lseek(2) knows it; one extent where the file system records no holes."""
    size = os.fstat(descriptor).st_size
    end = 0
    while end < size:
        try:
            start = os.lseek(descriptor, end, os.SEEK_DATA)
            end = os.lseek(descriptor, start, os.SEEK_HOLE)
        except OSError as e:
            if e.errno == errno.ENXIO:  # nothing but a hole to the end
                return
            if e.errno not in _UNKNOWN:
                raise
            start, end = end, size
        yield start, end


def has_holes(descriptor: int) -> bool:
    """Whether a file has a hole that its file system tells of."""
    return sum(end - start for start, end in extents(descriptor)) < os.fstat(descriptor).st_size


def sha256(descriptor: int, progress: Callable[[int], object] = lambda _: None) -> str:
    """Return a file's SHA-256 in hex, the one that sha256sum(1) gives. Of a hole nothing is read, but its zeros count.

    That takes about a second for each GiB of a hole. `progress` gets the number of bytes that are done, piece by piece.
    """
    state = hashlib.sha256()

    def add(piece: bytes | memoryview) -> None:
        state.update(piece)
        progress(len(piece))

    size, at = os.fstat(descriptor).st_size, 0
    for start, end in [*extents(descriptor), (size, size)]:
        for zeros in range(at, start, READ_SIZE):
            add(memoryview(_ZEROS)[: start - zeros])
        for piece in _pieces(descriptor, start, end):
            add(piece)
        at = end
    return state.hexdigest()


def digest(descriptor: int) -> str:
    """Return a digest in hex over a file's size and its data, in a time that goes by the data.

    It is the SHA-256 of the size and of each block of BLOCK bytes that is not all zero, with its place. So it follows
    from the file's bytes alone: a copy with other holes, or with none, has the same.
    """
    size, done = os.fstat(descriptor).st_size, 0
    state = hashlib.sha256(size.to_bytes(8, "big"))
    for start, end in extents(descriptor):
        first = max(done, start - start % BLOCK)
        done = min(size, end + -end % BLOCK)
        at = first
        for piece in _pieces(descriptor, first, done):
            for offset in range(0, len(piece), BLOCK):
                block = piece[offset : offset + BLOCK]
                if block != _ZEROS[: len(block)]:
                    state.update((at + offset).to_bytes(8, "big") + block)
            at += len(piece)
    return state.hexdigest()


def copy(source: int, target: int) -> None:
    """Copy a file's data into an empty one and give that the same size; holes stay holes."""
    for start, end in extents(source):
        at = start
        while at < end:
            copied = _copy_range(source, target, at, end - at) or _copy_piece(source, target, at, end - at)
            if not copied:  # it has become shorter
                break
            at += copied
    os.truncate(target, os.fstat(source).st_size)


def _pieces(descriptor: int, start: int, end: int) -> Iterator[bytes]:
    while start < end and (piece := os.pread(descriptor, min(READ_SIZE, end - start), start)):
        yield piece
        start += len(piece)


def _copy_range(source: int, target: int, at: int, count: int) -> int:
    """Have the kernel copy bytes, or share them where the file system can; return how many, 0 where it does not."""
    try:
        return os.copy_file_range(source, target, count, at, at)
    except OSError as e:
        if e.errno in _NO_RANGES:
            return 0
        raise


def _copy_piece(source: int, target: int, at: int, count: int) -> int:
    piece = os.pread(source, min(READ_SIZE, count), at)
    written = 0
    while written < len(piece):
        written += os.pwrite(target, piece[written:], at + written)
    return len(piece)
