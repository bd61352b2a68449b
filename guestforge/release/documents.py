"""The JSON documents of a release, as they are read by whoever trusts nobody: bounded, and each value of its type.

Of a manifest and of a report what a release stands on is read, and the rest left alone: a newer guestforge may add to
it. It may not change what is read here without another `schema`, which is refused.
"""

from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from guestforge.check.report import REPORT
from guestforge.core.store import FileFacts
from guestforge.manifest import MANIFEST
from guestforge.release.names import CHECK_FILES, DIGEST, FILES_OF_A_GUEST, NAME, ROOTS, is_version

GIB: Final = 1024**3
LIMIT: Final = 4 * 1024 * 1024  # bytes of a document: a manifest has 5,000, a report 7,000
MAX_LOG: Final = 256 * 1024 * 1024  # bytes of what a check says for people: a console's log ends at 64 MiB
# What any guest stays far below. A disk of 64 GiB is the largest that a recipe can ask for by its size.
MAX_FILE: Final = 256 * GIB

Digest = Annotated[str, Field(pattern=f"^{DIGEST.pattern}$")]
Name = Annotated[str, Field(pattern=f"^{NAME.pattern}$", max_length=100)]
Text = Annotated[str, Field(pattern=r"^[ -~]+$", max_length=300)]  # what is said of a tool, a version, a licence
Time = Annotated[str, Field(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z$")]  # RFC 3339, UTC
Verdict = Literal["pass", "fail"]
D = TypeVar("D", bound="Document")


class Document(BaseModel):
    """A part of a document, of which the other keys are left alone."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)


class Facts(Document):
    """What a manifest says of a file: SHA-256 in hex, bytes."""

    sha256: Digest
    size: Annotated[int, Field(ge=0, le=MAX_FILE)]

    @property
    def file_facts(self) -> FileFacts:
        """What a file is compared with."""
        return FileFacts(self.sha256, self.size)


class Module(Document):
    """A Go module that is in the agent; `sum` is Go's own, of all files of it: `h1:` and base64."""

    path: Text
    version: str = Field(pattern=r"^[ -~]*$", max_length=300)
    sum: Text | None
    licence: Text | None


class Agent(Document):
    """What the agent is: the user's own or ours, and what it was made from, as far as it says that itself."""

    sha256: Digest
    given: bool
    go: str = Field(pattern=r"^[ -~]*$", max_length=300)
    modules: Annotated[list[Module], Field(max_length=2000)]


class Built(Document):
    """When the first step of a guest began, and the last one, a check, was finished."""

    started: Time
    finished: Time


class Released(Document):
    """What a manifest in an archive says besides that in an output directory.

    The version, the check's files, when it was built, the agent's parts, from which suite of Debian's packages came, by
    their steps, and the recipes by their kinds.
    """

    version: Annotated[str, Field(max_length=128)]
    checks: dict[str, Facts]
    built: Built | None = None
    agent: Agent
    suites: dict[Text, Text]
    recipe: dict[Text, Any]


class Versions(Document):
    """What a guest's parts and the tools that made them say of their versions."""

    kernel: Text
    compiler: Text
    linker: Text
    go: Text | None


class Package(Document):
    """What a step says in its key of what it read, if it is a package of Debian's or an overlay, and of mke2fs."""

    package: Text | None = None
    version: Text | None = None
    architecture: Text | None = None
    sha256: Digest | None = None
    files: Digest | None = None
    e2fsprogs: Text | None = None


class Made(Document):
    """A step that had a part in a guest."""

    key: Text
    inputs: Package


class Manifest(Document):
    """The manifest of an archive."""

    schema_: Literal[1] = Field(alias="schema")
    guestforge: Text
    arch: Name
    guest: Name
    versions: Versions
    steps: dict[Text, Made]
    artifacts: dict[str, Facts]
    release: Released

    def read_by(self, kind: str) -> dict[str, Package]:
        """Return what the steps of a kind read, by the steps: `source linux-source-6.12` is of the kind `source`."""
        return {role: step.inputs for role, step in sorted(self.steps.items()) if role.partition(" ")[0] == kind}

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


Identity = tuple[str | None, ...]  # a component's name, version, SHA-256, licence and purl


@dataclass(frozen=True, slots=True)
class Found:
    """What an SBOM says: of which archive it is, the components (that one too), and which stands to which somehow."""

    archive: Identity
    components: frozenset[Identity]
    links: frozenset[tuple[Identity, Identity]]


class Refused(ValueError):
    """A document, or what it says, is not taken; the text says why."""


def read_manifest(data: bytes) -> Manifest:
    """Return what a manifest says; raises Refused."""
    found = parsed(Manifest, data, MANIFEST)
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
    found = parsed(Report, data, name)
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


def parsed(model: type[D], data: bytes, name: str) -> D:
    """Return a document; raises Refused for what is none, `name` is what it is called then."""
    if len(data) > LIMIT:
        raise Refused(f"{name} has more than {LIMIT} bytes")
    try:
        return model.model_validate_json(data)
    except ValidationError as e:
        raise Refused(f"{name}: {first_fault(e)}") from e


def first_fault(error: ValidationError) -> str:
    """Return where a document is wrong first, and how: bounded, and in letters that no terminal obeys."""
    first: Any = error.errors(include_url=False)[0]
    place = ascii(".".join(map(str, first["loc"]))[:200]) if first["loc"] else "it"
    return f"{place}: {ascii(first['msg'][:200])[1:-1]}"
