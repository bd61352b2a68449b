"""A release as manifests of an OCI registry: pure data, the same bytes for the same release.

https://github.com/opencontainers/image-spec/blob/v1.1.1/manifest.md, and ORAS's way with files: a layer each, called by
its annotation `org.opencontainers.image.title`.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from guestforge.arch import lookup
from guestforge.core.store import FileFacts
from guestforge.publish.place import Release
from guestforge.release.names import SUFFIX, SUMS

MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
INDEX: Final = "application/vnd.oci.image.index.v1+json"
RELEASE: Final = "application/vnd.guestforge.release.v1"  # what is no guest's
GUEST: Final = "application/vnd.guestforge.guest.v1"  # what an architecture's artifact is
CHECKSUMS: Final = "application/vnd.guestforge.checksums.v1"  # SHA256SUMS with its signatures
EMPTY: Final = b"{}"
EMPTY_TYPE: Final = "application/vnd.oci.empty.v1+json"

TITLE: Final = "org.opencontainers.image.title"
VERSION: Final = "org.opencontainers.image.version"
FILE: Final = "io.guestforge.file."  # and a name: its digest, on the index, for the files that SHA256SUMS can't name

# By the end of a name. What nothing here fits is octets.
TYPES: Final = {
    SUFFIX: "application/vnd.guestforge.guest.layer.v1.tar+zstd",
    ".cdx.json": "application/vnd.cyclonedx+json",
    ".spdx.json": "application/spdx+json",
    ".intoto.jsonl": "application/vnd.dsse.envelope.v1+json",
    "provenance.json": "application/vnd.in-toto+json",
    ".minisig": "application/vnd.minisign.signature",
    ".md": "text/markdown",
    ".json": "application/json",
    SUMS: "text/plain",
}
OCTETS: Final = "application/octet-stream"

Descriptor = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Document:
    """A manifest or an index as it is sent, and as others refer to it."""

    data: bytes
    descriptor: Descriptor
    subject: str = ""  # the digest of what it refers to

    @property
    def digest(self) -> str:
        """Its digest, as registries write it."""
        return str(self.descriptor["digest"])


@dataclass(frozen=True, slots=True)
class Artifacts:
    """All manifests of a release, in the order in which they are sent."""

    listed: tuple[Document, ...]
    index: Document
    referrers: tuple[Document, ...]


def media_type(name: str) -> str:
    """Return the media type of a release's file."""
    return next((kind for end, kind in TYPES.items() if name.endswith(end)), OCTETS)


def artifacts(release: Release) -> Artifacts:
    """Return what a registry holds of a release.

    A guest's artifact has its archive and what is called like that (its SBOMs), one more all the rest: so a copy of the
    index and of what it leads to is whole. All that is no archive refers to what it is about as well.
    """
    guests = [_guest(release, name) for name in sorted(release.manifests)]
    owned = {name for guest in guests for name in guest.names}
    rest = tuple(name for name in release.files if name not in owned)
    listed = (*(guest.document for guest in guests), _rest(release, rest))
    index = _index(release, listed)
    checksums = tuple(name for name in rest if name.startswith(SUMS))
    referrers = [_referrer(release, (name,), guest.document) for guest in guests for name in guest.names[1:]]
    referrers += [_referrer(release, (name,), index) for name in rest if name not in checksums and not _is_text(name)]
    referrers.append(_referrer(release, checksums, index, CHECKSUMS))
    return Artifacts(listed, index, tuple(referrers))


def digest_of(facts: FileFacts) -> str:
    """Return a file's digest as registries write it."""
    return f"sha256:{facts.sha256}"


def empty_config() -> Descriptor:
    """Return the descriptor of a configuration that says nothing."""
    return _described(EMPTY, EMPTY_TYPE)


def document(value: Mapping[str, Any]) -> Document:
    """Return a manifest or an index as it is sent."""
    data = json.dumps(value, separators=(",", ":")).encode()
    return Document(data, _described(data, value["mediaType"]))


@dataclass(frozen=True, slots=True)
class _Guest:
    """A guest's artifact, and the files in it, the archive first."""

    document: Document
    names: tuple[str, ...]


def _guest(release: Release, archive: str) -> _Guest:
    arch = lookup(release.manifests[archive].arch)
    title = archive.removesuffix(SUFFIX)
    names = (archive, *(name for name in release.files if name.startswith(f"{title}.") and name != archive))
    variant = {"variant": arch.oci_variant} if arch.oci_variant else {}
    platform = {"architecture": arch.go, "os": "linux", **variant}
    return _Guest(_listed(document(_manifest(release, names, GUEST, title)), title, release.version, platform), names)


def _rest(release: Release, names: tuple[str, ...]) -> Document:
    """Return the artifact of what is no guest's. It has the platform that BuildKit gives to what is none's."""
    title = f"guestforge release {release.version}"
    made = document(_manifest(release, names, RELEASE, title))
    return _listed(made, title, release.version, {"architecture": "unknown", "os": "unknown"})


def _listed(made: Document, title: str, version: str, platform: Mapping[str, str]) -> Document:
    """Return a manifest with the descriptor that an index has of it."""
    return Document(made.data, {**made.descriptor, "annotations": _annotations(title, version), "platform": platform})


def _index(release: Release, listed: Sequence[Document]) -> Document:
    """Return the index: with the keys, and in the order, in which skopeo writes it again.

    Debian's skopeo of 2022 leaves out `artifactType`, so that a copy of an index with it would have another digest.
    """
    named = {f"{FILE}{name}": digest_of(release.files[name]) for name in release.files if name.startswith(SUMS)}
    annotations = {**_annotations(f"guestforge release {release.version}", release.version), **named}
    return document(
        {
            "schemaVersion": 2,
            "mediaType": INDEX,
            "manifests": [one.descriptor for one in listed],
            "annotations": dict(sorted(annotations.items())),
        }
    )


def _referrer(release: Release, names: tuple[str, ...], subject: Document, kind: str = "") -> Document:
    referred = {key: subject.descriptor[key] for key in ("mediaType", "digest", "size")}
    kind = kind or media_type(names[0])
    made = document({**_manifest(release, names, kind, names[0]), "subject": referred})
    return Document(
        made.data,
        {**made.descriptor, "artifactType": kind, "annotations": _annotations(names[0], release.version)},
        subject.digest,
    )


def _is_text(name: str) -> bool:
    """Whether a file is for people alone, such as the notes."""
    return media_type(name).startswith("text/")


def _manifest(release: Release, names: tuple[str, ...], kind: str, title: str) -> dict[str, Any]:
    return {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "artifactType": kind,
        "config": empty_config(),
        "layers": list(_layers(release, names)),
        "annotations": _annotations(title, release.version),
    }


def _annotations(title: str, version: str) -> dict[str, str]:
    return {TITLE: title, VERSION: version}


def _layers(release: Release, names: tuple[str, ...]) -> Iterator[Descriptor]:
    for name in names:
        facts = release.files[name]
        layer = {"mediaType": media_type(name), "digest": digest_of(facts), "size": facts.size}
        yield {**layer, "annotations": {TITLE: name}}


def _described(data: bytes, kind: str) -> Descriptor:
    return {"mediaType": kind, "digest": f"sha256:{hashlib.sha256(data).hexdigest()}", "size": len(data)}
