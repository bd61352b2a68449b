"""A release of what was really built and booted: made twice, signed, verified, and changed anywhere."""

import random
import subprocess

import pytest
from conftest import arches

from guestforge.cli import release as cli
from guestforge.core.progress import Bar
from guestforge.project.options import CheckOptions, KeygenOptions, ReleaseOptions, VerifyOptions
from guestforge.release.errors import UnverifiedError
from guestforge.release.names import SIGNATURE, SUMS

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
    assert len(files) == len(arches()) + 2
    subprocess.run(["sha256sum", "--quiet", "--strict", "-c", SUMS], cwd=one, check=True)
    subprocess.run(["minisign", "-V", "-p", place / "key.pub", "-m", one / SUMS, "-x", one / SIGNATURE], check=True)
    verify(one, place)
    said = capsys.readouterr().out
    assert all(f"minimal for {arch.name}, 12 files, all checks passed" in said for arch in arches())
    assert "not checked: its signature" not in said


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
