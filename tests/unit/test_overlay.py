"""A project's own files, laid over a guest's root file system."""

import os
import subprocess

import pytest

from guestforge.arch import PROVEN
from guestforge.core.errors import BuildError, UserError
from guestforge.core.graph import Evaluation
from guestforge.core.runtime import HOST
from guestforge.core.store import Store
from guestforge.pipeline import Pipeline
from guestforge.project.folder import open_project
from guestforge.project.models import Rootfs
from guestforge.project.options import BuildOptions
from guestforge.rootfs.flavour import disk_tree, initrd_tree
from guestforge.rootfs.overlay import Item, digest, find_overlay, items, overlay_step
from guestforge.rootfs.tree import Directory, File, Symlink

ARCH = PROVEN[0]
GUEST = 'description = "mine"\nkernel = "default"\nrootfs = "mine"\n'


@pytest.fixture
def overlays(tmp_path):
    """A folder of overlays with one of each kind of thing in it."""
    site = tmp_path / "overlays" / "site"
    (site / "etc" / "init.d").mkdir(parents=True)
    (site / "etc" / "motd").write_text("welcome\n")
    (site / "etc" / "init.d" / "start").write_text("#!/bin/sh\n")
    (site / "etc" / "init.d" / "start").chmod(0o700)
    (site / "etc" / "localtime").symlink_to("/usr/share/zoneinfo/UTC")
    (site / "srv").mkdir()
    return (tmp_path / "overlays",)


def made(overlays, cache, name="site"):
    """Return the folder of the files in an overlay's entry."""
    return Evaluation(Store(cache)).entry(overlay_step(ARCH, name, overlays)).path / "tree"


def tree(overlays, cache, *names, make=initrd_tree, **recipe):
    agent = cache.parent / "agent"
    agent.touch()
    return make(Rootfs(**recipe), agent, (), [made(overlays, cache, name) for name in names])


def test_an_entry_is_the_folder_with_the_modes_that_git_would_keep(overlays, tmp_path):
    copy = made(overlays, tmp_path / "cache")
    assert items(copy) == items(overlays[0] / "site")
    assert [(item.path, item.kind) for item in items(copy)] == [
        ("etc", "directory"), ("etc/init.d", "directory"), ("etc/init.d/start", "program"), ("etc/localtime", "link"),
        ("etc/motd", "file"), ("srv", "directory"),
    ]  # fmt: skip
    assert (copy / "etc/init.d/start").stat().st_mode & 0o777 == 0o755
    assert (copy / "etc/motd").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("make", [initrd_tree, disk_tree])
def test_files_of_overlays_are_roots_and_later_ones_win(overlays, tmp_path, make):
    (overlays[0] / "more" / "etc").mkdir(parents=True)
    (overlays[0] / "more" / "etc" / "motd").write_text("go away\n")
    found = tree(overlays, tmp_path / "cache", "site", "more", make=make)
    assert found.find("/etc/motd").source.read_text() == "go away\n"
    assert (found.find("/etc/motd").mode, found.find("/etc/motd").uid) == (0o644, 0)
    assert found.find("/etc/init.d/start").mode == 0o755
    assert found.find("/etc/localtime") == Symlink("/etc/localtime", "/usr/share/zoneinfo/UTC")
    assert found.find("/srv") == Directory("/srv")


def test_an_overlay_takes_the_place_of_a_file_of_ours_and_leaves_directories_as_they_are(overlays, tmp_path):
    (overlays[0] / "site" / "tmp").mkdir()
    (overlays[0] / "site" / "etc" / "hosts").write_text("127.0.0.1 mine\n")
    (overlays[0] / "site" / "var" / "run").mkdir(parents=True)
    (overlays[0] / "site" / "var" / "run" / "here").touch()
    found = tree(overlays, tmp_path / "cache", "site")
    assert found.find("/tmp") == Directory("/tmp", 0o1777)
    assert found.find("/etc/hosts").source.read_text() == "127.0.0.1 mine\n"
    assert isinstance(found.find("/run/here"), File)


def test_documentation_in_an_overlay_stays(overlays, tmp_path):
    (overlays[0] / "site" / "usr" / "share" / "doc").mkdir(parents=True)
    (overlays[0] / "site" / "usr" / "share" / "doc" / "README").touch()
    assert tree(overlays, tmp_path / "cache", "site").find("/usr/share/doc/README")


def test_no_overlay_can_take_the_agents_place(overlays, tmp_path):
    (overlays[0] / "site" / "init").touch()
    with pytest.raises(UserError, match="'/init' is given twice"):
        tree(overlays, tmp_path / "cache", "site")


def test_a_recipe_gives_modes(overlays, tmp_path):
    modes = {"/etc/motd": "0600", "/etc/init.d/start": "4755", "/root": "711"}
    found = tree(overlays, tmp_path / "cache", "site", modes=modes)
    assert [found.find(path).mode for path in modes] == [0o600, 0o4755, 0o711]


@pytest.mark.parametrize(
    ("path", "why"),
    [("/etc/shadow", "it is not there"), ("/etc/localtime", "a symbolic link"), ("etc/motd", "not there")],
)
def test_a_mode_of_what_is_not_there_is_an_error(overlays, tmp_path, path, why):
    with pytest.raises(UserError, match=why) as caught:
        tree(overlays, tmp_path / "cache", "site", modes={path: "0600"})
    assert repr(path) in caught.value.message


def test_all_that_an_image_reads_counts_and_nothing_else(overlays):
    site = overlays[0] / "site"
    before = digest(items(site))
    (site / "etc" / "motd").chmod(0o666)
    os.utime(site / "etc" / "motd", (1, 1))
    assert digest(items(site)) == before
    seen = {before}
    for change in (
        lambda: (site / "etc" / "motd").write_text("other\n"),
        lambda: (site / "etc" / "motd").chmod(0o755),
        (site / "empty").mkdir,
        lambda: (site / "link").symlink_to("a"),
        lambda: ((site / "link").unlink(), (site / "link").symlink_to("b")),
        lambda: (site / "srv").rename(site / "opt"),
    ):
        change()
        seen.add(digest(items(site)))
    assert len(seen) == 7


def test_the_key_of_a_guests_images_follows_its_overlays(tmp_path):
    project = tmp_path / "mine"
    for name, text in {
        "guestforge.toml": "", "recipes/guests/mine.toml": GUEST, "recipes/rootfs/mine.toml": 'overlays = ["site"]\n',
        "overlays/site/etc/motd": "hello\n",
    }.items():  # fmt: skip
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_text(text)
    options = BuildOptions(project=open_project(project, "a test"), guest="mine")

    def inputs():
        (step,) = Pipeline(ARCH, options, Evaluation(Store(tmp_path / "cache"))).steps.parts.overlays
        return step.inputs(HOST)

    before = inputs()
    (project / "overlays/site/etc/motd").write_text("goodbye\n")
    assert inputs() != before
    steps = Pipeline(ARCH, options, Evaluation(Store(tmp_path / "cache"))).steps
    assert all("overlay site" in step.uses for step in (steps.initrd, steps.image))


def test_an_overlay_that_changes_while_it_is_read_makes_no_entry(overlays, tmp_path):
    step = overlay_step(ARCH, "site", overlays)
    step.inputs(HOST)
    (overlays[0] / "site" / "etc" / "motd").write_text("something else\n")
    (tmp_path / "out").mkdir()
    with pytest.raises(BuildError, match="changed while it was read"):
        step.make(tmp_path / "out", {}, HOST)


def test_an_overlay_whose_file_goes_or_becomes_a_link_makes_no_entry(overlays, tmp_path):
    step = overlay_step(ARCH, "site", overlays)
    step.inputs(HOST)
    motd = overlays[0] / "site" / "etc" / "motd"
    motd.unlink()
    for out in ("gone", "link"):
        (tmp_path / out).mkdir()
        with pytest.raises(BuildError, match="changed while it was read"):
            step.make(tmp_path / out, {}, HOST)
        (tmp_path / "secret").write_text("welcome\n")
        motd.symlink_to(tmp_path / "secret") if out == "gone" else None


def test_what_can_be_in_no_image_is_an_error_with_its_path(overlays):
    os.mkfifo(overlays[0] / "site" / "etc" / "pipe")
    with pytest.raises(UserError, match="etc/pipe is no file, directory or link"):
        overlay_step(ARCH, "site", overlays).inputs(HOST)


def test_an_unknown_overlay_is_an_error_with_the_nearest_name(overlays, tmp_path):
    with pytest.raises(UserError, match="no overlay 'siet'") as caught:
        find_overlay("siet", (*overlays, tmp_path / "none"))
    assert caught.value.hint == "did you mean site?"
    assert str(tmp_path / "none" / "siet") in caught.value.message


def test_a_projects_overlay_comes_before_ours(overlays, tmp_path):
    (tmp_path / "first" / "site").mkdir(parents=True)
    assert find_overlay("site", (tmp_path / "first", *overlays)) == tmp_path / "first" / "site"


def test_names_that_are_not_utf_8_are_kept(overlays, tmp_path):
    name = os.fsdecode(b"caf\xe9")
    (overlays[0] / "site" / name).touch()
    assert Item(name, "file", digest_of_nothing()) in items(made(overlays, tmp_path / "cache"))


def digest_of_nothing():
    return subprocess.run(["sha256sum"], input=b"", capture_output=True, check=True).stdout.decode().split()[0]
