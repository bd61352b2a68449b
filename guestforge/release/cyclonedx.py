"""An SBOM in CycloneDX 1.6: https://cyclonedx.org/docs/1.6/json/"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Final, Literal
from uuid import UUID

from cyclonedx.model import HashAlgorithm, HashType, Property
from cyclonedx.model.bom import Bom, BomMetaData
from cyclonedx.model.component import Component as Listed
from cyclonedx.model.component import ComponentScope, ComponentType, Pedigree
from cyclonedx.model.license import LicenseExpression
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL
from pydantic import Field

from guestforge.release.components import Bill, Component, Kind
from guestforge.release.documents import Document, Found, Identity, Refused, Text, parsed

TYPES: Final[Mapping[Kind, ComponentType]] = {
    "archive": ComponentType.FILE,
    "system": ComponentType.OPERATING_SYSTEM,
    "file": ComponentType.FILE,
    "program": ComponentType.APPLICATION,
    "library": ComponentType.LIBRARY,
    "source": ComponentType.OPERATING_SYSTEM,
    "tool": ComponentType.APPLICATION,
}


def cyclonedx_text(bill: Bill, number: UUID, epoch: int) -> bytes:
    """Return the document; `number` names it, and `epoch` is its time, in seconds since 1970."""
    listed = {component.ref: _listed(component) for component in bill.components}
    archive, *others = bill.components
    metadata = BomMetaData(component=listed[archive.ref], timestamp=datetime.fromtimestamp(epoch, UTC))
    bom = Bom(components=[listed[component.ref] for component in others], serial_number=number, metadata=metadata)
    for one in bill.components:
        bom.register_dependency(listed[one.ref], [listed[link.other] for link in bill.relations if link.one == one.ref])
    return JsonV1Dot6(bom).output_as_string(indent=2).encode() + b"\n"


def _listed(component: Component) -> Listed:
    facts = {"role": component.kind, **dict(component.facts)}
    return Listed(
        name=component.name,
        version=component.version,
        type=TYPES[component.kind],
        bom_ref=component.ref,
        # what made a guest is not in it
        scope=ComponentScope.EXCLUDED if component.kind in ("tool", "source") else ComponentScope.REQUIRED,
        description=component.comment or None,
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=component.sha256)] if component.sha256 else (),
        licenses=[LicenseExpression(component.licence)] if component.licence else (),
        purl=PackageURL.from_string(component.purl) if component.purl else None,
        pedigree=Pedigree(notes=component.comment) if component.kind == "source" else None,
        properties=[Property(name=f"guestforge:{name}", value=value) for name, value in facts.items()],
    )


# Reading


class _Hash(Document):
    alg: str
    content: str


class _Licence(Document):
    expression: Text


class _Component(Document):
    ref: Text = Field(alias="bom-ref")
    name: Text
    version: Text | None = None
    hashes: tuple[_Hash, ...] = ()
    licenses: tuple[_Licence, ...] = ()
    purl: Text | None = None

    @property
    def identity(self) -> Identity:
        sha256 = next((each.content for each in self.hashes if each.alg == "SHA-256"), None)
        licence = " AND ".join(each.expression for each in self.licenses) or None
        return self.name, self.version, sha256, licence, self.purl


class _Metadata(Document):
    component: _Component


class _Dependency(Document):
    ref: Text
    on: tuple[Text, ...] = Field(default=(), alias="dependsOn")


class _Bom(Document):
    format: Literal["CycloneDX"] = Field(alias="bomFormat")
    schema_: Literal["1.6"] = Field(alias="specVersion")
    metadata: _Metadata
    components: Annotated[list[_Component], Field(max_length=10_000)]
    dependencies: Annotated[list[_Dependency], Field(max_length=10_000)]


def read_cyclonedx(data: bytes) -> Found:
    """Return what a document says of an archive and its components; raises Refused."""
    bom = parsed(_Bom, data, "it")
    listed = [bom.metadata.component, *bom.components]
    named = {component.ref: component.identity for component in listed}
    if len(named) != len(listed):
        raise Refused("two of its components have the same bom-ref")
    links = [(one.ref, other) for one in bom.dependencies for other in one.on]
    if unknown := sorted({ref for link in links for ref in link} - named.keys()):
        raise Refused(f"it has no component {unknown[0][:100]!a}")
    return Found(
        bom.metadata.component.identity,
        frozenset(named.values()),
        frozenset((named[one], named[other]) for one, other in links),
    )
