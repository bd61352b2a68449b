"""The cache directory: where it is, whether it is ours alone, and what in it was made by us.

What is in it becomes part of a build, so it must be nobody else's to change. What is not ours in it is never removed:
CACHEDIR.TAG (https://bford.info/cachedir/) is written before anything else is, and names what was there before us.
"""

import errno
import os
import pwd
import re
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from guestforge.core.errors import UserError
from guestforge.core.files import atomic_file, remove
from guestforge.core.scratch import left_behind

VARIABLE: Final = "GUESTFORGE_CACHE"
VENVS: Final = "venvs"  # virtual environments of builder images, by their tags
TAG: Final = "CACHEDIR.TAG"
TAG_TEXT: Final = (
    "Signature: 8a477f597d28d172789f06886806bc55\n"
    "# A cache of guestforge. `./invoke clean --store` removes what guestforge has made here.\n"
)
_KEPT: Final = re.compile(r"^# not guestforge's: (.+)$", re.MULTILINE)
DIRECTORIES: Final = frozenset({"go", "kvm-answers", "locks", "logs", "resolved", "store", "tmp", "venvs", "work"})
FILES: Final = frozenset({"install.lock", "tools.json"})
OURS: Final = DIRECTORIES | FILES | {TAG}
SCRATCH: Final = "bench-"  # the prefix of scratch directories in it

# A kernel's Makefiles hand paths to make and to a shell without quotes, and refuse blanks and colons by themselves.
_UNFIT: Final = re.compile(r"[^\w/.,+@=~^-]")
OTHERS_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH
MAX_LINKS: Final = 40  # the kernel's own limit, path_resolution(7)


@dataclass(frozen=True, slots=True)
class Place:
    """A cache directory, and the variable that chose it, where one did."""

    path: Path
    variable: str | None = None

    def error(self, what: str, hint: str | None = None) -> UserError:
        """Return the error that says what is wrong with it."""
        chosen = f" (chosen by {self.variable})" if self.variable else ""
        return UserError(f"the cache {str(self.path)!r}{chosen} {what}", hint=hint or f"set {VARIABLE} to another one")


def user_cache() -> Place:
    """Return the user's: $GUESTFORGE_CACHE, else guestforge below $XDG_CACHE_HOME, else below ~/.cache."""
    if own := os.environ.get(VARIABLE):
        return Place(Path(own).absolute(), VARIABLE)
    base = os.environ.get("XDG_CACHE_HOME", "")
    if Path(base).is_absolute():  # others are to be ignored, as its specification says
        return Place(Path(base) / "guestforge", "XDG_CACHE_HOME")
    try:
        return Place(Path.home().absolute() / ".cache" / "guestforge", "HOME")
    except RuntimeError as e:
        raise UserError(f"{e}, in which the cache would be", hint=f"set {VARIABLE}") from e


def inspect(place: Place) -> Path:
    """Return a cache's path without links; it need not be there yet.

    Raises UserError for one that is not ours alone, or whose path a tool can't take.
    """
    path = _resolved(place)
    for text in (str(place.path), str(path)):
        if found := _UNFIT.search(text):
            raise place.error(f"has {found[0]!r} in its path, which the build of a kernel can't take")
    try:
        _require_ours_alone(place, path)
    except FileNotFoundError:
        return path
    except OSError as e:
        raise place.error(f"can't be used: {e.strerror}") from e
    return path


def open_cache(place: Place) -> Path:
    """Return a cache's path without links, made and private, and tried. Raises UserError as `inspect` does."""
    path = inspect(place)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):
            path.mkdir(mode=0o700)
        names = _names(path)
        if TAG in names:
            if not os.access(path, os.W_OK | os.X_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        else:
            _write_tag(path, theirs=_before_us(names))
        if not names - OURS and path.stat().st_mode & 0o077:
            path.chmod(0o700)
    except OSError as e:
        raise place.error(f"can't be used: {e.strerror}") from e
    return path


def clean(place: Place) -> tuple[Path, ...]:
    """Remove all that is ours in a cache, and the directory if that was all; return what was kept.

    Raises UserError as `inspect` does.
    """
    path = inspect(place)
    names = _names(path) if path.is_dir() else set()
    theirs = _theirs(path) if TAG in names else _before_us(names)
    ours = [*(path / name for name in sorted((names & OURS) - theirs - {TAG})), *left_behind(path, SCRATCH)]
    if not ours and TAG not in names:
        return tuple(sorted(path / name for name in names))
    for each in ours:
        remove(each)
    if TAG not in theirs:
        (path / TAG).unlink(missing_ok=True)
    kept = tuple(sorted(path / name for name in _names(path)))
    if not kept and not place.path.is_symlink():
        path.rmdir()
    return kept


def private_directory(path: Path) -> Path:
    """Make a directory of a cache that is nobody else's to read, where there is none."""
    with suppress(FileExistsError):
        path.mkdir(mode=0o700)
    return path


def _names(path: Path) -> set[str]:
    return {each.name for each in path.iterdir()}


def _before_us(names: set[str]) -> set[str]:
    """Return which of our names in a directory without a tag are not ours: all, unless it is a cache older than tags.

    A name alone says little, for people have a `work` and a `tmp` too.
    """
    older = not names - OURS and (names & FILES or {"store", "locks"} <= names)
    return set() if older else names & OURS


def _theirs(path: Path) -> set[str]:
    """Return what a tag says was there before us; all of our names if it is a tag of somebody else's."""
    text = (path / TAG).read_text(errors="replace")
    return set(_KEPT.findall(text)) if text.startswith(TAG_TEXT) else set(OURS)


def _write_tag(path: Path, theirs: set[str]) -> None:
    """Write the tag whole or not at all."""
    with atomic_file(path / TAG, "w") as file:
        file.write(TAG_TEXT + "".join(f"# not guestforge's: {name}\n" for name in sorted(theirs)))


def _resolved(place: Place) -> Path:
    """Return a path with its links followed. Raises UserError for a link that is neither ours nor root's."""
    rest, at = list(reversed(place.path.parts[1:])), Path("/")
    links = 0
    while rest:
        name = rest.pop()
        if name == "..":
            at = at.parent
            continue
        status = _status(at / name)
        if status is None or not stat.S_ISLNK(status.st_mode):
            at = at / name
            continue
        links += 1
        if links > MAX_LINKS:
            raise place.error(f"can't be used: {os.strerror(errno.ELOOP)}")
        if status.st_uid not in (0, os.geteuid()):
            raise place.error(f"is reached through the link {at / name} of {_user(status.st_uid)}")
        target = (at / name).readlink()
        at = Path("/") if target.is_absolute() else at
        rest += [part for part in reversed(target.parts) if part != "/"]
    return at


def _status(path: Path) -> os.stat_result | None:
    try:
        return path.lstat()
    except OSError:  # what can't be looked at can't be opened either, which says why
        return None


def _require_ours_alone(place: Place, path: Path) -> None:
    """Raise UserError unless a cache and what has our names in it is ours, and nobody else may write to it.

    Raises OSError where it can't be looked at, or something is no directory that should be one.
    """
    _require_owned(place, path)
    for name in sorted(_names(path) & OURS):
        _require_owned(place, path / name)
        if name in DIRECTORIES:
            _names(path / name)


def _require_owned(place: Place, path: Path) -> None:
    for status in _link_and_target(path):
        if status.st_uid != os.geteuid():
            raise place.error(f"can't be trusted: {path} is {_user(status.st_uid)}'s, not {_user(os.geteuid())}'s")
        if not stat.S_ISLNK(status.st_mode) and status.st_mode & OTHERS_WRITE:
            raise place.error(
                f"can't be trusted: others may write to {path}",
                hint=f"if nobody did: chmod -R go-w {path}; else remove it, or set {VARIABLE} to another one",
            )


def _link_and_target(path: Path) -> Iterator[os.stat_result]:
    status = path.lstat()
    yield status
    if stat.S_ISLNK(status.st_mode):
        with suppress(FileNotFoundError):
            yield path.stat()


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"
