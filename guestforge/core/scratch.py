"""Directories for what a run needs only while it lasts, gone afterwards even if it was killed.

Each is locked as long as its maker lives. The next one to be made beside it removes those whose lock is free: a run
that was killed could not. A directory counts as one of these by the file that its maker put into it, whatever its name
is: users give such names too. What was killed in the moment before that file was there leaves an empty directory, which
is removed too where it lies in a private one: nobody else makes directories there.
"""

import contextlib
import os
import re
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from guestforge.core.files import open_regular, remove
from guestforge.core.locks import lock, opened_directory, try_lock
from guestforge.core.signals import held

MARK: Final = ".guestforge-scratch"
MARK_TEXT: Final = b"A scratch directory of guestforge, which removes it once nobody holds its lock.\n"
RANDOM: Final = "[a-z0-9_]{8}"  # what mkdtemp puts after a prefix


@contextlib.contextmanager
def scratch_directory(prefix: str, base: Path | None = None, *, sweeps: str | None = None) -> Iterator[Path]:
    """Yield a new private directory below `base` ($TMPDIR by default), and remove it afterwards.

    Those that were left behind beside it are removed, of the same prefix or of one that the regular expression `sweeps`
    matches.
    """
    base = base or Path(tempfile.gettempdir())
    sweep(base, sweeps or re.escape(prefix))
    directory = None
    with contextlib.ExitStack() as holding:
        try:
            try:
                with held():
                    while directory is None:
                        directory = _made(prefix, base, holding)
                yield directory
            finally:
                if directory:
                    discard(directory)
        except KeyboardInterrupt:
            if directory:
                discard(directory)  # it may have come while that was done; none follows
            raise


def _made(prefix: str, base: Path, holding: contextlib.ExitStack) -> Path | None:
    """Make a directory, lock and mark it; return None where somebody swept it before it was marked, as an empty one."""
    directory = Path(tempfile.mkdtemp(prefix=prefix, dir=base))
    try:
        lock(holding.enter_context(opened_directory(directory)))
        mark(directory)
    except FileNotFoundError:
        return None
    except BaseException:
        discard(directory)
        raise
    return directory


def mark(directory: Path) -> None:
    """Say of a new directory that it is one of ours, to be removed once nobody holds its lock."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    with os.fdopen(os.open(directory / MARK, flags, 0o600), "wb") as file:
        file.write(MARK_TEXT)


def left_behind(base: Path, prefix: str) -> Iterator[Path]:
    """Yield the directories below `base` that were marked by us under a prefix, a regular expression."""
    yield from (path for path in _named(base, prefix) if _is_marked(path))


def _named(base: Path, prefix: str) -> list[Path]:
    name = re.compile(f"{prefix}{RANDOM}")
    with contextlib.suppress(OSError), os.scandir(base) as found:
        return [Path(entry.path) for entry in found if name.fullmatch(entry.name)]
    return []


def discard(directory: Path) -> None:
    """Remove a marked directory, the mark last; whatever can't be removed is left to the next sweep."""
    with contextlib.suppress(OSError):
        left = [path for path in directory.iterdir() if path.name != MARK and not _removed(path)]
        if not left:
            (directory / MARK).unlink(missing_ok=True)
            directory.rmdir()


def _removed(path: Path) -> bool:
    try:
        remove(path)
    except OSError:
        return False
    return True


def _is_marked(directory: Path) -> bool:
    """Whether a directory is our user's, no link, and has a mark that is our user's."""
    with contextlib.suppress(OSError):
        status = directory.lstat()
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
            return False
        if file := open_regular(directory / MARK):
            with file:
                ours = os.fstat(file.fileno()).st_uid == os.geteuid()
                # a part of it: its maker was killed, or the disk was full, before it was whole
                return ours and MARK_TEXT.startswith(file.read(len(MARK_TEXT) + 1))
    return False


def sweep(base: Path, prefix: str) -> None:
    """Remove our own directories below `base` that nobody holds, of a prefix, a regular expression. No link counts."""
    for path in _named(base, prefix):
        with contextlib.suppress(OSError), opened_directory(path) as descriptor:
            if not try_lock(descriptor):
                continue
            if _is_marked(path):
                discard(path)
            elif _is_private(base):
                path.rmdir()  # which it refuses but for an empty one


def _is_private(directory: Path) -> bool:
    status = directory.stat()
    return status.st_uid == os.geteuid() and not status.st_mode & 0o077
