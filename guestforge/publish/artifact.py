"""A release as manifests of an OCI registry: pure data, the same bytes for the same release.

https://github.com/opencontainers/image-spec/blob/v1.1.1/manifest.md, and ORAS's way with files: a layer each, called by
its annotation `org.opencontainers.image.title`.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from guestforge.arch import lookup
from guestforge.core.store import FileFacts
from guestforge.publish.place import Release
from guestforge.release.names import SUFFIX, SUMS

MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
INDEX: Final = "application/vnd.oci.image.index.v1+json"
RELEASE: Final = "application/vnd.guestforge.release.v1"  # what our index is
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
    ".intoto.json": "application/vnd.dsse.envelope.v1+json",
    ".intoto.jsonl": "application/vnd.dsse.envelope.v1+json",
    ".dsse.json": "application/vnd.dsse.envelope.v1+json",
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

    @property
    def digest(self) -> str:
        """Its digest, as registries write it."""
        return str(self.descriptor["digest"])


@dataclass(frozen=True, slots=True)
class Artifacts:
    """All manifests of a release, in the order in which they are sent: guests, index, referrers."""

    guests: tuple[Document, ...]
    index: Document
    referrers: tuple[Document, ...]


def media_type(name: str) -> str:
    """Return the media type of a release's file."""
    return next((kind for end, kind in TYPES.items() if name.endswith(end)), OCTETS)


def artifacts(release: Release) -> Artifacts:
    """Return what a registry holds of a release.

    An archive is the layer of its guest's artifact, and what is called like it (its SBOMs) refers to that; all the rest
    refers to the index.
    """
    guests = {name: _guest(release, name) for name in sorted(release.manifests)}
    index = _index(release, guests)
    referrers: list[Document] = []
    checksums, taken = [name for name in release.files if name.startswith(SUMS)], set(guests)
    for archive, guest in guests.items():
        owned = [name for name in release.files if name.startswith(archive.removesuffix(SUFFIX) + ".")]
        referrers += [_referrer(release, (name,), media_type(name), guest) for name in owned if name not in taken]
        taken.update(owned)
    taken.update(checksums)
    referrers += [_referrer(release, (name,), media_type(name), index) for name in release.files if name not in taken]
    referrers.append(_referrer(release, tuple(checksums), CHECKSUMS, index))
    return Artifacts(tuple(guests.values()), index, tuple(referrers))


def digest_of(facts: FileFacts) -> str:
    """Return a file's digest as registries write it."""
    return f"sha256:{facts.sha256}"


def empty_config() -> Descriptor:
    """Return the descriptor of a configuration that says nothing."""
    return _described(EMPTY, EMPTY_TYPE)


def document(value: Mapping[str, Any]) -> Document:
    """Return a manifest or an index as it is sent; its descriptor repeats its artifact type and annotations."""
    data = json.dumps(value, separators=(",", ":"), sort_keys=True).encode()
    repeated = {key: value[key] for key in ("artifactType", "annotations") if key in value}
    return Document(data, {**_described(data, value["mediaType"]), **repeated})


def _guest(release: Release, name: str) -> Document:
    manifest = release.manifests[name]
    arch = lookup(manifest.arch)
    platform = {"architecture": arch.go, "os": "linux", **({"variant": arch.oci_variant} if arch.oci_variant else {})}
    made = document(_manifest(release, (name,), GUEST, name.removesuffix(SUFFIX)))
    return Document(made.data, {**made.descriptor, "platform": platform})


def _index(release: Release, guests: Mapping[str, Document]) -> Document:
    named = {f"{FILE}{name}": digest_of(release.files[name]) for name in release.files if name.startswith(SUMS)}
    return document(
        {
            "schemaVersion": 2,
            "mediaType": INDEX,
            "artifactType": RELEASE,
            "manifests": [guest.descriptor for guest in guests.values()],
            "annotations": {TITLE: f"guestforge release {release.version}", VERSION: release.version, **named},
        }
    )


def _referrer(release: Release, names: tuple[str, ...], kind: str, subject: Document) -> Document:
    referred = {key: subject.descriptor[key] for key in ("mediaType", "digest", "size")}
    return document({**_manifest(release, names, kind, names[0]), "subject": referred})


def _manifest(release: Release, names: tuple[str, ...], kind: str, title: str) -> dict[str, Any]:
    return {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "artifactType": kind,
        "config": empty_config(),
        "layers": list(_layers(release, names)),
        "annotations": {TITLE: title, VERSION: release.version},
    }


def _layers(release: Release, names: tuple[str, ...]) -> Iterator[Descriptor]:
    for name in names:
        facts = release.files[name]
        layer = {"mediaType": media_type(name), "digest": digest_of(facts), "size": facts.size}
        yield {**layer, "annotations": {TITLE: name}}


def _described(data: bytes, kind: str) -> Descriptor:
    return {"mediaType": kind, "digest": f"sha256:{hashlib.sha256(data).hexdigest()}", "size": len(data)}
