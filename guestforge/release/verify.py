"""Judges a release's directory, with nothing but the directory: every byte of it, and what it can't know."""

import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from guestforge.core.errors import UserError
from guestforge.core.files import open_regular
from guestforge.core.progress import bar
from guestforge.release.beside import Beside, Judge, judged, misnamed
from guestforge.release.contents import read_archive
from guestforge.release.documents import LIMIT as DOCUMENT
from guestforge.release.documents import Manifest, Refused
from guestforge.release.errors import UnverifiedError
from guestforge.release.names import NAME, NOTES, SIGNATURE, SUFFIX, SUMS
from guestforge.release.sums import LIMIT, read_sums

MAX_FILES: Final = 1000
HINT: Final = "do not use it; fetch it again from whoever published it"


@dataclass(frozen=True, slots=True)
class Verified:
    """A release in which nothing is wrong: what its archives are, and what was not looked at."""

    manifests: Mapping[str, Manifest]
    signed_by: str
    unchecked: tuple[str, ...]


def verify_release(directory: Path, judge: Judge) -> Verified:
    """Verify a release, which must have signatures where `judge` has a key.

    Raises UserError for what is no release's directory, UnverifiedError that names each file in which something is
    wrong.
    """
    there = _listed(directory)
    if SUMS not in there:
        raise UserError(f"{directory} is no release: it has no {SUMS}")
    problems: dict[str, str] = {}
    signed_by = ""
    sums_data = _read(directory / SUMS, LIMIT, problems)
    if SIGNATURE in there:
        signature = _read(directory / SIGNATURE, LIMIT, problems)
        if signature is not None and sums_data is not None:
            signed_by = _signer(sums_data, signature, judge, problems)
    elif judge.has_key:
        problems[SIGNATURE] = "missing, and a key was given to check it with"
    digests = _sums(sums_data, problems)
    if SUMS not in problems:  # else it is not known which files there should be
        problems |= dict(_strangers(there, digests))
        problems |= dict(misnamed(digests, SIGNATURE in there))
    here = {name: digests[name] for name in digests if name in there}
    manifests = _archives(directory, here, problems)
    beside = Beside(digests, manifests, _texts(directory, here, problems), SIGNATURE in there)
    problems = {**dict(judged(beside, judge)), **problems}
    problems |= dict(_versions(manifests))
    if problems:
        raise _unverified(directory, problems)
    return Verified(manifests, signed_by, tuple(_unchecked(SIGNATURE in there, signed_by)))


def _listed(directory: Path) -> set[str]:
    try:
        with os.scandir(directory) as found:
            names = {entry.name for entry, _ in zip(found, range(MAX_FILES + 1), strict=False)}
    except OSError as e:
        raise UserError(f"{directory}: {e.strerror}", hint="name the directory of a release") from e
    if len(names) > MAX_FILES:
        raise UserError(f"{directory} has more than {MAX_FILES} files in it: it is no release")
    return names


def _read(path: Path, limit: int, problems: dict[str, str]) -> bytes | None:
    """Return a small file's content; None, with its problem noted, for what can't be one."""
    try:
        file = open_regular(path)
        if file is None:
            problems[path.name] = "it is no file, or a link to one"
            return None
        with file:
            data = file.read(limit + 1)
    except OSError as e:
        problems[path.name] = f"it can't be read: {e.strerror}"
        return None
    if len(data) > limit:
        problems[path.name] = f"it has more than {limit} bytes"
        return None
    return data


def _signer(data: bytes, signature: bytes, judge: Judge, problems: dict[str, str]) -> str:
    try:
        return judge.minisign(data, signature, SUMS)
    except Refused as e:
        problems[SIGNATURE] = str(e)
    return ""


def _sums(data: bytes | None, problems: dict[str, str]) -> dict[str, str]:
    if data is None:
        return {}
    try:
        digests = read_sums(data)
    except Refused as e:
        problems[SUMS] = str(e)
        return {}
    if not digests:
        problems[SUMS] = "it names no file"
    return digests


def _strangers(there: set[str], digests: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yield a problem for each file that is missing, that nothing names, or of which nothing is known."""
    for name in digests.keys() - there:
        yield name, f"missing, though {SUMS} names it"
    for name in there - digests.keys() - {SUMS, SIGNATURE}:
        yield name if NAME.fullmatch(name) else ascii(name), f"{SUMS} does not name it"


def _archives(directory: Path, digests: Mapping[str, str], problems: dict[str, str]) -> dict[str, Manifest]:
    """Return the manifest of each archive in which nothing is wrong."""
    manifests = {}
    for name in sorted(name for name in digests if name.endswith(SUFFIX)):
        try:
            found = _archive(directory / name, digests[name])
            if found:
                manifests[name] = found
        except Refused as e:
            problems[name] = str(e)
        except OSError as e:
            problems[name] = f"it can't be read: {e.strerror}"
    return manifests


def _archive(path: Path, digest: str) -> Manifest | None:
    file = open_regular(path)
    if file is None:
        raise Refused("it is no file, or a link to one")
    with file, bar(f"verifying {path.name}", path.stat().st_size, "B") as shown:
        found = read_archive(file, path.name, shown)
    if found.facts.sha256 != digest:
        raise Refused(f"its SHA-256 is not what {SUMS} says")
    if found.fault:
        raise Refused(found.fault)
    return found.manifest


def _texts(directory: Path, digests: Mapping[str, str], problems: dict[str, str]) -> dict[str, bytes]:
    """Return what each file that is no archive holds, of those that have their digests."""
    texts = {}
    for name in (name for name in sorted(digests) if not name.endswith(SUFFIX)):
        data = _read(directory / name, DOCUMENT, problems)
        if data is not None and hashlib.sha256(data).hexdigest() == digests[name]:
            texts[name] = data
        elif data is not None:
            problems[name] = f"its SHA-256 is not what {SUMS} says"
    return texts


def _versions(manifests: Mapping[str, Manifest]) -> Iterator[tuple[str, str]]:
    """Yield a problem for each archive of another version than the first one's."""
    versions = [manifest.release.version for manifest in manifests.values()]
    for name, manifest in manifests.items():
        if manifest.release.version != versions[0]:
            yield name, f"its version is {manifest.release.version}, and another archive's {versions[0]}"


def _unchecked(signed: bool, signed_by: str) -> Iterator[str]:
    if not signed:
        yield "who made it: it is not signed, and whoever changes all of it can't be seen"
    elif not signed_by:
        yield "its signature: no --public-key was given, and whoever changes all of it can't be seen"
    yield "that it is the newest release, and that it has all that its maker has released"
    yield "that the files were built from what manifests, SBOMs and provenance name, and by which commit"
    yield f"what {NOTES} tells people"
    yield "that the guests still pass: the reports say that they did (`./invoke check` boots them)"


def _unverified(directory: Path, problems: Mapping[str, str]) -> UnverifiedError:
    lines = [f"{name}: {problems[name]}" for name in sorted(problems)]
    count = f"{len(lines)} file{'s' if len(lines) > 1 else ''}"
    return UnverifiedError(f"{directory} does not verify: {count} of it", excerpt="\n".join(lines), hint=HINT)
