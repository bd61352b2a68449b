"""A directory as a place for releases: `<version>/` for each, and `latest`, a link to the newest of them."""

import hashlib
import os
from pathlib import Path
from typing import Final

import semver

from guestforge.core.errors import UserError
from guestforge.core.files import disk_errors, sync_directory, sync_tree
from guestforge.core.progress import Bar, bar
from guestforge.core.scratch import scratch_directory
from guestforge.publish.place import Release, opened, refused
from guestforge.release.documents import MAX_FILE
from guestforge.release.names import NAME, SUMS
from guestforge.release.sums import digests_of
from guestforge.release.verify import MAX_FILES

LATEST: Final = "latest"
CHUNK: Final = 256 * 1024


class Directory:
    """Releases side by side in a directory, or a release in its own."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def publish(self, release: Release) -> bool:
        """Copy a release under its version, then have `latest` lead to it unless a newer one is there."""
        place = self._path / release.version
        with disk_errors(self._path, "publish to"):
            self._path.mkdir(parents=True, exist_ok=True)
            new = not self._has(place, release)
            if new:
                self._copy(release, place)
            self._lead(release.version)
        return new

    def _has(self, place: Path, release: Release) -> bool:
        """Whether a release is there; raises UserError where something else is."""
        if not os.path.lexists(place):
            return False
        there = place.is_dir() and not place.is_symlink() and digests_of(place)
        if there != release.digests:
            raise refused(str(self._path), release.version)
        return True

    def _copy(self, release: Release, place: Path) -> None:
        size = sum(facts.size for facts in release.files.values())
        with scratch_directory(f".{release.version}.", self._path) as holder:
            made = holder / "release"
            made.mkdir(0o755)
            with bar(f"publishing {release.version}", size, "B") as shown:
                for name, facts in release.files.items():
                    if _copied(release.path(name), made / name, shown) != facts.sha256:
                        raise UserError(f"{release.path(name)} was changed while it was published")
            sync_tree(made)
            made.rename(place)
        sync_directory(self._path)

    def _lead(self, version: str) -> None:
        """Have `latest` be a link to a version, unless it is one to the same or a newer one."""
        link = self._path / LATEST
        if os.path.lexists(link):
            if not link.is_symlink():
                raise UserError(f"{link} is no link: it is not ours", hint="move it away, and publish again")
            if link.exists() and not _newer(version, os.readlink(link)):  # noqa: PTH115 - not a path to follow
                return
        # a private directory: a link can't be marked as what a killed run left
        with scratch_directory(f".{LATEST}.", self._path) as holder:
            made = holder / LATEST
            made.symlink_to(version)
            made.replace(link)
        sync_directory(self._path)

    def fetch(self, into: Path) -> None:
        """Copy the release that is here, or else the one to which `latest` leads."""
        source = self._path if (self._path / SUMS).exists() else self._path / LATEST
        try:
            names = sorted(path.name for path in source.iterdir())
        except OSError as e:
            hint = f"name the directory of a release, or one with a link {LATEST} to such"
            raise UserError(f"{source}: {e.strerror}", hint=hint) from e
        if len(names) > MAX_FILES:
            raise UserError(f"{source} has more than {MAX_FILES} files in it: it is no release")
        for name in names:
            if not NAME.fullmatch(name):
                raise UserError(f"{source} has {name!a} in it, which is no name of a release's file")
            with bar(f"fetching {name}", None, "B") as shown:
                try:
                    _copied(source / name, into / name, shown)
                except PermissionError as e:
                    raise UserError(f"{source / name}: {e.strerror}") from e


def _newer(version: str, than: str) -> bool:
    """Whether a version comes before another as the latest: one for all before one that is tried, else by SemVer."""
    if not semver.Version.is_valid(than):
        return True
    one, other = semver.Version.parse(version), semver.Version.parse(than)
    return (not one.prerelease, one) > (not other.prerelease, other)


def _copied(source: Path, target: Path, shown: Bar) -> str:
    """Copy a file to a new one and return the SHA-256 of what was copied."""
    state, size = hashlib.sha256(), 0
    with opened(source) as file, target.open("xb") as out:
        while data := file.read(CHUNK):
            out.write(data)
            state.update(data)
            size += len(data)
            shown.update(len(data))
            if size > MAX_FILE:
                raise UserError(f"{source} has more than {MAX_FILE} bytes")
    return state.hexdigest()
