"""Where a release comes from: SLSA's provenance as an in-toto statement about all archives and SBOMs.

https://slsa.dev/spec/v1.0/provenance, https://github.com/in-toto/attestation/blob/main/spec/v1/statement.md.
All but the checkout is what the archives' manifests say, so that whoever has them can tell whether the statement is
true to them. docs/releasing.md describes it, as BUILD_TYPE wants.
"""

import base64
import binascii
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from guestforge.manifest import json_text
from guestforge.release.components import Component, bill_of
from guestforge.release.documents import Document, Manifest, Refused, Text, parsed
from guestforge.release.names import SUFFIX

STATEMENT_TYPE: Final = "https://in-toto.io/Statement/v1"
PREDICATE: Final = "https://slsa.dev/provenance/v1"
BUILD_TYPE: Final = "https://guestforge.dev/release/v1"
BUILDER: Final = "https://guestforge.dev/builder"


@dataclass(frozen=True, slots=True)
class Checkout:
    """A folder under git, `name` says which: its commit, None where it is not under git, and whether that was all."""

    name: str
    commit: str | None
    clean: bool | None


class _Folder(Document):
    name: Text
    commit: Text | None
    clean: bool | None


class _Internal(Document):
    checkouts: list[_Folder]


class _Definition(Document):
    internalParameters: _Internal


class _Predicate(Document):
    buildDefinition: _Definition


class _Statement(Document):
    predicate: _Predicate


def statement(manifests: Mapping[str, Manifest], digests: Mapping[str, str], checkouts: tuple[Checkout, ...]) -> bytes:
    """Return the statement about archives and SBOMs with these SHA-256; `manifests` are the archives', by name."""
    return json_text(_statement(manifests, digests, checkouts)).encode()


def _statement(
    manifests: Mapping[str, Manifest], digests: Mapping[str, str], checkouts: tuple[Checkout, ...]
) -> dict[str, Any]:
    first = next(iter(manifests.values()))
    guests = sorted({manifest.guest for manifest in manifests.values()})
    recipes = {manifest.guest: manifest.release.recipe for manifest in manifests.values()}
    return {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": name, "digest": {"sha256": digests[name]}} for name in sorted(digests)],
        "predicateType": PREDICATE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {
                    "version": first.release.version,
                    "guests": guests,
                    "architectures": sorted({manifest.arch for manifest in manifests.values()}),
                    "recipes": recipes,
                },
                "internalParameters": {
                    "steps": {
                        name.removesuffix(SUFFIX): {role: step.key for role, step in manifest.steps.items()}
                        for name, manifest in manifests.items()
                    },
                    "checkouts": [
                        {"name": each.name, "commit": each.commit, "clean": each.clean} for each in checkouts
                    ],
                },
                "resolvedDependencies": [*_commits(checkouts), *_dependencies(manifests, digests)],
            },
            "runDetails": {
                "builder": {"id": BUILDER, "version": {"guestforge": first.guestforge}},
                **_metadata(manifests),
            },
        },
    }


def _metadata(manifests: Mapping[str, Manifest]) -> dict[str, Any]:
    """Return when the first guest was begun, and the last one proven; nothing where that is not known of one."""
    built = [manifest.release.built for manifest in manifests.values()]
    known = [each for each in built if each]
    if len(known) < len(built):
        return {}
    started, finished = min(each.started for each in known), max(each.finished for each in known)
    return {"metadata": {"startedOn": started, "finishedOn": finished}}


def _commits(checkouts: tuple[Checkout, ...]) -> Iterator[dict[str, Any]]:
    for each in checkouts:
        if each.commit:
            found = {"name": each.name, "digest": {"gitCommit": each.commit}}
            yield {**found, "annotations": {"clean": each.clean}}


def _dependencies(manifests: Mapping[str, Manifest], digests: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return the packages and modules of all archives, each once."""
    found = {}
    for name, manifest in manifests.items():
        for component in bill_of(manifest, digests[name]).components:
            digest = _digest(component)
            if component.purl and digest:
                found[component.purl] = {"uri": component.purl, "digest": digest}
    return [found[purl] for purl in sorted(found)]


def _digest(component: Component) -> dict[str, str] | None:
    """Return in-toto's digest of what was fetched: https://github.com/in-toto/attestation/blob/main/spec/v1/digest_set.md"""
    if component.sha256:
        return {"sha256": component.sha256}
    algorithm, _, value = dict(component.facts).get("go-sum", "").partition(":")
    try:
        return {"dirHash": base64.b64decode(value, validate=True).hex()} if algorithm == "h1" else None
    except binascii.Error:
        return None


def require_true(data: bytes, manifests: Mapping[str, Manifest], digests: Mapping[str, str]) -> None:
    """Raise Refused unless a statement is about exactly these files, and what their manifests say.

    `digests` are the SHA-256 of the archives and SBOMs, `manifests` those of the archives, each by the file's name.
    """
    said = parsed(_Statement, data, "it").predicate.buildDefinition.internalParameters
    checkouts = tuple(Checkout(each.name, each.commit, each.clean) for each in said.checkouts)
    wanted = _statement(manifests, digests, checkouts)
    found = json.loads(data)
    for place, one, other in _differences(found, wanted):
        raise Refused(f"{place} is {_shown(one)}, and by the archives {_shown(other)}")
    if json_text(wanted).encode() != data:
        raise Refused("its text is not as we write it")


def _differences(found: object, wanted: object, place: str = "") -> Iterator[tuple[str, object, object]]:
    """Yield where two JSON values differ, and how."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        for key in sorted(found.keys() | wanted.keys()):
            where = f"{place}.{ascii(key)[1:-1][:100]}" if place else ascii(key)[1:-1][:100]
            yield from _differences(found.get(key), wanted.get(key), where)
    elif found != wanted or type(found) is not type(wanted):
        yield place, found, wanted


def _shown(value: object) -> str:
    return ascii(json.dumps(value))[1:-1][:200] if value is not None else "missing"
