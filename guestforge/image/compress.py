"""Compression of an initrd, with the same result on every run; docs/compressions.md compares them."""

import contextlib
import gzip
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import IO, Final, cast

import lz4
import lz4.block
import zstandard

from guestforge.core.errors import UserError

INITRD: Final = "CONFIG_BLK_DEV_INITRD"

# The highest levels that cost no more memory in the guest than the archive itself: above 19, zstd's window grows to
# 32 MiB and beyond, which the kernel would have to allocate early in the boot.
ZSTD_LEVEL = 19
GZIP_LEVEL = 9
LZ4_LEVEL = 12  # the highest; what it costs is time here and none in the guest

# The kernel reads the legacy frame alone: a magic number, then blocks, each with its compressed length before it.
# https://github.com/lz4/lz4/blob/dev/doc/lz4_Frame_format.md#legacy-frame
LZ4_MAGIC: Final = 0x184C2102
LZ4_BLOCK: Final = 8 * 1024 * 1024  # bytes that a block holds uncompressed, all but the last one


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


@contextlib.contextmanager
def _lz4(out: IO[bytes]) -> Iterator[IO[bytes]]:
    out.write(struct.pack("<I", LZ4_MAGIC))
    stream = _Lz4Blocks(out)
    yield cast("IO[bytes]", stream)
    stream.end()


class _Lz4Blocks:
    """A writer that hands on whole blocks; at most one is in memory."""

    def __init__(self, out: IO[bytes]) -> None:
        self._out = out
        self._waiting = bytearray()

    def write(self, data: bytes) -> int:
        self._waiting += data
        while len(self._waiting) >= LZ4_BLOCK:
            self._block(LZ4_BLOCK)
        return len(data)

    def end(self) -> None:
        if self._waiting:
            self._block(len(self._waiting))

    def _block(self, size: int) -> None:
        data = bytes(self._waiting[:size])
        del self._waiting[:size]
        block = lz4.block.compress(data, mode="high_compression", compression=LZ4_LEVEL, store_size=False)
        self._out.write(struct.pack("<I", len(block)) + block)


@contextlib.contextmanager
def _none(out: IO[bytes]) -> Iterator[IO[bytes]]:
    yield out


_WRITERS: dict[str, Callable[[IO[bytes]], AbstractContextManager[IO[bytes]]]] = {
    "lz4": _lz4,
    "zstd": _zstd,
    "gzip": _gzip,
    "none": _none,
}
COMPRESSIONS = tuple(_WRITERS)  # what unpacks fastest for its size first
_IDENTITIES: dict[str, dict[str, object]] = {
    "lz4": {"level": LZ4_LEVEL, "library": lz4.library_version_string()},
    "zstd": {"level": ZSTD_LEVEL, "library": ".".join(map(str, zstandard.ZSTD_VERSION))},
    "gzip": {"level": GZIP_LEVEL, "library": zlib.ZLIB_RUNTIME_VERSION},
    "none": {},
}


# What a kernel must have to unpack each
OPTIONS: Final[dict[str, str]] = {"lz4": "CONFIG_RD_LZ4", "zstd": "CONFIG_RD_ZSTD", "gzip": "CONFIG_RD_GZIP"}


def compression_for(config: Mapping[str, str], wanted: str | None = None) -> str:
    """Return `wanted`, or without it the best compression that a kernel of this final configuration unpacks.

    `config` maps option names (with CONFIG_) to values. Raises UserError where the kernel unpacks no initrd, or not the
    wanted one; the message names the option that it lacks.
    """
    if config.get(INITRD) != "y":
        raise UserError(
            f"the kernel boots no initrd: its configuration lacks {INITRD}",
            hint="add the fragment `initrd` to the kernel's recipe",
        )
    able = [name for name in COMPRESSIONS if name not in OPTIONS or config.get(OPTIONS[name]) == "y"]
    if wanted is None:
        return able[0]
    if wanted not in able:
        raise UserError(
            f"initrd.compression: the kernel unpacks no {wanted}: its configuration lacks {OPTIONS[wanted]}",
            hint=f"add {OPTIONS[wanted]}=y to a fragment of the kernel, or choose one of {', '.join(able)}",
        )
    return wanted
