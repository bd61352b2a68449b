"""Writes a guest's archive: a tar of fixed form, compressed by zstd, the same bytes whenever and wherever."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

import zstandard

from guestforge.core.errors import UserError
from guestforge.core.files import open_regular
from guestforge.core.progress import Bar
from guestforge.core.store import FileFacts
from guestforge.project.options import processors
from guestforge.release import tar

# A kernel and an initrd are compressed already: level 19 takes 12 times as long to save 4 % more. A level is worth its
# bytes with one version of the library alone, which requirements.lock pins.
LEVEL: Final = 9
# Those of several threads are one thread's (but not those of none), and each more holds a few pieces of the input.
MAX_THREADS: Final = 2
PIECE: Final = 4 * 1024 * 1024  # bytes that a thread compresses at a time; zstd's own choice, 16 MiB, takes 200 MiB
CHUNK: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Stored:
    """A file of the store, and what it was when it was made."""

    path: Path
    facts: FileFacts


Source = bytes | Stored


def write_archive(out: IO[bytes], root: str, members: Mapping[str, Source], epoch: int, shown: Bar) -> FileFacts:
    """Write the archive of members by their names, in their order, below a root; return the facts of what was written.

    `epoch` is the time of each, in seconds since 1970. Raises UserError for a file that is not what its step made.
    """
    state, size = hashlib.sha256(), 0
    for data in _compressed(_tarred(root, members, epoch, shown)):
        out.write(data)
        state.update(data)
        size += len(data)
    return FileFacts(state.hexdigest(), size)


def _compressed(plain: Iterator[bytes]) -> Iterator[bytes]:
    threads = min(MAX_THREADS, processors())
    how = zstandard.ZstdCompressionParameters.from_level(LEVEL, threads=threads, job_size=PIECE, write_checksum=True)
    compressor = zstandard.ZstdCompressor(compression_params=how).compressobj()
    for data in plain:
        yield compressor.compress(data)
    yield compressor.flush()


def _tarred(root: str, members: Mapping[str, Source], epoch: int, shown: Bar) -> Iterator[bytes]:
    place = 0
    for name, source in members.items():
        size = len(source) if isinstance(source, bytes) else source.facts.size
        head, tail = tar.header(f"{root}/{name}", size, epoch), tar.padding(size)
        yield head
        yield from [source] if isinstance(source, bytes) else _content(source, shown)
        yield tail
        place += len(head) + size + len(tail)
    yield tar.ending(place)


def _content(source: Stored, shown: Bar) -> Iterator[bytes]:
    """Yield a stored file's content, found to be what its step made once all of it has been read."""
    file = open_regular(source.path)
    if file is None:
        raise _changed(source)
    state, left = hashlib.sha256(), source.facts.size
    with file:
        while left and (data := file.read(min(CHUNK, left))):
            state.update(data)
            left -= len(data)
            shown.update(len(data))
            yield data
        if left or file.read(1) or state.hexdigest() != source.facts.sha256:
            raise _changed(source)


def _changed(source: Stored) -> UserError:
    return UserError(
        f"{source.path} in the store is not what was put there",
        hint=f"rm -r {source.path.parent}; the next build makes it anew",
    )
