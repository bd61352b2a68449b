"""Judges what stands beside the archives: their SBOMs, and the provenance of all. Release notes are for people."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from guestforge.release.components import bill_of
from guestforge.release.documents import Manifest, Refused
from guestforge.release.dsse import opened
from guestforge.release.names import ENVELOPE, MINISIG, NOTES, STATEMENT, SUFFIX, SUMS, archive_of, sboms_of
from guestforge.release.provenance import require_true
from guestforge.release.sbom import require_of

SIGNED: Final = frozenset((ENVELOPE, ENVELOPE + MINISIG))
OTHERS: Final = SIGNED | {STATEMENT}  # what a release has besides what is of one archive

Problem = tuple[str, str]  # a file, and what is wrong with it


class Judge(Protocol):
    """Whoever judges signatures: with a key, or by their form alone."""

    @property
    def has_key(self) -> bool:
        """Whether there is a key, so that there must be signatures."""

    def minisign(self, data: bytes, text: bytes, name: str) -> str:
        """Return how the key is called that signed the file `name`, "" where that is not known; raises Refused."""

    def plainly(self, data: bytes, name: str, signature: bytes) -> None:
        """Raise Refused unless the signature of some bytes themselves is the key's, where that is known."""


@dataclass(frozen=True, slots=True)
class Beside:
    """What is known of a release: the digests by SHA256SUMS, the manifests of the archives in which nothing is wrong,
    what the other files hold that have their digests, and whether SHA256SUMS is signed."""

    digests: Mapping[str, str]
    manifests: Mapping[str, Manifest]
    texts: Mapping[str, bytes]
    signed: bool


def misnamed(digests: Mapping[str, str], signed: bool) -> Iterator[Problem]:
    """Yield a problem for each file that SHA256SUMS names and a release has not, or does not name and every one has."""
    for name in digests:
        archive = archive_of(name)
        if archive is None and name not in {NOTES, *OTHERS}:
            yield name, "no file that this guestforge knows of a release"
        elif archive and archive not in digests:
            yield name, f"{SUMS} does not name the archive that it is of, {archive}"
        elif archive == name:
            for file in sboms_of(name):
                if file not in digests:
                    yield file, f"missing: every archive has one, and {SUMS} does not name it"
    wanted = SIGNED if signed else {STATEMENT}
    how = "signed" if signed else "not signed"
    for name in wanted - digests.keys():
        yield name, f"missing: every release that is {how} has one, and {SUMS} does not name it"
    for name in (OTHERS - wanted) & digests.keys():
        yield name, f"a release that is {how} has none"


def judged(beside: Beside, judge: Judge) -> Iterator[Problem]:
    """Yield what is wrong with each file whose digest is right."""
    for name, data in beside.texts.items():
        try:
            if name == NOTES:
                continue
            if name in OTHERS:
                _judge_provenance(name, data, beside, judge)
            else:
                _judge_sbom(name, data, beside)
        except Refused as e:
            yield name, str(e)


def _judge_sbom(name: str, data: bytes, beside: Beside) -> None:
    archive = archive_of(name)
    if archive and archive in beside.manifests:  # else what is wrong with the archive is told
        bill = bill_of(beside.manifests[archive], beside.digests[archive])
        require_of(data, name.removeprefix(archive.removesuffix(SUFFIX)), bill)


def _judge_provenance(name: str, data: bytes, beside: Beside, judge: Judge) -> None:
    if name == ENVELOPE + MINISIG:
        if ENVELOPE in beside.texts:
            judge.minisign(beside.texts[ENVELOPE], data, ENVELOPE)
        return
    said = opened(data, judge.plainly) if name == ENVELOPE else data
    subjects = {file: digest for file, digest in beside.digests.items() if archive_of(file)}
    archives = {file for file in subjects if file.endswith(SUFFIX)}
    if archives and archives <= beside.manifests.keys():  # else what is wrong with an archive is told
        require_true(said, beside.manifests, subjects)
