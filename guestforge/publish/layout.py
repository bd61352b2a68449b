"""A release's archives laid out as an output directory is: a folder for each guest, there whole or as it was before."""

import ctypes
import errno
import os
from pathlib import Path
from typing import IO, Final

from guestforge.core.errors import UserError
from guestforge.core.files import open_regular, sync_directory, sync_tree
from guestforge.core.progress import bar
from guestforge.manifest import MANIFEST
from guestforge.release.contents import read_archive

AT_FDCWD: Final = -100  # <fcntl.h>
RENAME_EXCHANGE: Final = 2  # renameat2(2), <linux/fs.h>
BLOCK: Final = 64 * 1024  # bytes; whole ones of zeros become holes
ZEROS: Final = bytes(BLOCK)
_renameat2 = ctypes.CDLL(None, use_errno=True).renameat2


def unpack(archive: Path, sha256: str, made: Path) -> None:
    """Write the files of an archive that was verified below a new directory.

    Raises UserError where it is not any more what was verified.
    """
    file = open_regular(archive)
    if file is None:
        raise UserError(f"{archive} is no file any more")
    made.mkdir()
    with _Files(made) as files, file, bar(f"unpacking {archive.name}", archive.stat().st_size, "B") as shown:
        found = read_archive(file, archive.name, shown, files.take)
    if found.fault or found.facts.sha256 != sha256:
        raise UserError(f"{archive} was changed while it was unpacked")


class _Files:
    """Members as they come, the one after the other: the names are those of a manifest that was read before."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._name = ""
        self._file: IO[bytes] | None = None

    def __enter__(self) -> "_Files":
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def take(self, name: str, data: bytes) -> None:
        """Write what comes next of a member."""
        if name != self._name or self._file is None:
            self._end()
            path = self._root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file, self._name = path.open("xb"), name
        for start in range(0, len(data), BLOCK):
            piece = data[start : start + BLOCK]
            if piece == ZEROS:
                self._file.seek(BLOCK, os.SEEK_CUR)
            else:
                self._file.write(piece)

    def _end(self) -> None:
        if self._file:
            with self._file as file:
                file.truncate(file.tell())  # it may end with a hole


def require_ours(place: Path) -> None:
    """Raise UserError for a directory that holds something, and is none of an output directory."""
    if not os.path.lexists(place):
        return
    if place.is_symlink() or not place.is_dir():
        raise UserError(f"{place} is in the way", hint="move it away, or give another --output")
    if not (place / MANIFEST).is_file() and any(place.iterdir()):
        hint = "move it away, or give another --output"
        raise UserError(f"{place} has something in it, and no {MANIFEST}: it is none of ours", hint=hint)


def settle(made: Path, place: Path) -> None:
    """Have a new directory take the place of another, which is left where the new one was."""
    sync_tree(made)
    place.parent.mkdir(parents=True, exist_ok=True)
    require_ours(place)
    if place.is_dir():
        _exchange(made, place)
    else:
        made.rename(place)
    sync_directory(place.parent)


def _exchange(one: Path, other: Path) -> None:
    """Exchange two directories in one moment; where the file system can't, there is a moment without the one."""
    if _renameat2(AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), RENAME_EXCHANGE) == 0:
        return
    code = ctypes.get_errno()
    if code not in (errno.EINVAL, errno.ENOSYS):
        raise OSError(code, os.strerror(code), str(other))
    aside = one.with_name(f"{one.name}.before")
    other.rename(aside)
    one.rename(other)
