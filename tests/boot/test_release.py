"""A release of what was really built and booted: made twice, signed, verified, and changed anywhere."""

import json
import random
import subprocess

import pytest
from conftest import arches
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from spdx_tools.spdx.parser.parse_anything import parse_file
from spdx_tools.spdx.validation.document_validator import validate_full_spdx_document

from guestforge.cli import release as cli
from guestforge.core.progress import Bar
from guestforge.project.options import CheckOptions, KeygenOptions, ReleaseOptions, VerifyOptions
from guestforge.release.errors import UnverifiedError
from guestforge.release.names import ENVELOPE, MINISIG, NOTES, SBOMS, SIGNATURE, SUMS, stem
from guestforge.rootfs.gomodules import go_program

CHANGES = 200


@pytest.fixture(scope="module")
def place(tmp_path_factory, pipeline):
    """A signed release of all architectures, and where its keys are."""
    folder = tmp_path_factory.mktemp("release")
    for arch in arches():
        one = pipeline(arch.name)
        for artifact in ("initrd", "image"):
            one.entry(one.check_step(artifact, CheckOptions()))  # made where `builds` has not made it
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GUESTFORGE_RELEASE_KEY_PASSWORD", "")
        cli.keygen(KeygenOptions(folder / "key"))
    return folder


def make(place, name, made):
    options = ReleaseOptions(arches=made, version="1.0.0", output=place / name, key=place / "key")
    cli.release(options, CheckOptions())
    return place / name


def verify(made, place):
    cli.verify(VerifyOptions(made, place / "key.pub"))


@pytest.mark.boot
@pytest.mark.timeout(900)
def test_a_release_of_all_architectures(place, capsys):
    one, two = make(place, "one", arches()), make(place, "two", arches())
    files = {path.name: path.read_bytes() for path in one.iterdir()}
    assert files == {path.name: path.read_bytes() for path in two.iterdir()}
    assert len(files) == 3 * len(arches()) + 5  # archive and SBOMs of each; notes, sums, provenance, two signatures
    subprocess.run(["sha256sum", "--quiet", "--strict", "-c", SUMS], cwd=one, check=True)
    for signed in (SUMS, ENVELOPE):
        argv = ["minisign", "-V", "-p", place / "key.pub", "-m", one / signed, "-x", one / f"{signed}{MINISIG}"]
        subprocess.run(argv, check=True)
    verify(one, place)
    said = capsys.readouterr().out
    assert all(f"minimal for {arch.name}, 12 files, all checks passed" in said for arch in arches())
    assert "not checked: its signature" not in said
    for arch in arches():
        assert f"| minimal | {arch.name} | image | " in (one / NOTES).read_text()


@pytest.mark.boot
@pytest.mark.timeout(900)
def test_sboms_of_all_architectures_have_all_that_the_agent_says_of_itself(place, pipeline):
    made = make(place, "boms", arches())
    for arch in arches():
        cyclonedx, spdx = (made / f"{stem('minimal', '1.0.0', arch.name)}{suffix}" for suffix in SBOMS)
        assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(cyclonedx.read_text()) is None
        assert validate_full_spdx_document(parse_file(str(spdx))) == []
        agent = pipeline(arch.name).agent.file("agent")
        done = subprocess.run([go_program(), "version", "-m", agent], capture_output=True, text=True, check=True)
        modules = {tuple(line.split()[1:]) for line in done.stdout.splitlines() if line.split()[:1] == ["dep"]}
        components = json.loads(cyclonedx.read_text())["components"]
        listed = [row for row in components if row["bom-ref"].startswith("module:")]
        assert len(listed) > 10
        assert {(row["name"], row["version"], *sums(row)) for row in listed} == modules
        assert [row["name"] for row in listed if not row.get("licenses")] == []


def sums(row):
    return [each["value"] for each in row["properties"] if each["name"] == "guestforge:go-sum"]


@pytest.mark.boot
@pytest.mark.timeout(900)
def test_a_flipped_bit_anywhere_is_seen_and_its_file_named(place, monkeypatch):
    monkeypatch.setattr(Bar, "tell", lambda *_, **__: None)
    made = make(place, "changed", arches()[:1])
    paths = sorted(made.iterdir())
    for number in range(CHANGES):
        path = paths[number % len(paths)]  # small files as often as large ones
        at, bit = random.randrange(path.stat().st_size), random.randrange(8)
        with path.open("r+b") as file:
            file.seek(at)
            byte = file.read(1)[0]
            file.seek(at)
            file.write(bytes([byte ^ 1 << bit]))
            file.flush()
            with pytest.raises(UnverifiedError) as caught:
                verify(made, place)
            # a change of what is signed shows in the signature
            assert (SIGNATURE if path.name == SUMS else path.name) in caught.value.report(), (path, at, bit)
            file.seek(at)
            file.write(bytes([byte]))
    verify(made, place)
