"""What a user names an image by: a directory, a file, or a registry's reference."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from guestforge.core.errors import UserError
from guestforge.oci.archive import archive_kind

MAX_LENGTH: Final = 4096

_PATH: Final = re.compile(r"[./]|.*\.(?:tar|tgz|tar\.\w+)(?::|$)", re.DOTALL)
# https://github.com/distribution/reference: a registry's host, a repository of lower-case words, a tag, a digest
_REFERENCE: Final = re.compile(
    r"(?P<name>(?:(?:[A-Za-z0-9.-]+|\[[0-9A-Fa-f:]+\])(?::[0-9]+)?/)?"
    r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*)"
    r"(?P<tag>:[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(?P<digest>@sha256:[0-9a-f]{64})?"
)


@dataclass(frozen=True, slots=True)
class Source:
    """Where an image is: a layout or an archive at `path`, in which it may be tagged `name`, or a registry's `name`."""

    kind: Literal["layout", "docker-archive", "oci-archive", "docker"]
    name: str
    path: Path = Path()


def find_source(reference: str) -> Source:
    """Return what a reference names. Raises UserError for none, and for a path that is not there or holds no image."""
    if not reference or len(reference) > MAX_LENGTH or not reference.isprintable():
        raise UserError(f"{reference[:100]!r} names no image")
    for path, tag in _splits(reference):
        if found := _local(path, tag):
            return found
    if _PATH.match(reference):
        raise UserError(f"{reference}: there is no such file or directory")
    return _registry(reference)


def _splits(reference: str) -> Iterator[tuple[str, str]]:
    """Yield the ways to read a reference as a path and a tag, the longest path first."""
    yield reference, ""
    for colon in reversed([place for place, letter in enumerate(reference) if letter == ":" and place]):
        yield reference[:colon], reference[colon + 1 :]


def _local(text: str, tag: str) -> Source | None:
    """Return the image at a path, None where there is none and the text need not be a path."""
    path = Path(text)
    named = _PATH.match(text)
    try:
        if path.is_dir():
            if (path / "oci-layout").is_file():
                return Source("layout", tag, path.absolute())
            if named:
                raise UserError(f"{path} is no OCI layout: it has no file oci-layout")
        elif path.is_file() and (kind := archive_kind(path)):
            return Source(kind, tag, path.absolute())
        elif named and path.exists():
            hint = "`docker save` and `skopeo copy` write such files"
            raise UserError(f"{path} is no tar of an image: neither docker-archive nor oci-archive", hint=hint)
    except OSError as e:
        if named:
            raise UserError(f"{path}: {e.strerror}") from e
    return None


def _registry(reference: str) -> Source:
    found = _REFERENCE.fullmatch(reference.removeprefix("docker://"))
    if not found:
        hint = "DIRECTORY[:TAG] of an OCI layout, FILE.tar, or [REGISTRY/]NAME[:TAG] with a name in lower case"
        raise UserError(f"{reference[:100]!r} names no image", hint=hint)
    # with a digest the tag says nothing more, and skopeo takes only one of them
    return Source("docker", found["name"] + (found["digest"] or found["tag"] or ":latest"))
