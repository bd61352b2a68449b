"""What may be installed: what has passed its checks, as it was when it did; and what a person is told."""

import json
from pathlib import Path

import pytest
from installs import DATA, change, found_by_kata, guest_of, release_in, tree_of
from releases import ARCH, GUEST, VERSION

from guestforge.arch import S390X, X86_64, lookup_list
from guestforge.cli import install as cli
from guestforge.core.errors import UserError
from guestforge.install.guests import UNRELEASED
from guestforge.install.layout import install
from guestforge.install.places import RUNTIMES, Place
from guestforge.manifest import MANIFEST
from guestforge.project.option import read
from guestforge.project.options import CheckOptions, InstallOptions
from guestforge.release.names import CHECK_FILES, members
from tests.unit.test_release_proven import build
from tests.unit.test_release_proven import guest as pipelines  # noqa: F401 - a fixture

CHECKS = CheckOptions()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GUESTFORGE_CACHE", str(tmp_path / "cache"))


def asked(tmp_path, **options):
    there = {"arches": (X86_64,), "output": tmp_path / "out", "prefix": tmp_path / "prefix"}
    return InstallOptions(**{**there, **options})


def folder(tmp_path):
    return tmp_path / "out" / ARCH / GUEST


# a release that was fetched


def test_a_release_is_installed_as_it_was_fetched(tmp_path, capsys):
    release_in(tmp_path / "out")
    cli.install(asked(tmp_path, kata=True), CHECKS)
    said = capsys.readouterr().err
    assert f"minimal for x86_64, version {VERSION}" in said
    for runtime in RUNTIMES:
        assert f"{tmp_path / 'prefix' / runtime.configuration} is not there" in said
    (found,) = set(found_by_kata(tmp_path / "prefix").values())
    for name in members():
        installed = tmp_path / "prefix" / DATA / "guestforge" / found / name
        assert installed.read_bytes() == (folder(tmp_path) / name).read_bytes()
    for runtime in RUNTIMES:
        (tmp_path / "prefix" / runtime.configuration).write_text("")
    cli.install(asked(tmp_path, kata=True), CHECKS)
    said = capsys.readouterr().err
    assert "as it was" in said
    assert "is not there" not in said


@pytest.mark.parametrize("name", [name for name in members() if name != MANIFEST])
@pytest.mark.parametrize(
    "how",
    [lambda path: path.write_bytes(path.read_bytes()[:-1] + b"x"), lambda path: path.write_bytes(b""), Path.unlink,
     lambda path: (path.rename(path.with_name("elsewhere")), path.symlink_to("elsewhere"))],
    ids=["changed", "cut", "gone", "a link"],
)  # fmt: skip
def test_a_release_that_was_tampered_with_is_not_installed(tmp_path, name, how):
    prefix = tmp_path / "prefix"
    install(guest_of(release_in(tmp_path / "before", **{"System.map": b"before"})), Place(prefix), "image")
    before = tree_of(prefix)
    release_in(tmp_path / "out")
    how(folder(tmp_path) / name)
    with pytest.raises(UserError) as caught:
        cli.install(asked(tmp_path, kata=True), CHECKS)
    assert name in caught.value.report()
    assert "fetch" in caught.value.report()
    assert tree_of(prefix) == before


@pytest.mark.parametrize("name", [name for name in CHECK_FILES if name.endswith("report.json")])
@pytest.mark.parametrize(
    ("how", "message"),
    [
        (lambda said: said.update(verdict="fail"), "not passed"),
        (lambda said: said["checks"][0].update(status="skip"), "not passed: 'kernel-up'"),
        (lambda said: said["digests"].update(kernel="0" * 64), "about other files"),
    ],
)
def test_a_guest_that_has_not_passed_is_not_installed(tmp_path, name, how, message):
    release_in(tmp_path / "out")
    change(folder(tmp_path) / name, how)
    with pytest.raises(UserError, match=message):
        cli.install(asked(tmp_path), CHECKS)
    assert not (tmp_path / "prefix").exists()


def test_a_manifest_of_another_guest_is_refused(tmp_path):
    release_in(tmp_path / "out")
    change(folder(tmp_path) / MANIFEST, lambda said: said.update(guest="other"))
    with pytest.raises(UserError, match="that of other for x86_64"):
        cli.install(asked(tmp_path), CHECKS)


def test_an_agent_beside_a_release_is_refused(tmp_path):
    release_in(tmp_path / "out")
    with pytest.raises(UserError, match="--agent"):
        cli.install(asked(tmp_path, agent=tmp_path), CHECKS)


# what was built


@pytest.fixture
def pipeline(pipelines, monkeypatch):  # noqa: F811 - pytest's way
    one = pipelines()
    monkeypatch.setattr("guestforge.install.guests.Pipeline", lambda *_: one)
    return one


def test_what_was_built_and_has_passed_is_installed(tmp_path, pipeline, capsys):
    build(pipeline)
    cli.install(asked(tmp_path), CHECKS)
    assert f"version {UNRELEASED}" in capsys.readouterr().err
    (found,) = found_by_kata(tmp_path / "prefix").values()
    directory = tmp_path / "prefix" / DATA / "guestforge" / found
    assert (directory / "kernel").read_bytes() == pipeline.kernel.file("kernel").read_bytes()
    assert json.loads((directory / MANIFEST).read_text())["artifacts"].keys() >= {"kernel", "initrd.img", "rootfs.img"}


def test_what_was_not_built_is_not_installed_and_the_command_for_it_is_told(tmp_path, pipeline):
    assert pipeline.arch is X86_64
    with pytest.raises(UserError, match="minimal for x86_64 was not built, or has not passed") as caught:
        cli.install(asked(tmp_path), CheckOptions(accel="tcg"))
    assert "kernel is not built" in caught.value.report()
    assert "hint: ./invoke build --arch x86_64 --guest minimal --accel tcg" in caught.value.report()
    assert not (tmp_path / "prefix").exists()


def test_what_was_built_and_not_checked_is_not_installed(tmp_path, pipeline):
    for step in pipeline.steps.published:
        pipeline.entry(step)
    with pytest.raises(UserError) as caught:
        cli.install(asked(tmp_path), CHECKS)
    assert "check image has not passed" in caught.value.report()


def test_a_file_of_the_store_that_was_changed_is_not_installed(tmp_path, pipeline):
    build(pipeline)
    path = pipeline.kernel.path / "kernel"
    path.chmod(0o644)
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(UserError, match="kernel is not what it was"):
        cli.install(asked(tmp_path), CHECKS)
    assert found_by_kata(tmp_path / "prefix") == {}


# what was asked for


def test_several_architectures_are_refused(tmp_path):
    with pytest.raises(UserError, match="--arch x86_64,s390x: a prefix is that of one architecture") as caught:
        cli.install(asked(tmp_path, arches=(X86_64, S390X)), CHECKS)
    assert "--destdir" in caught.value.report()
    assert lookup_list("x86_64,s390x") == (X86_64, S390X)


def test_what_was_installed_is_taken_away(tmp_path, capsys):
    release_in(tmp_path / "out")
    cli.install(asked(tmp_path), CHECKS)
    cli.install(asked(tmp_path, remove=True), CHECKS)
    assert f"{tmp_path / 'prefix' / DATA / 'guestforge'}: removed" in capsys.readouterr().err
    cli.install(asked(tmp_path, remove=True), CHECKS)
    assert f"{tmp_path / 'prefix'} has no guest of ours" in capsys.readouterr().err


def test_a_prefix_is_asked_for_and_made_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = read(InstallOptions, {"prefix": "some/where", "destdir": "", "artifact": "initrd"})
    assert (found.prefix, found.destdir, found.artifact) == (tmp_path / "some" / "where", None, "initrd")
    with pytest.raises(UserError, match="--prefix is missing") as caught:
        read(InstallOptions, {})
    assert "/opt/kata" in caught.value.report()


@pytest.mark.parametrize("text", ["", "a\nb", "a\x7f", "\udcff"])
def test_a_prefix_that_no_configuration_can_name_is_refused(text):
    with pytest.raises(UserError, match=r"--prefix .* no configuration file can name that"):
        read(InstallOptions, {"prefix": text})
