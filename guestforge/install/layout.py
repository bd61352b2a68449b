"""A guest put below a prefix, and taken away again: whatever ends it, what is there is the old one or the new one.

A guest's files have a directory of their own, which is there whole or not at all, and stays when another guest is
installed: a sandbox that starts in that moment finds what it was told of. What leads to it changes last, and in one
moment: a link that all names of files go through, or the drop-in of a runtime, which names the directory itself.
"""

import contextlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from guestforge.core.errors import UserError
from guestforge.core.files import atomic_copy, disk_errors, read_regular, sync_directory, try_directory
from guestforge.core.locks import lock, opened_directory
from guestforge.core.scratch import scratch_directory, sweep
from guestforge.install.guests import File, Guest
from guestforge.install.kata import drop_in, is_ours, options_for
from guestforge.install.places import CURRENT, LINKS, MARK, RUNTIMES, Place, Runtime
from guestforge.kernel.dotconfig import read_dotconfig
from guestforge.kernel.step import CONFIG_COPY
from guestforge.project.options import Artifact
from guestforge.publish.layout import settle

CHOICE: Final = "give --prefix"
AGAIN: Final = "fetch that release again; or, in the store, remove the directory of that file and build again"
SCRATCH: Final = ".guestforge."
MAX_DROP_IN: Final = 1024 * 1024  # bytes that are read of a file in the place of ours
DIRECTORY_MODE: Final = 0o755
FILE_MODE: Final = 0o644


@dataclass(frozen=True, slots=True)
class Installed:
    """What an installation has come to: the guest's directory, and all that was not there as it is now."""

    directory: Path
    changed: tuple[Path, ...]


def install(guest: Guest, place: Place, booted: Artifact | None) -> Installed:
    """Put a guest below a prefix, and have Kata find it: by the names of its files, or with `booted` by drop-ins.

    Raises UserError where something is in the way that we did not put there, before anything changes.
    """
    with disk_errors(place.root, CHOICE):
        try_directory(place.folder.parent, "--prefix")
        _make_directory(place.folder.parent)
        with _held(place):
            _require_free(place, guest, by_drop_in=booted is not None)
            return Installed(place.folder / guest.id, tuple(_changes(guest, place, booted)))


def uninstall(place: Place) -> tuple[Path, ...]:
    """Take away all guests below a prefix, and what leads to them; return what has gone.

    Raises UserError where a drop-in was edited, which would lead to nothing.
    """
    if not place.folder.parent.is_dir():
        return ()
    with disk_errors(place.root, CHOICE), _held(place):
        _refuse([*_foreign_folder(place), *_foreign_drop_ins(place)])
        return tuple(_removals(place))


@contextlib.contextmanager
def _held(place: Place) -> Iterator[None]:
    """Be the only one who installs there, with what those left who were killed taken away."""
    with opened_directory(place.folder.parent) as held:
        lock(held)
        for base in (place.folder.parent, place.folder, *(place.root / runtime.folder for runtime in RUNTIMES)):
            sweep(base, re.escape(SCRATCH))
        yield


# what is in the way


def _require_free(place: Place, guest: Guest, *, by_drop_in: bool) -> None:
    foreign = [*_foreign_folder(place), *(_foreign_drop_ins(place) if by_drop_in else _foreign_links(place))]
    _refuse(foreign)
    if place.folder.is_dir() and (there := (place.folder / MARK).read_text().strip()) != guest.arch.name:
        raise UserError(
            f"{place.root} has guests for {there}, and Kata's names are those of one architecture",
            hint=f"take those away (./invoke install --prefix {place.prefix} --remove), or give another --prefix",
        )


def _refuse(foreign: list[str]) -> None:
    if foreign:
        raise UserError("other people's files are in the way, and nothing was changed", excerpt="\n".join(foreign))


def _foreign_folder(place: Place) -> Iterator[str]:
    folder = place.folder
    if os.path.lexists(folder) and (folder.is_symlink() or not _is_plain(folder / MARK)):
        yield f"{folder}: there is no {MARK!r} in it, so that it is none of ours; move it away, or {CHOICE} another one"
    elif os.path.lexists(folder / CURRENT) and not (folder / CURRENT).is_symlink():
        yield f"{folder / CURRENT}: this is no link; move it away"


def _foreign_links(place: Place) -> Iterator[str]:
    for path, target in _links(place).items():
        if os.path.lexists(path) and not _is_link(path, target):
            yield f"{path}: move it away, or let it be and have --kata write drop-ins, which need none of these names"


def _foreign_drop_ins(place: Place) -> Iterator[str]:
    for runtime in RUNTIMES:
        path = place.root / runtime.drop_in
        if os.path.lexists(path) and not is_ours(_read(path)):
            yield f"{path}: somebody has edited it; have those options in another file there, and remove this one"


def _is_plain(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


def _links(place: Place) -> dict[Path, Path]:
    """Return the names that Kata looks for, and where they lead."""
    return {place.folder.parent / name: Path(place.folder.name, CURRENT, file) for name, file in LINKS.items()}


def _is_link(path: Path, target: Path) -> bool:
    return path.is_symlink() and path.readlink() == target


def _read(path: Path) -> bytes:
    """Return what a file has; nothing for what is no file."""
    return (read_regular(path, MAX_DROP_IN) if os.path.lexists(path) else None) or b""


# what is put there


def _changes(guest: Guest, place: Place, booted: Artifact | None) -> Iterator[Path]:
    """Put everything there in its order, and yield what was not there."""
    if not place.folder.is_dir():
        _make_folder(place, guest)
    directory = place.folder / guest.id
    if not _is_whole(directory, guest):
        _fill(directory, guest)
        yield directory
    if booted is None:
        yield from _lead_by_links(place, guest)
    else:
        config = read_dotconfig(directory / CONFIG_COPY)
        for runtime in RUNTIMES:
            options = options_for(runtime, guest, place.named(guest.id), booted, config)
            yield from _lead_by_drop_in(place, runtime, drop_in(options, guest))


def _make_folder(place: Place, guest: Guest) -> None:
    """Make our folder, with the mark in it from its first moment on."""
    with scratch_directory(SCRATCH, place.folder.parent) as scratch:
        made = scratch / place.folder.name
        _make_directory(made)
        _write(made / MARK, f"{guest.arch.name}\n".encode())
        made.rename(place.folder)
    sync_directory(place.folder.parent)


def _is_whole(directory: Path, guest: Guest) -> bool:
    return all(file.facts.are_of(directory / name) for name, file in guest.files.items())


def _fill(directory: Path, guest: Guest) -> None:
    """Have a directory with a guest's files, each found to be what it should; one that was damaged is exchanged."""
    with scratch_directory(SCRATCH, directory.parent) as scratch:
        made = scratch / directory.name
        for name, file in guest.files.items():
            _make_directory((made / name).parent)
            _copy(file, made / name)
        settle(made, directory)


def _copy(file: File, target: Path) -> None:
    if isinstance(file.source, bytes):
        _write(target, file.source)
    elif _is_plain(file.source):
        atomic_copy(file.source, target)
    if not file.facts.are_of(target):
        raise UserError(f"{file.source!s} is not what it was when it was made", hint=AGAIN)


def _lead_by_links(place: Place, guest: Guest) -> Iterator[Path]:
    """Have Kata's names lead to a guest. The link that all go through is made last: without it they lead nowhere."""
    for path, target in _links(place).items():
        if not os.path.lexists(path):
            path.symlink_to(target)  # and not over what somebody has put there meanwhile
            yield path
    sync_directory(place.folder.parent)
    current = place.folder / CURRENT
    if not _is_link(current, Path(guest.id)):
        with scratch_directory(SCRATCH, place.folder) as scratch:
            (scratch / CURRENT).symlink_to(guest.id)
            (scratch / CURRENT).replace(current)
        sync_directory(place.folder)
        yield current


def _lead_by_drop_in(place: Place, runtime: Runtime, text: bytes) -> Iterator[Path]:
    """Have a runtime led to a guest. Nothing is written among the drop-ins: the runtime would read it."""
    path = place.root / runtime.drop_in
    if _read(path) == text:
        return
    _make_directory(path.parent)
    with scratch_directory(SCRATCH, path.parent.parent) as scratch:
        made = scratch / path.name
        _write(made, text)
        if os.path.lexists(path):
            made.replace(path)
        else:
            path.hardlink_to(made)  # and not over what somebody has put there meanwhile
    sync_directory(path.parent)
    yield path


def _write(path: Path, data: bytes) -> None:
    """Write a new file where nobody reads it yet."""
    with path.open("xb") as file:
        os.fchmod(file.fileno(), FILE_MODE)
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _make_directory(path: Path) -> None:
    """Make a directory and those above it that are not there, for all to read whatever our umask is."""
    if path.is_dir():
        return
    _make_directory(path.parent)
    try:
        path.mkdir()
    except FileExistsError:
        if not path.is_dir():  # somebody else's program made it first
            raise
    else:
        path.chmod(DIRECTORY_MODE)


# what is taken away


def _removals(place: Place) -> Iterator[Path]:
    """Take away what leads to guests, and then the guests; yield what has gone."""
    for runtime in RUNTIMES:
        path = place.root / runtime.drop_in
        if os.path.lexists(path):
            path.unlink()
            sync_directory(path.parent)
            yield path
    for path, target in _links(place).items():
        if _is_link(path, target):
            path.unlink()
            yield path
    if place.folder.is_dir():
        with scratch_directory(SCRATCH, place.folder.parent) as scratch:
            place.folder.rename(scratch / place.folder.name)  # gone in one moment, whatever ends us
        yield place.folder
    sync_directory(place.folder.parent)
