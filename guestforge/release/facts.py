"""What release notes tell of a guest: read from what is packed, or from an earlier release's archives."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from guestforge.check.report import REPORT
from guestforge.core.errors import BuildError, UserError
from guestforge.core.files import open_regular
from guestforge.core.progress import bar
from guestforge.kernel.dotconfig import MAX_BYTES, parse_dotconfig
from guestforge.kernel.step import CONFIG_COPY, KERNEL
from guestforge.project.options import ARTIFACTS
from guestforge.release.contents import read_archive
from guestforge.release.documents import LIMIT, Document, Manifest, Refused, parsed, read_manifest
from guestforge.release.names import ROOTS
from guestforge.release.proven import Proven
from guestforge.release.sign import Judge
from guestforge.release.verify import verify_release

REPORTS: Final = {f"check/{artifact}/{REPORT}": artifact for artifact in ARTIFACTS}
WANTED: Final = {CONFIG_COPY: MAX_BYTES, **dict.fromkeys(REPORTS, LIMIT)}  # the files that are read, and their bytes


class Boot(Document):
    """How a guest booted, by its report: in seconds since QEMU was started, and memory in KiB."""

    accelerator: str
    phases: dict[str, float | None]
    measurements: dict[str, float | None]


@dataclass(frozen=True, slots=True)
class Told:
    """What is told of a guest. `sizes` are bytes by the files' names, `boots` are by the artifact that was booted."""

    guest: str
    arch: str
    version: str
    kernel: str
    kernel_source: str
    compiler: str
    linker: str
    go: str | None
    sizes: Mapping[str, int]
    options: Mapping[str, str]
    packages: Mapping[str, str]
    modules: Mapping[str, str]
    boots: Mapping[str, Boot]


def told(manifest: Manifest, texts: Mapping[str, bytes], archive: int) -> Told:
    """Return what is told of a guest; `texts` are the files of WANTED, `archive` is the archive's size in bytes.

    Raises Refused and BuildError for files that are not what they should be.
    """
    source = next(iter(manifest.read_by("source").values()))
    packages = manifest.read_by("package").values()
    versions = manifest.versions
    return Told(
        guest=manifest.guest,
        arch=manifest.arch,
        version=manifest.release.version,
        kernel=versions.kernel,
        kernel_source=f"{source.package} {source.version}",
        compiler=versions.compiler,
        linker=versions.linker,
        go=versions.go,
        sizes={"archive": archive, **{name: manifest.artifacts[name].size for name in (KERNEL, *ROOTS.values())}},
        options=parse_dotconfig(texts[CONFIG_COPY].decode(errors="replace"), CONFIG_COPY),
        packages={one.package or "": one.version or "" for one in packages},
        modules={module.path: module.version for module in manifest.release.agent.modules},
        boots={artifact: parsed(Boot, texts[name], name) for name, artifact in REPORTS.items()},
    )


def told_of_proven(guest: Proven, archive: int) -> Told:
    """Return what is told of a guest whose archive has so many bytes."""
    texts = {name: guest.stored(name).path.read_bytes() for name in WANTED}
    return told(read_manifest(guest.manifest), texts, archive)


def told_of_release(directory: Path) -> tuple[Told, ...]:
    """Return what is told of the guests of an earlier release, which is verified first, without a key.

    Raises as `verify_release` does, and UserError for one that holds what notes can't be made of.
    """
    found = verify_release(directory, Judge())
    try:
        return tuple(_told_of_archive(directory / name) for name in found.manifests)
    except (Refused, BuildError, OSError) as e:
        raise UserError(f"--since {directory}: {e}") from e


def _told_of_archive(path: Path) -> Told:
    texts: dict[str, bytes] = {}

    def take(name: str, data: bytes) -> None:
        if len(texts.get(name, b"")) < WANTED.get(name, 0):
            texts[name] = texts.get(name, b"") + data

    file = open_regular(path)
    if file is None:
        raise Refused(f"{path.name} is no file any more")
    with file, bar(f"reading {path.name}", path.stat().st_size, "B") as shown:
        found = read_archive(file, path.name, shown, take)
    if found.manifest is None:
        raise Refused(f"{path.name}: {found.fault}")
    return told(found.manifest, texts, found.facts.size)
