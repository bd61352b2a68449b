"""What a place for releases is, and what is brought there."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

from guestforge.core.errors import UserError
from guestforge.core.files import digest_file, open_regular
from guestforge.core.store import FileFacts
from guestforge.release.documents import Manifest
from guestforge.release.names import SUMS
from guestforge.release.sums import read_sums
from guestforge.release.verify import Verified


@dataclass(frozen=True, slots=True)
class Release:
    """A verified release: its version, its files by name, and what its archives' manifests say."""

    directory: Path
    version: str
    files: Mapping[str, FileFacts]
    manifests: Mapping[str, Manifest]

    def path(self, name: str) -> Path:
        """Return where a file is."""
        return self.directory / name

    @property
    def digests(self) -> dict[str, str]:
        """The SHA-256 of each file by its name."""
        return {name: facts.sha256 for name, facts in self.files.items()}


class Place(Protocol):
    """Where releases are published, and fetched from."""

    def publish(self, release: Release) -> bool:
        """Have a release there, whole or not at all; return False where it was there already, with the same content.

        Raises UserError where its version is there with other content.
        """

    def fetch(self, into: Path) -> None:
        """Write the files of a release into an empty directory; whether they are to be trusted is not judged."""


def outgoing(directory: Path, verified: Verified) -> Release:
    """Return a release that has just been verified: all files of its directory, with the digests that were verified."""
    digests = read_sums((directory / SUMS).read_bytes())
    files = {
        path.name: FileFacts(digests.get(path.name) or digest_file(path), path.stat().st_size)
        for path in sorted(directory.iterdir())
    }
    version = next(iter(verified.manifests.values())).release.version
    return Release(directory, version, files, verified.manifests)


def opened(path: Path) -> IO[bytes]:
    """Open a file of a release; raises UserError for what is none, and for a link."""
    file = open_regular(path)
    if file is None:
        raise UserError(f"{path} is no file, or a link to one")
    return file


def refused(where: str, version: str) -> UserError:
    """Return the error for a version that is there with other content."""
    return UserError(
        f"{where} has {version} with other content: a version is published once",
        hint="make the release again under another --version",
    )
