"""An image is known by a digest before anything of it is fetched, so that it is fetched once.

It is that of a layout's descriptor, of an archive's file, or what a registry says of a reference. What a tag names may
change; what has the same digest is the same image.
"""

from dataclasses import dataclass, field
from pathlib import Path

from guestforge.arch import Arch
from guestforge.core.errors import UserError
from guestforge.core.files import digest_file
from guestforge.core.runtime import Runtime
from guestforge.oci.document import Document
from guestforge.oci.layout import choose, digest_of
from guestforge.oci.reference import Source
from guestforge.oci.tools import Wanted, registry_digest


@dataclass(frozen=True, slots=True)
class Identified:
    """An image that is known by a digest, but for the tag in an archive, whose digest is that of the file.

    `descriptor` is what a layout has of it, `stamp` tells whether an archive has been changed since.
    """

    source: Source
    title: str
    digest: str
    tag: str = ""
    descriptor: Document = field(default_factory=dict)
    stamp: tuple[int, ...] = ()


def identify(source: Source, title: str, arch: Arch, runtime: Runtime) -> Identified:
    """Return what is known of an image before it is fetched; `title` is what a user calls it.

    Raises UserError for one that is not there, BuildError for the network.
    """
    match source.kind:
        case "layout":
            descriptor = choose(source.path, source.name, arch)
            return Identified(source, title, digest_of(descriptor, "an image's descriptor"), descriptor=descriptor)
        case "docker":
            given = source.name.partition("@")[2]  # which needs no registry, once the image is in the store
            return Identified(
                source, title, given or registry_digest(Wanted(f"docker://{source.name}", title, arch), runtime)
            )
        case _:
            try:
                stamp, digest = stamp_of(source.path), digest_file(source.path)
            except OSError as e:
                raise UserError(f"{source.path}: {e.strerror}") from e
            return Identified(source, title, f"sha256:{digest}", source.name, stamp=stamp)


def stamp_of(path: Path) -> tuple[int, ...]:
    """Return what changes with a file, in practice."""
    status = path.stat()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
