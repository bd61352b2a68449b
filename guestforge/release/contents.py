"""Reads an archive as whoever trusts nobody: in one pass, bounded, and every byte of it accounted for.

Nothing is unpacked. What a manifest names is what must follow, in order and to the byte; the first thing that is
something else ends the reading, so that what is packed to be endless costs nothing.
"""

import hashlib
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import IO, Final, cast

import zstandard

from guestforge.check.report import REPORT
from guestforge.core.progress import Bar
from guestforge.core.store import FileFacts
from guestforge.manifest import MANIFEST
from guestforge.release import tar
from guestforge.release.documents import LIMIT, Manifest, Refused, read_manifest, require_passed
from guestforge.release.names import SUFFIX, members, stem

CHUNK: Final = 256 * 1024
MAX_WINDOW: Final = 32 * 1024 * 1024  # bytes that whoever uncompresses must keep; ours need 4 MiB


@dataclass(frozen=True, slots=True)
class Contents:
    """What was found: the digest and size of the archive as a file, and what its manifest says or why it is refused."""

    facts: FileFacts
    manifest: Manifest | None
    fault: str = ""


Take = Callable[[str, bytes], None]  # takes a member's name and its next bytes, in their order


def _leave(_name: str, _data: bytes) -> None:
    """Take nothing."""


def read_archive(file: IO[bytes], name: str, shown: Bar, take: Take = _leave) -> Contents:
    """Read an archive that has a name to its end.

    `take` is given what the members hold, before it is known whether all of the archive is as it should be.
    """
    source = _Digested(file, shown)
    manifest, fault = None, ""
    try:
        manifest = _read(source, name, take)
    except Refused as e:
        fault = str(e)
    except zstandard.ZstdError as e:
        fault = f"it is no zstd, or damaged: {e}"
    return Contents(source.finish(), manifest, fault)


class _Digested:
    """A file of which what is read is digested too."""

    def __init__(self, file: IO[bytes], shown: Bar) -> None:
        self._file = file
        self._shown = shown
        self._state = hashlib.sha256()
        self._size = 0

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size if size >= 0 else CHUNK)
        self._state.update(data)
        self._size += len(data)
        self._shown.update(len(data))
        return data

    def finish(self) -> FileFacts:
        """Return the facts of the whole file."""
        while self.read(CHUNK):
            pass
        return FileFacts(self._state.hexdigest(), self._size)


class _Plain:
    """What a compressed file holds, read forward in pieces of a known size."""

    def __init__(self, source: _Digested) -> None:
        decompressor = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW)
        self._stream = decompressor.stream_reader(cast("IO[bytes]", source), read_size=CHUNK, read_across_frames=True)
        self.place = 0

    def exactly(self, size: int) -> bytes:
        """Return the next bytes, `size` of them; raises Refused where the archive ends before."""
        data = b""
        while len(data) < size:
            more = self._stream.read(size - len(data))
            if not more:
                raise Refused("it is cut short")
            data += more
        self.place += size
        return data

    def digest(self, size: int, take: Callable[[bytes], None]) -> str:
        """Return the SHA-256 of the next bytes, and have them taken."""
        state = hashlib.sha256()
        while size:
            data = self.exactly(min(CHUNK, size))
            state.update(data)
            take(data)
            size -= len(data)
        return state.hexdigest()

    def require(self, wanted: bytes, fault: str) -> None:
        """Raise Refused unless the next bytes are these."""
        if self.exactly(len(wanted)) != wanted:
            raise Refused(fault)

    def require_end(self) -> None:
        """Raise Refused unless there is nothing more."""
        if self._stream.read(1):
            raise Refused("something follows its end")


def _read(source: _Digested, name: str, take: Take) -> Manifest:
    plain = _Plain(source)
    root = name.removesuffix(SUFFIX)
    data, epoch = _first(plain, f"{root}/{MANIFEST}")
    manifest = read_manifest(data)
    take(MANIFEST, data)
    if root != stem(manifest.guest, manifest.release.version, manifest.arch):
        raise Refused(f"{MANIFEST} is that of {stem(manifest.guest, manifest.release.version, manifest.arch)}")
    seen = {f"{root}/{MANIFEST}"}
    for member in members()[1:]:
        facts = manifest.files()[member]
        _require_header(plain, f"{root}/{member}", facts.size, epoch, seen)
        if member.endswith(f"/{REPORT}"):
            report = plain.exactly(facts.size)
            take(member, report)
            digest = hashlib.sha256(report).hexdigest()
        else:
            report, digest = None, plain.digest(facts.size, partial(take, member))
        if digest != facts.sha256:
            raise Refused(f"{member} does not have the SHA-256 that {MANIFEST} says")
        if report is not None:
            require_passed(report, member, manifest)
        plain.require(tar.padding(facts.size), f"what follows {member} up to the next block is not zero")
        seen.add(f"{root}/{member}")
    _require_nothing_more(plain, seen)
    return manifest


def _first(plain: _Plain, name: str) -> tuple[bytes, int]:
    """Return the content of the manifest and the time that all files have."""
    block = plain.exactly(tar.BLOCK)
    try:
        found = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError as e:
        raise Refused("it holds no tar") from e
    epoch = int(found.mtime)
    if not 0 <= found.size <= LIMIT or not 0 <= epoch <= tar.MAX_EPOCH or tar.header(name, found.size, epoch) != block:
        raise Refused(tar.fault(block, name, None, set()))
    data = plain.exactly(found.size)
    plain.require(tar.padding(found.size), f"what follows {MANIFEST} up to the next block is not zero")
    return data, epoch


def _require_header(plain: _Plain, name: str, size: int, epoch: int, seen: set[str]) -> None:
    wanted = tar.header(name, size, epoch)
    for at in range(0, len(wanted), tar.BLOCK):
        block = plain.exactly(tar.BLOCK)
        if block != wanted[at : at + tar.BLOCK]:
            raise Refused(tar.fault(block, name, size, seen))


def _require_nothing_more(plain: _Plain, seen: set[str]) -> None:
    """Raise Refused for a file that no manifest names, and for whatever else there is but the end."""
    ending = tar.ending(plain.place)
    block = plain.exactly(tar.BLOCK)
    if block.strip(b"\0"):
        raise Refused(tar.fault(block, "the end", None, seen))
    plain.require(ending[tar.BLOCK :], "something else than zeros is in its end")
    plain.require_end()


def is_archive(name: str) -> bool:
    """Whether a name is that of an archive."""
    return name.endswith(SUFFIX)
