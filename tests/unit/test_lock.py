"""guestforge.lock: read strictly, written by `./invoke lock`, and taken by every build of the project."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guestforge.arch import PROVEN
from guestforge.cli import lock as locking
from guestforge.core.errors import UserError
from guestforge.core.graph import Evaluation
from guestforge.core.runtime import HOST
from guestforge.core.store import Store
from guestforge.pipeline import Pipeline
from guestforge.project.folder import FILE, open_project
from guestforge.project.lock import LIMIT, LOCK, Lock, Locked, lock_of, read_lock
from guestforge.project.options import BuildOptions, LockOptions
from guestforge.sources.aptroot import Resolved

GUEST = 'description = "mine"\nkernel = "default"\nrootfs = "{}"\n'
FACTS = {
    "suite": "trixie", "package": "hello", "architecture": "arm64", "version": "1:2.0", "sha256": "a" * 64, "size": 7,
}  # fmt: skip


@pytest.fixture
def project(tmp_path):
    """Two guests: one of our rootfs without packages, one of ours with busybox."""
    (tmp_path / "mine" / "recipes" / "guests").mkdir(parents=True)
    (tmp_path / "mine" / FILE).write_text('guest = "small"\n')
    for name, rootfs in {"small": "minimal", "large": "debug"}.items():
        (tmp_path / "mine" / "recipes" / "guests" / f"{name}.toml").write_text(GUEST.format(rootfs))
    return open_project(tmp_path / "mine", "a test")


@pytest.fixture
def mirror(monkeypatch, tmp_path):
    """A mirror that has each package in one version, which the test may raise; what it was asked for."""
    monkeypatch.setenv("GUESTFORGE_CACHE", str(tmp_path / "cache"))
    asked, version = [], ["1.0"]

    def ask(_archive, wanted, _runtime):
        asked.append((wanted.package, wanted.architecture))
        architecture = "all" if wanted.package.startswith("linux") else wanted.architecture
        return Resolved(wanted.package, version[0], architecture, "b" * 64, 5)

    monkeypatch.setattr(locking, "ask", ask)
    monkeypatch.setattr(locking, "ensure", lambda _: None)
    return asked, version


def versions(project):
    return {(each.package, each.architecture): each.version for each in project.lock.packages}


def test_without_a_lock_file_there_is_none(project):
    assert project.lock is None


def test_all_that_all_guests_are_made_of_is_locked_once(project, mirror):
    locking.lock(LockOptions(project=project))
    busyboxes = {("busybox-static", arch.debian) for arch in PROVEN}
    assert versions(project).keys() == {("linux-source-6.12", "all"), *busyboxes}
    assert len(mirror[0]) == len(PROVEN) + 1
    before = (project.root / LOCK).read_bytes()
    locking.lock(LockOptions(project=project))
    assert (project.root / LOCK).read_bytes() == before


def test_what_was_not_asked_for_stays_as_it_was(project, mirror):
    locking.lock(LockOptions(project=project))
    mirror[1][0] = "2.0"
    locking.lock(LockOptions(project=project, guests=("large",), arches=(PROVEN[0],)))
    found = versions(project)
    new = {name for name, version in found.items() if version == "2.0"}
    assert new == {("linux-source-6.12", "all"), ("busybox-static", PROVEN[0].debian)}
    assert len(found) == len(PROVEN) + 1


@pytest.mark.usefixtures("mirror")
def test_of_a_project_without_guests_its_default_one_is_locked(tmp_path):
    (tmp_path / FILE).write_text('guest = "debug"\n')
    bare = open_project(tmp_path, "a test")
    locking.lock(LockOptions(project=bare, arches=PROVEN[:1]))
    assert versions(bare).keys() == {("linux-source-6.12", "all"), ("busybox-static", PROVEN[0].debian)}


@pytest.mark.usefixtures("mirror")
def test_what_no_guest_wants_any_more_is_dropped(project):
    locking.lock(LockOptions(project=project))
    (project.root / "recipes/guests/large.toml").unlink()
    locking.lock(LockOptions(project=project))
    assert versions(project).keys() == {("linux-source-6.12", "all")}
    locking.lock(LockOptions(project=project, arches=(PROVEN[0],)))
    assert versions(project).keys() == {("linux-source-6.12", "all")}


@pytest.mark.usefixtures("mirror")
def test_a_damaged_lock_file_is_an_error_of_a_build_and_written_anew_by_lock(project):
    (project.root / LOCK).write_text("{}}")
    with pytest.raises(UserError, match=LOCK):
        Pipeline(PROVEN[0], BuildOptions(project=project, guest="small"), Evaluation(Store()))
    locking.lock(LockOptions(project=project))
    assert ("linux-source-6.12", "all") in versions(project)


@pytest.mark.usefixtures("mirror")
def test_a_build_takes_what_is_locked(project):
    locking.lock(LockOptions(project=project))
    steps = Pipeline(PROVEN[0], BuildOptions(project=project, guest="large"), Evaluation(Store())).steps
    (busybox,) = steps.parts.packages
    for step in (busybox, steps.kernel.uses["source"].step):
        assert step.inputs(HOST)["version"] == "1.0"
        assert step.inputs(HOST)["sha256"] == "b" * 64


@pytest.mark.usefixtures("mirror")
def test_a_refresh_of_what_is_locked_is_an_error_that_names_the_file(project):
    locking.lock(LockOptions(project=project))
    with pytest.raises(UserError, match=str(project.root / LOCK)) as caught:
        Pipeline(PROVEN[0], BuildOptions(project=project, guest="small", refresh=True), Evaluation(Store()))
    assert "./invoke lock" in caught.value.hint


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"schema": 2}, "schema"),
        ({"packages": [{**FACTS, "sha256": "A" * 64}]}, "packages.0.sha256"),
        ({"packages": [{**FACTS, "size": 0}]}, "packages.0.size"),
        ({"packages": [{**FACTS, "size": 2**40}]}, "packages.0.size"),
        ({"packages": [{**FACTS, "package": "-o=x"}]}, "packages.0.package"),
        ({"packages": [{**FACTS, "version": "1 2"}]}, "packages.0.version"),
        ({"packages": [{**FACTS, "more": 1}]}, "packages.0.more"),
        ({"packages": [{name: FACTS[name] for name in FACTS if name != "suite"}]}, "packages.0.suite"),
    ],
)
def test_a_wrong_value_is_told_with_its_place(tmp_path, change, where):
    (tmp_path / LOCK).write_text(json.dumps({"schema": 1, "packages": [FACTS], **change}))
    with pytest.raises(UserError, match=where.replace(".", r"\.")) as caught:
        read_lock(tmp_path / LOCK)
    assert str(tmp_path / LOCK) in caught.value.message


def test_a_lock_file_has_its_limit(tmp_path):
    (tmp_path / LOCK).write_bytes(b" " * (LIMIT + 1))
    with pytest.raises(UserError, match=LOCK):
        read_lock(tmp_path / LOCK)


def test_what_is_written_is_read_again_in_a_fixed_order(tmp_path):
    found = lock_of(Locked(**{**FACTS, "package": name}) for name in ("bb", "aa", "cc"))
    assert [each.package for each in found.packages] == ["aa", "bb", "cc"]
    (tmp_path / LOCK).write_text(json.dumps(found.model_dump(mode="json", by_alias=True)))
    assert read_lock(tmp_path / LOCK) == found == lock_of(reversed(found.packages))


@given(st.text(max_size=300))
def test_any_text_is_a_lock_file_or_an_error(tmp_path_factory, text):
    path = tmp_path_factory.getbasetemp() / LOCK
    path.write_text(text)
    try:
        assert isinstance(read_lock(path), Lock)
    except UserError as e:
        assert str(path) in e.message
