"""The options of all tasks. Each is declared here, once; docs/tasks.md describes them.

A new one is a field of the record that its tasks take, and whoever takes the record reads it. What is imported inside
the functions is what a start of `./invoke` must not pay for.
"""

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

from guestforge.core.errors import UserError
from guestforge.project.layout import OUTPUT
from guestforge.project.option import (
    Otherwise,
    number,
    one_of,
    option,
    options_of,
    path,
    size,
    some_of,
    text,
    text_or_none,
    texts,
    version,
    whole,
)

if TYPE_CHECKING:
    from guestforge.arch import Arch
    from guestforge.project.folder import Project

MAX_JOBS: Final = 4096
MAX_FILES: Final = 1_000_000
MAX_TIMEOUT: Final = 86_400.0  # seconds
MAX_CPUS: Final = 255.0
MANY: Final = 1000
MAX_BOOTS: Final = 1000
MAX_IDLE: Final = 3600.0  # seconds
MAX_HEADROOM: Final = 400  # percent
KATA_HANDLER: Final = "kata-qemu-runtime-rs"  # kata-deploy's own default on every architecture of ours
TESTED: Final = "GUESTFORGE_TEST_ARCHES"  # what the boot tests read, tests/boot/conftest.py
DEBUG: Final = "debug"  # the recipe with a shell in it


Artifact = Literal["initrd", "image"]  # what of a guest can be booted
ARTIFACTS: Final[tuple[Artifact, ...]] = get_args(Artifact)
WantedAccelerator = Literal["auto", "kvm", "tcg"]
ACCELERATORS: Final[tuple[WantedAccelerator, ...]] = get_args(WantedAccelerator)
WantedNetwork = Literal["none", "user"]
NETWORKS: Final[tuple[WantedNetwork, ...]] = get_args(WantedNetwork)
WantedServer = Literal["auto", "virtiofsd", "builtin"]
VIRTIO_FS_SERVERS: Final[tuple[WantedServer, ...]] = get_args(WantedServer)
MatrixFormat = Literal["github", "gitlab", "json"]
MATRIX_FORMATS: Final[tuple[MatrixFormat, ...]] = get_args(MatrixFormat)
CiSystem = Literal["github", "gitlab"]
CI_SYSTEMS: Final[tuple[CiSystem, ...]] = get_args(CiSystem)


RuntimeName = Literal["host", "docker"]
RUNTIMES: Final[tuple[RuntimeName, ...]] = get_args(RuntimeName)


Arches = Callable[[], "tuple[Arch, ...]"]


def _arches(_: str, value: str) -> "tuple[Arch, ...]":
    from guestforge.arch import lookup_list

    return lookup_list(value)


def _host() -> "tuple[Arch, ...]":
    from guestforge.arch import host

    return (host(),)


def _proven() -> "tuple[Arch, ...]":
    from guestforge.arch import PROVEN

    return PROVEN


def _tested(_: Mapping[str, Any]) -> "tuple[Arch, ...]":
    named = os.environ.get(TESTED)
    return _arches(TESTED, named) if named else _proven()


def _project(_: str, value: str) -> "Project":
    from guestforge.project.folder import find_project

    return find_project(Path(value))


def _nearest_project(_: Mapping[str, Any]) -> "Project":
    from guestforge.project.folder import find_project

    return find_project()


def _our_project() -> "Project":
    from guestforge.project.folder import our_project

    return our_project()


def _file(shown: str, value: str) -> Path:
    from guestforge.core.files import require_file

    found = path(shown, value)
    require_file(found, shown)
    return found


def processors() -> int:
    """Return how many processors we may use."""
    return len(os.sched_getaffinity(0))


def _arch(default: str, factory: Arches, otherwise: Otherwise | None = None) -> Any:  # noqa: ANN401 - as of `option`
    help_ = f"an architecture, a comma list, or all (default: {default})"
    return option(help_, _arches, name="arch", many=True, otherwise=otherwise, default_factory=factory)


def _guest() -> Any:  # noqa: ANN401 - as of `option`
    return option(
        "a recipe of recipes/guests (default: the project's, minimal)",
        text,
        otherwise=lambda before: before["project"].settings.guest,
        default="minimal",
    )


def _guests() -> Any:  # noqa: ANN401 - as of `option`
    return option(
        "recipes of recipes/guests, with commas (default: all that the project has)", texts, name="guest", default=()
    )


def _mirror() -> Any:  # noqa: ANN401 - as of `option`
    return option("a Debian mirror instead of the host's", text_or_none)


def _agent() -> Any:  # noqa: ANN401 - as of `option`
    return option("a binary that takes the place of our agent", _file)


def _output(what: str) -> Any:  # noqa: ANN401 - as of `option`
    return option(
        f"{what} (default: the project's output/)",
        path,
        otherwise=lambda before: before["project"].output,
        default=OUTPUT,
    )


@dataclass(frozen=True, slots=True)
class ProjectOptions:
    """A project."""

    project: "Project" = option(
        "a folder with a guestforge.toml (default: the one that you are in, else this checkout)",
        _project,
        otherwise=_nearest_project,
        default_factory=_our_project,
    )


@dataclass(frozen=True, slots=True)
class TargetOptions(ProjectOptions):
    """What is built, or looked at: a project and architectures."""

    arches: "tuple[Arch, ...]" = _arch("the host's", _host)


@dataclass(frozen=True, slots=True)
class BuildOptions(TargetOptions):
    """What decides what is built, of what, and where it goes."""

    guest: str = _guest()
    jobs: int = option(
        "how many compilers, programs and guests run at once (default: the processors that we may use)",
        whole(1, MAX_JOBS),
        default_factory=processors,
    )
    mirror: str | None = _mirror()
    refresh: bool = option("ask the mirror again for the newest version of the kernel's source")
    agent: Path | None = _agent()
    output: Path = _output("where artifacts go")


@dataclass(frozen=True, slots=True)
class DebugOptions(BuildOptions):
    """The same for a guest on the terminal."""

    guest: str = option(f"a recipe of recipes/guests (default: {DEBUG}, with --oci the project's)", text, default="")


@dataclass(frozen=True, slots=True)
class MakeOptions:
    """How what is asked for is made, and told of."""

    runtime: RuntimeName = option("where it is made: host, or docker (default: host)", one_of(RUNTIMES), default="host")
    on: tuple[str, ...] = option(
        "with --runtime docker: addresses of engines, with commas, over which architectures are spread",
        texts,
        many=True,
        default=(),
    )
    fetch_only: bool = option("make only what is fetched from elsewhere; the next build needs no network")
    dry_run: bool = option("say what would be built and what the store has, and build nothing")
    fail_fast: bool = option("end everything at the first step that fails")
    json: bool = option("write what happens to standard output, a JSON object a line")


@dataclass(frozen=True, slots=True)
class CheckOptions:
    """How a guest is run to be checked."""

    accel: WantedAccelerator = option("auto, kvm or tcg (default: auto)", one_of(ACCELERATORS), default="auto")
    timeout: float | None = option(
        "seconds that one check may take before the guest counts as hung (default: 60 under TCG)",
        number(0.1, MAX_TIMEOUT),
    )
    verbose: bool = option("show the guest's console while it runs")
    virtio_fs_server: WantedServer = option(
        "auto, virtiofsd or builtin (default: auto)", one_of(VIRTIO_FS_SERVERS), default="auto"
    )


@dataclass(frozen=True, slots=True)
class ProofOptions:
    """What of a guest is booted to be checked."""

    artifacts: tuple[Artifact, ...] = option(
        "what to boot: initrd, image, or both with a comma (default: both)",
        some_of(ARTIFACTS),
        name="artifact",
        many=True,
        default=ARTIFACTS,
    )


@dataclass(frozen=True, slots=True)
class TerminalOptions:
    """A guest on the terminal: what it is made of, and what runs it."""

    accel: WantedAccelerator = option("auto, kvm or tcg (default: auto)", one_of(ACCELERATORS), default="auto")
    artifact: Artifact = option(
        "what to boot: initrd or image (default: initrd)",
        one_of(ARTIFACTS),
        many=True,
        default=ARTIFACTS[0],
    )


@dataclass(frozen=True, slots=True)
class ContainerOptions:
    """A container on the terminal, in a guest of its own, of an image that others have made."""

    oci: str | None = option("an OCI layout's folder, a tar of one or of `docker save`, or a reference", text_or_none)
    volume: tuple[str, ...] = option("a folder of the host in it, HOST:CONTAINER or HOST:CONTAINER:ro", text, each=True)
    env: tuple[str, ...] = option("NAME=VALUE of its environment, or NAME with our value", text, each=True)
    user: str | None = option("UID, UID:GID or names that the image knows (default: the image's)", text_or_none)
    memory: int | None = option("bytes that it may take, such as 512m; the guest gets as much more", size)
    cpus: float | None = option("processors that it may use, such as 1.5", number(0.01, MAX_CPUS))
    network: WantedNetwork = option(
        "none, or user for what the host reaches, its own loopback included (default: none)",
        one_of(NETWORKS),
        default="none",
    )
    command: tuple[str, ...] = option("what it runs in the image's command's place", text, rest=True)


@dataclass(frozen=True, slots=True)
class ConformOptions:
    """What a guest's storages are tried with."""

    many: int = option("files of the large directory (default: 1000)", whole(1, MAX_FILES), default=MANY)


@dataclass(frozen=True, slots=True)
class StepOptions:
    """A step, as the graph that it is in names it."""

    step: str = option("the step, such as kernel or `check initrd`", text, place=True)


def _required(shown: str, hint: str) -> Otherwise:
    def refuse(_: Mapping[str, Any]) -> None:
        raise UserError(f"{shown} is missing", hint=hint)

    return refuse


@dataclass(frozen=True, slots=True)
class ReleaseOptions(TargetOptions):
    """What is released, and where that goes."""

    guests: tuple[str, ...] = option(
        "recipes of recipes/guests, with commas (default: the project's, minimal)",
        texts,
        name="guest",
        otherwise=lambda before: (before["project"].settings.guest,),
        default=("minimal",),
    )
    version: str = option(
        "the release's version, by SemVer", version, otherwise=_required("--version", "such as 1.0.0"), default=""
    )
    mirror: str | None = _mirror()
    agent: Path | None = _agent()
    output: Path | None = option("the release's directory (default: the project's output/releases/VERSION)", path)
    since: Path | None = option("an earlier release's directory: the notes tell what has changed since", path)
    key: Path | None = option("a file with the secret key to sign with (default: $GUESTFORGE_RELEASE_KEY)", path)


@dataclass(frozen=True, slots=True)
class VerifyOptions:
    """A release to be verified."""

    directory: Path = option("the release's directory", path, place=True)
    public_key: Path | None = option("a file with the public key that must have signed it", path)


def _plain_http() -> Any:  # noqa: ANN401 - as of `option`
    return option("speak http to a registry on another machine: whoever is between can read and change all")


@dataclass(frozen=True, slots=True)
class PublishOptions:
    """A release to be published, and where."""

    directory: Path = option("the release's directory", path, place=True)
    to: str = option(
        "file:/path, oci://host[:port]/repository:tag or github:owner/repository",
        text,
        otherwise=_required("--to", "file:/path, oci://host[:port]/repository:tag or github:owner/repository"),
        default="",
    )
    public_key: Path | None = option("a file with the public key that must have signed it", path)
    plain_http: bool = _plain_http()


@dataclass(frozen=True, slots=True)
class FetchOptions(ProjectOptions):
    """A release to be fetched, and where it goes."""

    source: str = option(
        "file:/path, oci://host[:port]/repository:tag or github:owner/repository[@version]",
        text,
        place=True,
        default="",
    )
    output: Path = _output("where artifacts go")
    public_key: Path | None = option("a file with the public key that must have signed it", path)
    lock: Path | None = option("a file with the digests that it must have; written where it is not there", path)
    plain_http: bool = _plain_http()


OF_KATA_DEPLOY: Final = "such as /opt/kata, where kata-deploy has put Kata"


def _prefix(shown: str, value: str) -> Path:
    found = path(shown, value)
    if not value or not str(found).isprintable():
        raise UserError(f"{shown} {value!a}: no configuration file can name that", hint=OF_KATA_DEPLOY)
    return found


def _path_or_none(shown: str, value: str) -> Path | None:
    return path(shown, value) if value else None  # as of a shell's variable that is not set


@dataclass(frozen=True, slots=True)
class InstallOptions(TargetOptions):
    """A guest to be installed, and where."""

    guest: str = _guest()
    mirror: str | None = _mirror()
    agent: Path | None = _agent()
    output: Path = _output("where a release may lie that was fetched")
    prefix: Path = option(
        "where it goes, such as /opt/kata",
        _prefix,
        otherwise=_required("--prefix", OF_KATA_DEPLOY),
        default=Path(),
    )
    destdir: Path | None = option(
        "a directory that stands for the root of another machine, for packages", _path_or_none
    )
    kata: bool = option("write drop-ins for Kata's QEMU runtimes, in the place of links with Kata's names")
    artifact: Artifact = option(
        "what the drop-ins name: initrd or image (default: image)", one_of(ARTIFACTS), many=True, default="image"
    )
    remove: bool = option("take away what was installed there")


@dataclass(frozen=True, slots=True)
class KeygenOptions:
    """Where a new key goes."""

    file: Path = option("where the secret key goes; the public one gets .pub behind its name", path, place=True)


# What Kubernetes takes as a handler: a label of the DNS by RFC 1123
_LABEL: Final = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", re.ASCII)


def _label(shown: str, value: str) -> str:
    if not _LABEL.fullmatch(value):
        hint = "at most 63 small letters, digits and, between them, hyphens (a DNS label, RFC 1123)"
        raise UserError(f"{shown} {value[:100]!a}: no name of a handler", hint=hint)
    return value


@dataclass(frozen=True, slots=True)
class OverheadOptions:
    """How overhead is measured, and what becomes of it."""

    boots: int = option("boots of each state (default: 10)", whole(1, MAX_BOOTS), default=10)
    idle: float = option(
        "seconds over which the processor time of an idle guest is counted (default: 5)",
        number(0.5, MAX_IDLE),
        default=5.0,
    )
    headroom: int = option(
        "percent on top of what was measured, in the RuntimeClass (default: 20)", whole(0, MAX_HEADROOM), default=20
    )
    handler: str = option(f"the RuntimeClass's handler (default: {KATA_HANDLER})", _label, default=KATA_HANDLER)
    artifact: Artifact = option(
        "what to boot: initrd or image (default: image)", one_of(ARTIFACTS), many=True, default="image"
    )
    allow_tcg: bool = option("write the RuntimeClass though the guest was emulated, which no cluster does")


@dataclass(frozen=True, slots=True)
class MatrixOptions(ProjectOptions):
    """What a CI system is told to build."""

    arches: "tuple[Arch, ...]" = _arch("those that are proven", _proven)
    guests: tuple[str, ...] = _guests()
    format_: MatrixFormat = option(
        "github, gitlab or json (default: json)", one_of(MATRIX_FORMATS), name="format", default="json"
    )
    changed_since: str | None = option("only what differs from this revision's, such as origin/main", text_or_none)


@dataclass(frozen=True, slots=True)
class LockOptions(ProjectOptions):
    """Whose packages are locked."""

    arches: "tuple[Arch, ...]" = _arch("those that are proven", _proven)
    guests: tuple[str, ...] = _guests()
    mirror: str | None = _mirror()


@dataclass(frozen=True, slots=True)
class InitOptions(ProjectOptions):
    """For which CI system workflows are written."""

    system: CiSystem = option(
        "github or gitlab",
        one_of(CI_SYSTEMS),
        name="format",
        otherwise=_required("--format", "github or gitlab"),
        default="github",
    )


@dataclass(frozen=True, slots=True)
class SummaryOptions(ProjectOptions):
    """What is summed up."""

    output: Path = _output("where artifacts are")


@dataclass(frozen=True, slots=True)
class CleanOptions(ProjectOptions):
    """What is removed."""

    store: bool = option("remove the store and the compilers' caches too, not only output/")


@dataclass(frozen=True, slots=True)
class BenchOptions:
    """What is measured."""

    arches: "tuple[Arch, ...]" = _arch("those that are proven", _proven)


@dataclass(frozen=True, slots=True)
class HostBenchOptions:
    """What is measured where one architecture says what all would."""

    arches: "tuple[Arch, ...]" = _arch("the host's", _host)


@dataclass(frozen=True, slots=True)
class SelftestOptions:
    """What the project is tried with."""

    arches: "tuple[Arch, ...]" = _arch("those that are proven", _proven, _tested)
    fast: bool = option("lint, types and the tests that take seconds; no boots")


RECORDS: Final = (
    StepOptions, TargetOptions, BuildOptions, DebugOptions, MakeOptions, CheckOptions, ProofOptions, TerminalOptions,
    ContainerOptions, ConformOptions, ReleaseOptions, VerifyOptions, PublishOptions, FetchOptions, InstallOptions,
    KeygenOptions, OverheadOptions, MatrixOptions, LockOptions, InitOptions, SummaryOptions, CleanOptions, BenchOptions,
    HostBenchOptions, SelftestOptions,
)  # fmt: skip
OPTIONS: Final = {declared.name: declared for record in RECORDS for declared in options_of(record).values()}
LISTS: Final = frozenset(name for name, declared in OPTIONS.items() if declared.many or declared.each)
