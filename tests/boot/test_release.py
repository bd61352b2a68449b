"""A release of what was really built and booted: made twice, signed, verified, and changed anywhere."""

import json
import random
import subprocess
import tarfile

import pytest
from command import invoke
from conftest import BOOT, arches
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from oci_registry import registry, skopeo
from spdx_tools.spdx.parser.parse_anything import parse_file
from spdx_tools.spdx.validation.document_validator import validate_full_spdx_document

from guestforge.arch import X86_64
from guestforge.cli import release as cli
from guestforge.core.progress import Bar
from guestforge.project.options import CheckOptions, KeygenOptions, ReleaseOptions, VerifyOptions
from guestforge.release.errors import UnverifiedError
from guestforge.release.names import ENVELOPE, MINISIG, NOTES, ROOTS, SBOMS, SIGNATURE, SUMS, stem
from guestforge.rootfs.gomodules import go_program
from guestforge.testing.oci_images import busybox, make_layout, member

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


@pytest.fixture(scope="module")
def fetched(place, tmp_path_factory):
    """All architectures released, published, listed and copied by skopeo, and fetched into an empty place."""
    published, copied, key = make(place, "published", arches()), tmp_path_factory.mktemp("copied"), place / "key.pub"
    with registry(tmp_path_factory.mktemp("registry") / "registry") as port:
        address = f"127.0.0.1:{port}/guests/minimal"
        invoke("publish", str(published), "--to", f"oci://{address}:1.0.0", "--public-key", str(key)).assert_told(0)
        assert "1.0.0" in json.loads(skopeo("list-tags", "--tls-verify=false", f"docker://{address}"))["Tags"]
        both = ("--src-tls-verify=false", "--dest-tls-verify=false")
        mirror = f"docker://127.0.0.1:{port}/mirror:1.0.0"
        skopeo("copy", "--all", "--preserve-digests", *both, f"docker://{address}:1.0.0", mirror)
        words = (f"oci://127.0.0.1:{port}/mirror:1.0.0", "--public-key", str(key), "--output", str(copied))
        invoke("fetch", *words).assert_told(0, *(f"minimal for {arch.name}" for arch in arches()))
    for arch in arches():
        released = json.loads((copied / arch.name / "minimal" / "manifest.json").read_text())
        assert released["release"]["version"] == "1.0.0"
    return copied


@pytest.mark.boot
@pytest.mark.timeout(900)
def test_what_was_fetched_is_booted_and_checked(fetched, arch_row, request):
    folder = fetched / arch_row.name / "minimal"
    artifacts = json.loads((folder / "manifest.json").read_text())["artifacts"]
    for path in folder.glob("check/*/*"):
        path.unlink()  # what the maintainer saw
    ended = invoke("check", "--arch", arch_row.name, "--guest", "minimal", "--output", str(fetched))
    ended.assert_told(0, "release 1.0.0, which is booted as it was fetched")
    assert len(ended.boots) == len(ROOTS)
    request.node.user_properties.extend((BOOT, f"{line} (fetched from a registry)") for line in ended.boots)
    for artifact, root in ROOTS.items():
        report = json.loads((folder / "check" / artifact / "report.json").read_text())
        assert report["verdict"] == "pass"
        assert report["digests"] == {name: artifacts[name]["sha256"] for name in ("kernel", root)}
        # and it was these files that QEMU was given, and not those of the build on this machine
        assert [word for word in report["qemu"]["argv"] if word.endswith("/kernel") and "/store/fetched/" in word]


@pytest.mark.boot
@pytest.mark.timeout(900)
def test_a_container_runs_in_what_was_fetched(fetched, tmp_path):
    links = [member("/bin/sh", tarfile.SYMTYPE, linkname="busybox")]
    image = make_layout(tmp_path / "image", {"/bin/busybox": busybox(X86_64)}, X86_64, layers=[links])
    words = ("--arch", "x86_64", "--guest", "minimal", "--output", str(fetched), "--oci", str(image))
    invoke("run", *words, "--", "/bin/sh", "-c", "echo runs in $((6*7))").assert_told(0, "runs in 42")
