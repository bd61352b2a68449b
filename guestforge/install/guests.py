"""What may be installed of a guest: what was built and has passed its checks, or a release that was fetched."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from guestforge.arch import Arch
from guestforge.check.report import REPORT
from guestforge.core.errors import UserError
from guestforge.core.files import read_regular
from guestforge.core.graph import Evaluation
from guestforge.core.jobserver import Jobserver
from guestforge.core.store import FileFacts
from guestforge.manifest import MANIFEST
from guestforge.pipeline import Pipeline
from guestforge.project.options import BuildOptions, CheckOptions
from guestforge.publish.fetched import AGAIN, Laid, laid_out
from guestforge.release.documents import LIMIT, Refused, require_passed
from guestforge.release.names import CHECK_FILES
from guestforge.release.proven import find_proven

UNRELEASED: Final = "0.0.0-unreleased"  # what a manifest says of the version of what was built here
DIGITS: Final = 16  # of the manifest's SHA-256 in a directory's name


@dataclass(frozen=True, slots=True)
class File:
    """A file that is to be installed: where it lies, or its bytes; and what a copy of it must be."""

    source: Path | bytes
    facts: FileFacts


@dataclass(frozen=True, slots=True)
class Guest:
    """A guest of one architecture that may be installed, with all its files by their names."""

    arch: Arch
    name: str
    version: str
    own_agent: bool  # ours, and not one that was given
    kernel_args: tuple[str, ...]  # of its recipe
    files: Mapping[str, File]

    @property
    def id(self) -> str:
        """What its directory is called: the manifest has the digests of all other files."""
        return f"{self.name}-{self.files[MANIFEST].facts.sha256[:DIGITS]}"


def find_guest(
    arch: Arch, options: BuildOptions, checks: CheckOptions, evaluation: Evaluation, jobs: Jobserver
) -> Guest:
    """Return the guest of the release in the output directory, or, where none is, what was built of the recipes.

    Raises NotProvenError for what was not built, or has not passed its checks; UserError for a release that is not as
    it was fetched.
    """
    if laid := laid_out(arch, options):
        return _of_release(arch, laid)
    pipeline = Pipeline(arch, options, evaluation, jobs)
    found = find_proven(pipeline, checks, UNRELEASED)
    files = {
        name: _document(source) if isinstance(source, bytes) else File(source.path, source.facts)
        for name, source in found.files.items()
    }
    kernel_args = pipeline.steps.guest.boot.kernel_args
    return Guest(arch, options.guest, UNRELEASED, not options.agent, kernel_args, files)


def _of_release(arch: Arch, laid: Laid) -> Guest:
    """Return the guest of a release, whose reports have to say that it has passed."""
    manifest = laid.manifest
    try:
        for name in CHECK_FILES:
            if name.endswith(f"/{REPORT}"):
                require_passed(_report(laid, name), name, manifest)
    except (Refused, OSError) as e:
        raise UserError(f"{laid.place}: {e}", hint=AGAIN) from e
    files = {name: File(laid.place / name, facts.file_facts) for name, facts in manifest.files().items()}
    files[MANIFEST] = _document(laid.data)
    released = manifest.release
    kernel_args = laid.guest.boot.kernel_args
    return Guest(arch, manifest.guest, released.version, not released.agent.given, kernel_args, files)


def _report(laid: Laid, name: str) -> bytes:
    data = read_regular(laid.place / name, LIMIT + 1)
    if data is None:
        raise Refused(f"{name} is no file")
    return data


def _document(data: bytes) -> File:
    return File(data, FileFacts(hashlib.sha256(data).hexdigest(), len(data)))
