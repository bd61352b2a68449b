"""The JSON documents in an archive, as they are read by whoever trusts nobody: bounded, and each value of its type.

Of a manifest and of a report what a release stands on is read, and the rest left alone: a newer guestforge may add to
it. It may not change what is read here without another `schema`, which is refused.
"""

from typing import Annotated, Any, Final, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from guestforge.check.report import REPORT
from guestforge.manifest import MANIFEST
from guestforge.release.names import CHECK_FILES, DIGEST, FILES_OF_A_GUEST, NAME, ROOTS, is_version

GIB: Final = 1024**3
LIMIT: Final = 4 * 1024 * 1024  # bytes of a document: a manifest has 5,000, a report 7,000
MAX_LOG: Final = 256 * 1024 * 1024  # bytes of what a check says for people: a console's log ends at 64 MiB
# What any guest stays far below. A disk of 64 GiB is the largest that a recipe can ask for by its size.
MAX_FILE: Final = 256 * GIB

Digest = Annotated[str, Field(pattern=f"^{DIGEST.pattern}$")]
Name = Annotated[str, Field(pattern=f"^{NAME.pattern}$", max_length=100)]
Verdict = Literal["pass", "fail"]
D = TypeVar("D", bound="Document")


class Document(BaseModel):
    """A part of a document, of which the other keys are left alone."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)


class Facts(Document):
    """What a manifest says of a file: SHA-256 in hex, bytes."""

    sha256: Digest
    size: Annotated[int, Field(ge=0, le=MAX_FILE)]


class Released(Document):
    """What a manifest in an archive says besides that in an output directory: the version, and the check's files."""

    version: Annotated[str, Field(max_length=128)]
    checks: dict[str, Facts]


class Manifest(Document):
    """The manifest of an archive."""

    schema_: Literal[1] = Field(alias="schema")
    arch: Name
    guest: Name
    artifacts: dict[str, Facts]
    release: Released

    def files(self) -> dict[str, Facts]:
        """Return the facts of all files besides the manifest itself."""
        return {**self.artifacts, **self.release.checks}


class Check(Document):
    """One check of a report."""

    name: str
    status: Literal["pass", "fail", "skip"]


class Report(Document):
    """A check's report."""

    schema_: Literal[1] = Field(alias="schema")
    arch: str
    guest: str
    artifact: str
    digests: dict[str, Digest]
    verdict: Verdict
    checks: list[Check]


class Refused(ValueError):
    """A document, or what it says, is not taken; the text says why."""


def read_manifest(data: bytes) -> Manifest:
    """Return what a manifest says; raises Refused."""
    found = _parsed(Manifest, data, MANIFEST)
    for what, there, wanted in (
        ("artifacts", found.artifacts, FILES_OF_A_GUEST),
        ("checks", found.release.checks, CHECK_FILES),
    ):
        if set(there) != set(wanted):
            raise Refused(f"{MANIFEST} has other {what} than {', '.join(sorted(wanted))}")
    if not is_version(found.release.version):
        raise Refused(f"{MANIFEST}: {found.release.version!a} is no version by SemVer")
    for name, facts in found.release.checks.items():
        if facts.size > (LIMIT if name.endswith(f"/{REPORT}") else MAX_LOG):
            raise Refused(f"{MANIFEST}: {name} is too large, {facts.size} bytes")
    return found


def require_passed(data: bytes, name: str, manifest: Manifest) -> None:
    """Raise Refused unless a report says that a guest passed all checks, and with the files that its manifest names."""
    found = _parsed(Report, data, name)
    artifact = CHECK_FILES[name]
    if (found.arch, found.guest, found.artifact) != (manifest.arch, manifest.guest, artifact):
        raise Refused(f"{name} is about {f'{found.arch} {found.guest} {found.artifact}'!a}")
    bad = [check.name for check in found.checks if check.status != "pass"]
    if found.verdict != "pass" or bad or not found.checks:
        raise Refused(
            f"{name}: not passed: {ascii(', '.join(bad)[:200]) if bad else f'its verdict is {found.verdict}'}"
        )
    booted = {file: manifest.artifacts[file].sha256 for file in (FILES_OF_A_GUEST[0], ROOTS[artifact])}
    if found.digests != booted:
        raise Refused(f"{name} is about other files than those in the archive")


def _parsed(model: type[D], data: bytes, name: str) -> D:
    if len(data) > LIMIT:
        raise Refused(f"{name} has more than {LIMIT} bytes")
    try:
        return model.model_validate_json(data)
    except ValidationError as e:
        first: Any = e.errors(include_url=False)[0]
        place = ascii(".".join(map(str, first["loc"]))[:200])
        raise Refused(f"{name}: {place if first['loc'] else 'it'}: {ascii(first['msg'][:200])[1:-1]}") from e
