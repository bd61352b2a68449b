"""A release in the output directory, to be booted: its files and its machine, and every way not to be what it was."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from releases import GUEST, VERSION, contents

from guestforge.arch import X86_64
from guestforge.cli import commands
from guestforge.core.errors import UserError
from guestforge.core.events import Foretold, shown_by
from guestforge.core.graph import Evaluation, walk
from guestforge.core.jobserver import Jobserver
from guestforge.core.store import Store
from guestforge.pipeline import Pipeline
from guestforge.project.options import BuildOptions, CheckOptions, MakeOptions, ProofOptions
from guestforge.publish.fetched import guest_to_boot
from guestforge.release.names import FILES_OF_A_GUEST
from guestforge.testing.fake_steps import fake_step

BOOT = {"memory_mib": 192, "cpus": 2, "kernel_args": ["quiet", "a=b c"]}
RECIPE = {"description": "x", "kernel": "k", "rootfs": "r", "boot": BOOT}


@pytest.fixture
def place(tmp_path):
    """An output directory with a release, as it was laid out."""
    folder = tmp_path / "out" / X86_64.name / GUEST
    for name, data in contents().items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    change(folder, lambda said: said["release"].update(recipe={"guest": RECIPE}))
    return folder


def change(folder, how):
    path = folder / "manifest.json"
    said = json.loads(path.read_text())
    how(said)
    path.write_text(json.dumps(said))


def found(place, **options):
    """The guest that is booted, on a store beside."""
    root = place.parents[1]
    built = BuildOptions(**{"guest": GUEST, "output": root, "arches": (X86_64,), **options})
    guest = guest_to_boot(X86_64, built, Evaluation(Store(root.with_name("cache"))), Jobserver(1))
    if not isinstance(guest, Pipeline):
        guest.steps = replace(guest.steps, probe=fake_step("probe", {"probe": b"p"}))
    return guest


def test_the_files_that_were_fetched_are_booted_on_the_machine_that_they_were_proven_on(place, capsys):
    guest = found(place)
    assert f"release {VERSION}, which is booted as it was fetched" in capsys.readouterr().err
    artifacts = guest.guest_artifacts()
    for path, name in ((artifacts.kernel, "kernel"), (artifacts.initrd, "initrd.img"), (artifacts.image, "rootfs.img")):
        assert path.read_bytes() == (place / name).read_bytes()
        assert place not in path.parents  # nobody changes what is booted
    assert (artifacts.memory_mib, artifacts.cpus, artifacts.kernel_args) == (192, 2, ("quiet", "a=b c"))
    assert (artifacts.kernel_release, artifacts.own_agent) == ("6.12.117", True)
    said = json.loads((place / "manifest.json").read_text())["artifacts"]
    assert artifacts.digests == {name: said[name]["sha256"] for name in ("kernel", "initrd.img", "rootfs.img")}


def test_nothing_of_it_is_built_and_its_recipe_need_not_be_there(place):
    change(place, lambda said: said.update(guest="of-somebody-else"))
    other = place.rename(place.with_name("of-somebody-else"))
    guest = found(other, guest="of-somebody-else")
    assert {step.name for step in walk(*guest.steps.published)} == {"fetched"}
    before = {path: path.read_bytes() for path in other.rglob("*") if path.is_file()}
    guest.publish()
    assert {path: path.read_bytes() for path in other.rglob("*") if path.is_file()} == before


def test_an_agent_that_was_given_is_judged_as_such(place):
    change(place, lambda said: said["release"]["agent"].update(given=True))
    assert not found(place).guest_artifacts().own_agent


@pytest.mark.parametrize("name", FILES_OF_A_GUEST)
@pytest.mark.parametrize("kept", [False, True])
def test_a_file_that_was_changed_is_not_booted(place, name, kept):
    if kept:  # the store has what it was: that is no reason to overlook what it is
        found(place).guest_artifacts()
    path = place / name
    path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:])
    with pytest.raises(UserError, match=f"{name} is not what manifest.json says"):
        found(place).guest_artifacts()


@pytest.mark.parametrize("how", [Path.unlink, lambda path: (path.unlink(), path.symlink_to("/etc/passwd"))])
def test_a_file_that_is_none_is_not_booted(place, how):
    how(place / "kernel")
    with pytest.raises(UserError, match="kernel is not what"):
        found(place).guest_artifacts()


def recipe(**changed):
    return lambda said: said["release"].update(recipe={"guest": {**RECIPE, **changed}})


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (lambda said: said.update(arch="s390x"), "that of minimal for s390x"),
        (lambda said: said.update(guest="other"), "that of other for x86_64"),
        (lambda said: said.update(schema=2), "schema"),
        (lambda said: said.update(release=None), "release"),
        (lambda said: said["artifacts"].pop("kernel"), "other artifacts"),
        (lambda said: said["artifacts"].update({"../../x": {"sha256": "0" * 64, "size": 0}}), "other artifacts"),
        (lambda said: said["release"].update(recipe={}), "release.recipe.guest"),
        (recipe(boot={"memory_mib": "all"}), "boot.memory_mib"),
        (recipe(boot={"memory_mib": 60}), "too little memory"),
        (recipe(boot={"cpus": 0}), "boot.cpus"),
        (recipe(boot={**BOOT, "devices": ["x"]}), "boot.devices"),
    ],
)
def test_a_manifest_that_no_machine_can_be_made_of_is_refused(place, how, message):
    change(place, how)
    with pytest.raises(UserError, match=message) as caught:
        found(place)
    assert "fetch the release again" in caught.value.report()


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "[]", "null", '{"schema": 1, "guest": "minimal"}'])
def test_what_is_no_release_is_built_of_its_recipe(place, text):
    (place / "manifest.json").write_text(text)
    assert isinstance(found(place), Pipeline)


def test_no_manifest_is_read_without_end(place):
    with (place / "manifest.json").open("a") as file:
        file.truncate(1 << 34)
    assert isinstance(found(place), Pipeline)


def test_an_agent_beside_it_is_refused(place, tmp_path):
    with pytest.raises(UserError, match="--agent") as caught:
        found(place, agent=tmp_path / "agent")
    assert "--output" in caught.value.report()


def test_check_foretells_what_it_does(place, monkeypatch):
    monkeypatch.setenv("GUESTFORGE_CACHE", str(place.parents[2] / "cache"))
    events = []
    built = BuildOptions(guest=GUEST, output=place.parents[1], arches=(X86_64,))
    with shown_by(events.append):
        assert commands.check(built, MakeOptions(dry_run=True), CheckOptions(), ProofOptions()) == 0
        titles = [event.step for event in events if isinstance(event, Foretold)]
        assert "x86_64 fetched" in titles
        assert not [title for title in titles if "kernel" in title]
        events.clear()
        assert commands.build(built, MakeOptions(dry_run=True), CheckOptions(), ProofOptions()) == 0
        assert "x86_64 kernel" in [event.step for event in events if isinstance(event, Foretold)]
