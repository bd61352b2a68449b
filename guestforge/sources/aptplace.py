"""The directory in which apt works, and the user as whom its downloads run.

As root apt hands the network to a user of its own, `_apt`: its methods, which parse what a mirror or a proxy sends,
then have no right of root's. That user must get to the directory, and a cache below root's home is closed. So as root
apt works in a scratch directory elsewhere, and the lists that it fetched are kept in the cache.
"""

import contextlib
import os
import pwd
import shutil
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from guestforge.core.files import atomic_copy, remove
from guestforge.core.progress import say
from guestforge.core.runtime import Runtime
from guestforge.core.scratch import scratch_directory

USER: Final = "APT::Sandbox::User"  # apt.conf(5); `_apt`, unless the host's configuration says otherwise
LISTS: Final = "lists"
PREFIX: Final = "guestforge-apt-"


@dataclass(frozen=True, slots=True)
class Place:
    """A directory for an apt root; `user` is who downloads, None where that is whoever we are."""

    directory: Path
    user: int | None = None


@contextlib.contextmanager
def apt_place(kept: Path, runtime: Runtime) -> Iterator[Place]:
    """Yield where apt shall work: `kept` itself, or as root a place with the lists of `kept`, which gets them back."""
    user = _downloader(runtime)
    base = next(filter(_lets_all_in, _bases()), None)
    if user is None or base is None:
        if os.geteuid() == 0:
            why = "its user is root, or not there" if user is None else "its user gets to no directory we may write to"
            say(f"warning: apt downloads as root: {why} ({USER})")
        yield Place(kept)
        return
    with scratch_directory(PREFIX, base) as scratch:
        scratch.chmod(0o711)
        directory = scratch / "root"
        (directory / LISTS).mkdir(parents=True)
        for path in (directory, directory / LISTS):
            path.chmod(0o755)  # whatever our umask is
        _copy(kept / LISTS, directory / LISTS)
        try:
            yield Place(directory, user)
        finally:
            _keep(directory / LISTS, kept)


def _downloader(runtime: Runtime) -> int | None:
    """Return the user whose rights apt's downloads will have, None where that is whoever we are."""
    if os.geteuid() != 0:
        return None
    name = runtime.run(["apt-config", "dump", "--format", "%v", USER], check=False).output.strip()
    try:
        return pwd.getpwnam(name).pw_uid or None
    except KeyError:
        return None


def _bases() -> Iterator[Path]:
    """Yield where a scratch directory may be made."""
    for name in (tempfile.gettempdir(), "/var/tmp", "/tmp"):  # noqa: S108 - what is made there is ours
        if os.access(name, os.W_OK | os.X_OK):
            yield Path(name).resolve()


def _lets_all_in(directory: Path) -> bool:
    """Whether every user can get to a directory."""
    return all(path.stat().st_mode & stat.S_IXOTH for path in (directory, *directory.parents))


def _keep(lists: Path, kept: Path) -> None:
    """Put lists in the place of those that are kept, unless they are the same."""
    if _facts(lists) == _facts(kept / LISTS):
        return
    new = kept / f"{LISTS}.new"
    _remove(new)
    new.mkdir()
    _copy(lists, new)
    _remove(kept / LISTS)  # where we end before the next line, the lists are fetched again
    new.rename(kept / LISTS)


def _remove(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        remove(path)


def _copy(source: Path, target: Path) -> None:
    """Copy the files of a directory, with their dates: apt asks a mirror whether there is anything newer."""
    for name in _facts(source):
        atomic_copy(source / name, target / name)
        shutil.copystat(source / name, target / name)


def _facts(directory: Path) -> dict[str, tuple[int, int]]:
    """Return the files at the top of a directory that are ours, with their size and date, but for apt's lock."""
    found = {}
    with contextlib.suppress(FileNotFoundError):
        for path in directory.iterdir():
            status = path.lstat()
            if stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid() and path.name != "lock":
                found[path.name] = (status.st_size, status.st_mtime_ns)
    return found
