"""A release's directory: made beside its place, and there whole or not at all."""

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, Protocol

from guestforge.core.errors import UserError
from guestforge.core.files import disk_errors, sync_directory, sync_tree
from guestforge.core.progress import bar, human, say
from guestforge.core.scratch import scratch_directory
from guestforge.core.store import FileFacts
from guestforge.release.archive import Stored, write_archive
from guestforge.release.components import bill_of
from guestforge.release.documents import read_manifest
from guestforge.release.dsse import envelope
from guestforge.release.names import ENVELOPE, MINISIG, NOTES, SIGNATURE, STATEMENT, SUFFIX, SUMS, stem
from guestforge.release.proven import Proven
from guestforge.release.provenance import Checkout, statement
from guestforge.release.sbom import sboms
from guestforge.release.sums import digests_of, sums_text
from guestforge.release.tar import MAX_EPOCH

EPOCH: Final = "SOURCE_DATE_EPOCH"  # https://reproducible-builds.org/specs/source-date-epoch/
CHOICE: Final = "give --output"

Notes = Callable[[Sequence[int]], bytes]  # from the sizes of the archives, in bytes and in their order, to the notes


class Signer(Protocol):
    """Whoever signs a release."""

    def minisign(self, data: bytes, name: str) -> bytes:
        """Return the file that signs what the file `name` holds."""

    def plainly(self, data: bytes) -> tuple[str, bytes]:
        """Return how the key is called, and the signature of some bytes themselves."""


def source_date_epoch() -> int:
    """Return the time that all files of archives have, in seconds since 1970: the environment's, else 0."""
    given = os.environ.get(EPOCH) or "0"
    if not given.isascii() or not given.isdecimal() or len(given) > 12 or int(given) > MAX_EPOCH:
        raise UserError(f"{EPOCH}={given}: not a number of seconds from 0 to {MAX_EPOCH}")
    return int(given)


def make_bundle(
    proven: Sequence[Proven],
    place: Path,
    epoch: int,
    signer: Signer | None,
    checkouts: tuple[Checkout, ...],
    *,
    notes: Notes | None = None,
) -> bool:
    """Make the directory `place` of a release; return False where it is there already, with the same content.

    Raises UserError where something else is there, BuildError for a full disk. Nothing of it is to be seen then.
    """
    with disk_errors(place.parent, CHOICE), _beside(place) as made:
        files, manifests, sizes = {}, {}, []
        for guest in proven:
            name = stem(guest.guest, guest.version, guest.arch)
            packed = _pack(guest, name, made, epoch)
            sizes.append(packed.size)
            manifests[name + SUFFIX] = manifest = read_manifest(guest.manifest)
            files[name + SUFFIX] = packed.sha256
            files |= _written(made, sboms(bill_of(manifest, packed.sha256), epoch))
        files |= _written(made, _provenance(statement(manifests, files, checkouts), signer))
        files |= _written(made, {NOTES: notes(sizes)} if notes else {})
        sums = sums_text(files)
        _written(made, {SUMS: sums, **({SIGNATURE: signer.minisign(sums, SUMS)} if signer else {})})
        sync_tree(made)
        return _move(made, place)


def _provenance(said: bytes, signer: Signer | None) -> dict[str, bytes]:
    """Return the files that hold a statement, by their names: signed as in-toto has it, and as minisign has it."""
    if signer is None:
        return {STATEMENT: said}
    signed = envelope(said, signer.plainly)
    return {ENVELOPE: signed, ENVELOPE + MINISIG: signer.minisign(signed, ENVELOPE)}


def _written(made: Path, texts: Mapping[str, bytes]) -> dict[str, str]:
    """Write files by their names and return their SHA-256."""
    for name, text in texts.items():
        (made / name).write_bytes(text)
    return {name: hashlib.sha256(text).hexdigest() for name, text in texts.items()}


@contextlib.contextmanager
def _beside(place: Path) -> Iterator[Path]:
    """Yield a new directory on the file system of `place`, removed unless it was renamed away."""
    place.parent.mkdir(parents=True, exist_ok=True)
    with scratch_directory(f".{place.name}.", place.parent) as holder:
        made = holder / "release"
        made.mkdir(0o755)
        yield made


def _pack(guest: Proven, name: str, made: Path, epoch: int) -> FileFacts:
    """Write a guest's archive and return its facts."""
    size = sum(source.facts.size for source in guest.files.values() if isinstance(source, Stored))
    path = made / (name + SUFFIX)
    with path.open("xb") as out, bar(f"packing {path.name}", size, "B") as shown:
        facts = write_archive(out, name, guest.files, epoch, shown)
    say(f"{path.name}: {human(facts.size)}")
    return facts


def _move(made: Path, place: Path) -> bool:
    if place.is_dir() and not place.is_symlink() and any(place.iterdir()):
        if digests_of(place) != digests_of(made):
            raise UserError(
                f"{place} is there with other content: a version is made once",
                hint="give another --version, or another --output",
            )
        return False
    made.rename(place)  # an empty directory gives way, anything else does not
    sync_directory(place.parent)
    return True
