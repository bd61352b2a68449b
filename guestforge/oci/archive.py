"""Tars of images: which kind one is, told by the names in it, and how skopeo gets to read it."""

import gzip
import tarfile
import zlib
from pathlib import Path
from typing import IO, Final, Literal, cast

import zstandard

from guestforge.core.errors import UserError
from guestforge.core.files import open_regular
from guestforge.core.progress import bar

Kind = Literal["docker-archive", "oci-archive"]

MAX_HEADERS: Final = 4096  # an image has a few a layer
MAX_READ: Final = 1024 * 1024  # bytes at once: a header that claims more is no image's
MAX_PLACE: Final = 16 * 1024**3  # bytes; what is compressed has to be read to get there
CHUNK: Final = 256 * 1024
_GZIP: Final = b"\x1f\x8b"
_ZSTD: Final = b"\x28\xb5\x2f\xfd"
_NO_TAR: Final = (tarfile.TarError, gzip.BadGzipFile, zlib.error, zstandard.ZstdError, EOFError, ValueError)


def archive_kind(path: Path) -> Kind | None:
    """Return what a tar holds, plain or compressed by gzip or zstd; None for a file that is no tar, or of no image.

    Raises UserError for one that is cut short or can't be read.
    """
    try:
        file = open_regular(path)
        if file is None:
            return None
        with file:
            return _kind(file, path)
    except OSError as e:
        raise UserError(f"{path}: {e.strerror or e}") from e


def provide(path: Path, place: Path) -> None:
    """Have an archive at a new place, uncompressed: the skopeo of Debian 12 reads a plain docker-archive alone.

    https://github.com/containers/podman/issues/15944. Raises UserError for one that is damaged.
    """
    with path.open("rb") as file:
        plain = _plain(file)
        if plain is file:
            place.symlink_to(path)
            return
        with place.open("xb") as out, bar(f"uncompressing {path.name}", None, "B") as shown:
            try:
                while data := plain.read(CHUNK):
                    out.write(data)
                    shown.update(len(data))
                    if out.tell() > MAX_PLACE:
                        raise ValueError(f"more than {MAX_PLACE} bytes, uncompressed")
            except _NO_TAR as e:
                raise _damaged(path, e) from e


def _kind(file: IO[bytes], path: Path) -> Kind | None:
    try:
        tar = tarfile.TarFile(fileobj=cast("IO[bytes]", _Forward(_plain(file))))
    except _NO_TAR:
        return None
    try:
        return _kind_of_members(tar)
    except _NO_TAR as e:
        raise _damaged(path, e) from e


def _plain(file: IO[bytes]) -> IO[bytes]:
    """Return a file that has just been opened as what it holds, uncompressed; itself if it is that."""
    head = file.read(4)
    file.seek(0)
    if head.startswith(_GZIP):
        return cast("IO[bytes]", gzip.GzipFile(fileobj=file))
    if head == _ZSTD:
        return cast("IO[bytes]", zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True))
    return file


def _damaged(path: Path, why: Exception) -> UserError:
    return UserError(f"{path} is cut short, or damaged: {why}")


def _kind_of_members(tar: tarfile.TarFile) -> Kind | None:
    kind: Kind | None = None
    for _ in range(MAX_HEADERS):
        member = tar.next()
        if member is None:
            break
        name = member.name.removeprefix("./")
        if name == "manifest.json":  # Docker's newer ones have both
            return "docker-archive"
        if name == "oci-layout":
            kind = "oci-archive"
    return kind


class _Forward:
    """A file as tarfile reads one, in which it gets forward alone, and not without end."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._place = 0
        self._seeks = not isinstance(file, gzip.GzipFile | zstandard.ZstdDecompressionReader)

    def tell(self) -> int:
        return self._place

    def read(self, size: int) -> bytes:
        if not 0 <= size <= MAX_READ:
            raise ValueError(f"a header claims {size} bytes")
        data = b""
        while len(data) < size and (more := self._file.read(size - len(data))):
            data += more
        self._place += len(data)
        return data

    def seek(self, place: int) -> None:
        if place < self._place:
            raise ValueError("a header leads backwards")
        if self._seeks:
            self._file.seek(place)
            self._place = place
            return
        if place > MAX_PLACE:
            raise ValueError(f"more than {MAX_PLACE} bytes, uncompressed")
        while self._place < place and self.read(min(CHUNK, place - self._place)):
            pass
