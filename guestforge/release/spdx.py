"""An SBOM in SPDX 2.3: https://spdx.github.io/spdx-spec/v2.3/"""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal
from uuid import UUID

from pydantic import Field

from guestforge.manifest import json_text
from guestforge.release.components import Bill, Component, Kind, Link, Relation
from guestforge.release.documents import Document, Found, Identity, Refused, Text, parsed

DOCUMENT: Final = "SPDXRef-DOCUMENT"
UNKNOWN: Final = "NOASSERTION"
PURPOSES: Final[Mapping[Kind, str]] = {
    "archive": "ARCHIVE",
    "system": "OPERATING-SYSTEM",
    "file": "FILE",
    "program": "APPLICATION",
    "library": "LIBRARY",
    "source": "SOURCE",
    "tool": "APPLICATION",
}
# What a link is called, and whether it is said of the other one, as SPDX has some of them the other way round.
LINKS: Final[Mapping[Link, tuple[str, bool]]] = {
    "contains": ("CONTAINS", False),
    "made from": ("GENERATED_FROM", False),
    "linked with": ("STATIC_LINK", False),
    "built by": ("BUILD_TOOL_OF", True),
}
BACKWARDS: Final = frozenset(name for name, back in LINKS.values() if back)


def spdx_text(bill: Bill, number: UUID, epoch: int) -> bytes:
    """Return the document; `number` names it, and `epoch` is its time, in seconds since 1970."""
    ids = {component.ref: f"SPDXRef-{place}" for place, component in enumerate(bill.components)}
    created = datetime.fromtimestamp(epoch, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    document = {
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": DOCUMENT,
        "name": bill.name,
        "documentNamespace": number.urn,
        "creationInfo": {"created": created, "creators": [f"Tool: guestforge-{bill.guestforge}"]},
        "packages": [_package(component, ids[component.ref]) for component in bill.components],
        "relationships": list(_relationships(bill, ids)),
    }
    return json_text(document).encode()


def _package(component: Component, name: str) -> dict[str, Any]:
    facts = [component.comment, *(f"{fact}: {value}" for fact, value in component.facts)]
    found: dict[str, Any] = {
        "SPDXID": name,
        "name": component.name,
        "versionInfo": component.version,
        "downloadLocation": UNKNOWN,
        "filesAnalyzed": False,
        "licenseConcluded": component.licence or UNKNOWN,
        "licenseDeclared": component.licence or UNKNOWN,
        "copyrightText": UNKNOWN,
        "primaryPackagePurpose": PURPOSES[component.kind],
        "comment": "\n".join(filter(None, facts)) or None,
    }
    if component.sha256:
        found["checksums"] = [{"algorithm": "SHA256", "checksumValue": component.sha256}]
    if component.purl:
        purl = {"referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl", "referenceLocator": component.purl}
        found["externalRefs"] = [purl]
    return {key: value for key, value in found.items() if value is not None}


def _relationships(bill: Bill, ids: Mapping[str, str]) -> Iterator[dict[str, str]]:
    yield _relationship(DOCUMENT, "DESCRIBES", ids[bill.components[0].ref])
    for relation in bill.relations:
        yield _related(relation, ids)


def _related(relation: Relation, ids: Mapping[str, str]) -> dict[str, str]:
    name, back = LINKS[relation.link]
    one, other = ids[relation.one], ids[relation.other]
    return _relationship(*((other, name, one) if back else (one, name, other)))


def _relationship(one: str, name: str, other: str) -> dict[str, str]:
    return {"spdxElementId": one, "relationshipType": name, "relatedSpdxElement": other}


# Reading


class _Checksum(Document):
    algorithm: str
    value: str = Field(alias="checksumValue")


class _Reference(Document):
    kind: str = Field(alias="referenceType")
    locator: Text = Field(alias="referenceLocator")


class _Package(Document):
    ref: Text = Field(alias="SPDXID")
    name: Text
    version: Text | None = Field(default=None, alias="versionInfo")
    licence: Text = Field(alias="licenseDeclared")
    checksums: tuple[_Checksum, ...] = ()
    references: tuple[_Reference, ...] = Field(default=(), alias="externalRefs")

    @property
    def identity(self) -> Identity:
        sha256 = next((each.value for each in self.checksums if each.algorithm == "SHA256"), None)
        purl = next((each.locator for each in self.references if each.kind == "purl"), None)
        return self.name, self.version, sha256, None if self.licence == UNKNOWN else self.licence, purl


class _Relationship(Document):
    one: Text = Field(alias="spdxElementId")
    name: str = Field(alias="relationshipType")
    other: Text = Field(alias="relatedSpdxElement")


class _Spdx(Document):
    schema_: Literal["SPDX-2.3"] = Field(alias="spdxVersion")
    packages: Annotated[list[_Package], Field(max_length=10_000)]
    relationships: Annotated[list[_Relationship], Field(max_length=40_000)]


def read_spdx(data: bytes) -> Found:
    """Return what a document says of an archive and its components; raises Refused."""
    document = parsed(_Spdx, data, "it")
    named = {package.ref: package.identity for package in document.packages}
    if len(named) != len(document.packages):
        raise Refused("two of its packages have the same SPDXID")
    described = [link.other for link in document.relationships if (link.one, link.name) == (DOCUMENT, "DESCRIBES")]
    links = [
        (link.other, link.one) if link.name in BACKWARDS else (link.one, link.other)
        for link in document.relationships
        if link.one != DOCUMENT
    ]
    if unknown := sorted({ref for link in (described, *links) for ref in link} - named.keys()):
        raise Refused(f"it has no package {unknown[0][:100]!a}")
    if len(described) != 1:
        raise Refused(f"it describes {len(described)} packages, and should one")
    return Found(
        named[described[0]],
        frozenset(named.values()),
        frozenset((named[one], named[other]) for one, other in links),
    )
