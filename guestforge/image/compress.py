"""Compression of an initrd, with the same result on every run."""

import contextlib
import gzip
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import IO, cast

import zstandard

# The highest levels that cost no more memory in the guest than the archive itself: above 19, zstd's window grows to
# 32 MiB and beyond, which the kernel would have to allocate early in the boot.
ZSTD_LEVEL = 19
GZIP_LEVEL = 9


def identity(compression: str) -> dict[str, object]:
    """Return what the compressed bytes depend on besides their input, for a step's key."""
    return {"name": compression} | _IDENTITIES[compression]


def compressed(out: IO[bytes], compression: str) -> AbstractContextManager[IO[bytes]]:
    """Return a writer whose content reaches `out` compressed; `out` stays open."""
    return _WRITERS[compression](out)


@contextlib.contextmanager
def _zstd(out: IO[bytes]) -> Iterator[IO[bytes]]:
    # without `threads` zstd works in this thread alone: several would cut the input by their number
    compressor = zstandard.ZstdCompressor(level=ZSTD_LEVEL, write_checksum=True)
    with compressor.stream_writer(out, closefd=False) as stream:
        yield cast("IO[bytes]", stream)


@contextlib.contextmanager
def _gzip(out: IO[bytes]) -> Iterator[IO[bytes]]:
    with gzip.GzipFile(filename="", mode="wb", compresslevel=GZIP_LEVEL, fileobj=out, mtime=0) as stream:
        yield cast("IO[bytes]", stream)


_WRITERS: dict[str, Callable[[IO[bytes]], AbstractContextManager[IO[bytes]]]] = {"zstd": _zstd, "gzip": _gzip}
COMPRESSIONS = tuple(_WRITERS)
_IDENTITIES: dict[str, dict[str, object]] = {
    "zstd": {"level": ZSTD_LEVEL, "library": ".".join(map(str, zstandard.ZSTD_VERSION))},
    "gzip": {"level": GZIP_LEVEL, "library": zlib.ZLIB_RUNTIME_VERSION},
}
