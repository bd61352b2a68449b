"""Which guests have to be built: a change names those that it concerns, and no other."""

import json
import shutil
from dataclasses import fields
from unittest.mock import Mock

import pytest
from checkout import REPOSITORY
from ci_repository import GUEST, commit, copy_of_the_checkout, edit, git, linked_copy, matrix_of, project_in, write

from guestforge.arch import PROVEN, S390X, X86_64
from guestforge.ci.declared import MACHINE
from guestforge.ci.matrix import make_matrix
from guestforge.ci.plan import plan
from guestforge.core.errors import UserError
from guestforge.core.events import Said, shown_by
from guestforge.core.graph import Evaluation, walk
from guestforge.core.runtime import HOST
from guestforge.core.store import Store
from guestforge.kernel.toolchain import Toolchain
from guestforge.sources.aptroot import Resolved

SMALL = """fragments = ["base", "executables", "initrd", "block"]

[source]
kind = "debian"
package = "linux-source-6.12"
suite = "trixie"
"""
SOME = (X86_64, S390X)  # enough to see that a change concerns one, or all
ALL = [arch.name for arch in SOME]
CHECKS = ("check image", "check initrd")
IMAGE = ("check image", "image")
INITRD = ("check initrd", "initrd")
OF_THE_KERNEL = (*CHECKS, "initrd", "kernel")  # what changes with it


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    place = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("GUESTFORGE_CACHE", str(place))
    return place


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A copy of the checkout, with a guest `small` beside ours whose kernel has few fragments."""
    place = copy_of_the_checkout(tmp_path_factory.mktemp("original"))
    small = GUEST.replace("default", "small")
    commit(place, **{"recipes__guests__small.toml": small, "recipes__kernels__small.toml": SMALL})
    return place


@pytest.fixture
def repository(original, tmp_path):
    """One of a test's own."""
    return linked_copy(original, tmp_path / "checkout")


def changed(repository, since="HEAD", arches=SOME, project=None, guests=()):
    """The steps that changed, by guest and architecture, of those that must be built."""
    found = matrix_of(project or project_in(repository, repository), arches, since, guests)
    return {(entry.guest, entry.arch): entry.changed for entry in found.built}


def both(*guests, arches=ALL):
    return {(guest, arch) for guest in guests for arch in arches}


def heard(work):
    said = []
    with shown_by(lambda event: said.append(event.text) if isinstance(event, Said) else None):
        result = work()
    return result, said


# what a change concerns


def test_nothing_has_changed_where_nothing_has(repository):
    assert changed(repository) == {}
    found = matrix_of(project_in(repository, repository), SOME, "HEAD")
    assert {(entry.guest, entry.arch) for entry in found.entries} == both("debug", "minimal", "small")


def test_without_a_revision_everything_is_built(repository):
    found = matrix_of(project_in(repository, repository), SOME)
    assert found.since is None
    assert {(entry.guest, entry.arch) for entry in found.built} == both("debug", "minimal", "small")


def test_a_fragment_names_the_guests_whose_kernel_has_it_and_every_architecture(repository):
    edit(repository, "kernel-configs/common/vsock.conf", "CONFIG_VSOCKETS=y", "# CONFIG_VSOCKETS is not set")
    found = changed(repository, arches=PROVEN)
    assert found.keys() == both("debug", "minimal", arches=[arch.name for arch in PROVEN])
    assert set(found.values()) == {OF_THE_KERNEL}


def test_an_architectures_fragment_names_that_architecture_alone(repository):
    edit(repository, "kernel-configs/s390x/base.conf", "", "CONFIG_TEST_OPTION=y\n")
    assert changed(repository, arches=PROVEN).keys() == both("debug", "minimal", "small", arches=["s390x"])


def test_a_fragment_of_a_single_kernel_names_its_guest_alone(repository):
    commit(repository, **{"kernel-configs__common__mine.conf": "CONFIG_MINE=y\n"})
    edit(repository, "recipes/kernels/small.toml", '"block"', '"block", "mine"')
    commit(repository)
    edit(repository, "kernel-configs/common/mine.conf", "=y", "=m")
    assert changed(repository).keys() == both("small")


def test_a_fragment_that_nobody_has_names_nothing(repository):
    write(repository / "kernel-configs" / "common" / "unused.conf", "CONFIG_UNUSED=y\n")
    assert changed(repository) == {}


def test_a_comment_in_a_fragment_names_nothing(repository):
    edit(repository, "kernel-configs/common/vsock.conf", "", "# a word for people\n")
    assert changed(repository) == {}


def test_a_fragment_of_ones_own_takes_the_place_of_ours(repository):
    """Of a project in a folder of the same repository; the guests are named, for it has none of its own."""
    commit(repository, **{"mine__guestforge.toml": ""})
    project = project_in(repository / "mine", repository)
    assert changed(repository, project=project, guests=["minimal"]) == {}
    write(repository / "mine" / "kernel-configs" / "common" / "vsock.conf", "CONFIG_VSOCKETS=y\n")
    assert changed(repository, project=project, guests=["minimal"], arches=[X86_64]) == {
        ("minimal", "x86_64"): OF_THE_KERNEL
    }


def test_a_locked_version_names_the_guests_that_are_made_of_it(repository):
    packages = [
        {"suite": suite, "package": name, "architecture": arch, "version": "1.0", "sha256": "a" * 64, "size": 1}
        for suite, name, arch in [("trixie", "linux-source-6.12", "all"), ("bookworm", "busybox-static", "amd64"),
                                  ("bookworm", "busybox-static", "s390x")]
    ]  # fmt: skip
    commit(repository, **{"guestforge.lock": json.dumps({"schema": 1, "packages": packages})})
    edit(repository, "guestforge.lock", '"s390x", "version": "1.0"', '"s390x", "version": "1.1"')
    found = changed(repository)
    assert found.keys() == both("debug", arches=["s390x"])
    assert "package busybox-static" in next(iter(found.values()))
    edit(repository, "guestforge.lock", '"all", "version": "1.0"', '"all", "version": "1.1"')
    assert changed(repository).keys() == both("debug", "minimal", "small")


def test_an_overlay_names_the_guests_that_have_it(repository):
    recipe = 'overlays = ["site"]\n'
    guest = 'description = "mine"\nkernel = "default"\nrootfs = "site"\n'
    files = {"guests__site.toml": guest, "rootfs__site.toml": recipe}
    motd = {"overlays__site__etc__motd": "hello\n"}
    commit(repository, **{f"recipes__{name}": text for name, text in files.items()}, **motd)
    edit(repository, "overlays/site/etc/motd", "hello", "goodbye")
    found = changed(repository)
    assert found.keys() == both("site")
    assert set(found.values()) == {("check image", "check initrd", "image", "initrd", "overlay site")}
    commit(repository)
    write(repository / "overlays" / "nobodys" / "file", "")
    assert changed(repository) == {}


@pytest.mark.parametrize(
    ("name", "old", "new", "steps"),
    [
        ("recipes/guests/minimal.toml", 'rootfs = "minimal"', 'rootfs = "minimal"\n[boot]\ncpus = 2', CHECKS),
        ("recipes/guests/minimal.toml", 'rootfs = "minimal"', 'rootfs = "minimal"\n[image]\nsize_mib = 99', IMAGE),
        (
            "recipes/guests/minimal.toml",
            'rootfs = "minimal"',
            'rootfs = "minimal"\n[initrd]\ncompression = "gzip"',
            INITRD,
        ),
        ("recipes/guests/minimal.toml", 'description = "', 'description = "another ', ()),
        ("guestforge.toml", "", '[ci]\nrunner = ["large"]\n', ()),
    ],
)
def test_a_guests_recipe_names_the_steps_that_read_it(repository, name, old, new, steps):
    edit(repository, name, old, new)
    assert changed(repository) == ({("minimal", arch): steps for arch in ALL} if steps else {})


def test_a_recipe_that_is_wrong_today_is_an_error_whatever_it_was(repository):
    edit(repository, "recipes/guests/minimal.toml", "rootfs =", "rootsf =")
    with pytest.raises(UserError, match=r"recipes/guests/minimal\.toml:3: unknown key rootsf"):
        changed(repository)


def test_a_package_names_the_guests_that_have_it(repository):
    edit(repository, "recipes/rootfs/debug.toml", "bookworm", "trixie")
    found = changed(repository)
    assert found.keys() == both("debug")
    assert set(found.values()) == {(*CHECKS, "image", "initrd", "package busybox-static")}


def test_a_kernels_version_names_its_source_too(repository):
    edit(repository, "recipes/kernels/small.toml", 'suite = "trixie"', 'suite = "trixie"\nversion = "6.12.1-1"')
    found = changed(repository)
    assert found.keys() == both("small")
    assert set(found.values()) == {(*OF_THE_KERNEL, "source linux-source-6.12")}


AGENT_TOO = ("agent", *CHECKS, "image", "initrd", "probe")
CODE = [
    ("guestforge/kernel/make.py", '"""', '"""Now ', ALL, OF_THE_KERNEL),
    ("guestforge/vmm/argv.py", '"""', '"""Now ', ALL, CHECKS),
    ("guestforge/image/disk.py", '"""', '"""Now ', ALL, IMAGE),
    ("guestforge/cli/render.py", '"""', '"""Now ', ALL, ()),
    ("guestforge/ci/matrix.py", '"""', '"""Now ', ALL, ()),
    ("guestforge/release/bundle.py", '"""', '"""Now ', ALL, ()),
    ("rootfs/agent/go.mod", "module", "// a word\nmodule", ALL, AGENT_TOO),
    ("requirements.lock", "\ngo-bin==", "\ngo-bin==9.", ALL, AGENT_TOO),
    ("requirements.lock", "\nlz4==", "\nlz4==9.", ALL, INITRD),
    ("requirements.lock", "\njinja2==", "\njinja2==9.", ALL, ()),
    ("guestforge/__init__.py", '__version__ = "', '__version__ = "9.', ALL, AGENT_TOO),
    ("guestforge/__init__.py", '"""', '"""Now ', ALL, ()),
    # what decides values that a step reads, whose code is in no step's digest
    ("guestforge/project/models.py", "Field(256, ge=56", "Field(512, ge=56", ALL, CHECKS),
    ("guestforge/project/models.py", '"minimal", description="the guest', '"debug", description="the guest', ALL, ()),
    ("guestforge/project/options.py", "WantedServer = option(\n", "WantedServer = option(  # a word\n", ALL, ()),
    ("guestforge/project/options.py", 'one_of(VIRTIO_FS_SERVERS), default="auto"', 'text, default="x"', ALL, CHECKS),
    ("guestforge/bootable.py", '"own_agent": self', '"own": 1, "own_agent": self', ALL, CHECKS),
]


@pytest.mark.parametrize(("name", "old", "new", "arches", "steps"), CODE, ids=lambda value: str(value)[:40])
def test_our_own_files_name_the_steps_that_they_decide(repository, name, old, new, arches, steps):
    edit(repository, name, old, new)
    found = changed(repository, guests=["minimal"])
    assert found == ({("minimal", arch): steps for arch in arches} if steps else {})


def test_how_a_package_is_unpacked_names_the_guests_with_packages(repository):
    edit(repository, "guestforge/sources/packages.py", "UNPACKED = 1", "UNPACKED = 2")
    found = changed(repository, arches=[X86_64])
    assert found.pop(("debug", "x86_64")) == (*CHECKS, "image", "initrd", "package busybox-static")
    assert set(found.values()) == {CHECKS}  # which may fetch a QEMU as a package


def test_an_architectures_row_names_that_architecture_alone(repository):
    edit(repository, "guestforge/arch.py", 'machine="s390-ccw-virtio"', 'machine="s390-ccw-virtio-9.2"')
    found = changed(repository, arches=PROVEN, guests=["minimal"])
    assert found.keys() == {("minimal", "s390x")}


def test_what_builds_the_graph_names_everything(repository):
    edit(repository, "guestforge/targets.py", "image=image_step(arch, rootfs, parts, guest.image)",
         "image=image_step(arch, rootfs, parts, guest.image, time=1)")  # fmt: skip
    assert changed(repository).keys() == both("debug", "minimal", "small")


# a revision as it is


def test_the_code_of_a_revision_is_not_run(repository, tmp_path):
    trap = f"open({str(tmp_path / 'run')!r}, 'w').write('it ran')\nraise SystemExit(9)\n"
    names = ("__init__", "arch", "targets", "project/models", "project/load", "kernel/step", "kernel/fragment")
    kept = {name: (repository / f"guestforge/{name}.py").read_text() for name in names}
    for name in names:
        write(repository / f"guestforge/{name}.py", trap)
    then = commit(repository)
    for name, text in kept.items():
        write(repository / f"guestforge/{name}.py", text)
    commit(repository)
    assert changed(repository, then).keys() == both("debug", "minimal", "small")
    assert not (tmp_path / "run").exists()


def test_code_that_is_no_python_counts_as_another(repository):
    then = commit(repository, **{"guestforge__project__models.py": "this is no Python\n"})
    git(repository, "revert", "--no-edit", "HEAD")
    assert changed(repository, then).keys() == both("debug", "minimal", "small")
    assert changed(repository, f"{then}~1") == {}


def test_a_module_that_was_not_there_counts_as_another(repository):
    (repository / "guestforge" / "kernel" / "step.py").rename(repository / "guestforge" / "kernel" / "steps.py")
    then = commit(repository)
    git(repository, "revert", "--no-edit", "HEAD")
    assert set(changed(repository, then, guests=["small"]).values()) == {OF_THE_KERNEL}


def test_a_recipe_that_can_not_be_read_there_counts_as_new(repository):
    good = (repository / "recipes" / "guests" / "small.toml").read_text()
    then = commit(repository, **{"recipes__guests__small.toml": f"{good}speed = 9\n"})
    commit(repository, **{"recipes__guests__small.toml": good})
    found, said = heard(lambda: changed(repository, then))
    assert found.keys() == both("small")
    assert f"small for s390x counts as new since {then}: recipes/guests/small.toml:4: unknown key speed" in said


def test_a_guest_that_was_not_there_is_new_and_one_that_is_gone_is_no_entry(repository):
    write(repository / "recipes" / "guests" / "another.toml", GUEST)
    (repository / "recipes" / "guests" / "small.toml").unlink()
    found = matrix_of(project_in(repository, repository), SOME, "HEAD")
    assert {(entry.guest, entry.arch) for entry in found.built} == both("another")
    assert all(entry.changed == tuple(entry.steps) for entry in found.built)
    assert not [entry for entry in found.entries if entry.guest == "small"]


def test_the_work_tree_is_what_is_compared_and_that_is_said(repository):
    _, said = heard(lambda: changed(repository))
    assert said == []
    write(repository / "recipes" / "guests" / "another.toml", GUEST)  # git knows nothing of it yet
    found, said = heard(lambda: changed(repository))
    assert found.keys() == both("another")
    assert said[0] == "the work tree is compared as it is: some of what it has is in no commit"


def test_what_is_no_part_of_a_guest_makes_no_tree_dirty(repository):
    write(repository / "notes.txt", "nothing of a guest\n")
    assert heard(lambda: changed(repository)) == ({}, [])


def test_nothing_is_left_behind(repository, cache):
    assert changed(repository, "HEAD~1") != {}
    assert [path for path in (cache / "tmp").iterdir() if path.is_dir()] == []
    assert not (cache / "store").exists()
    assert git(repository, "status", "--porcelain") == ""


# a project elsewhere


@pytest.fixture
def mine(tmp_path):
    """A project in a folder of another repository, with a fragment of its own."""
    place = tmp_path / "mine"
    place.mkdir()
    git(place, "init", "--quiet")
    recipe = SMALL.replace('"block"', '"block", "mine"')
    commit(place, **{
        "guests__guestforge.toml": "",
        "guests__recipes__guests__one.toml": GUEST.replace("default", "mine"),
        "guests__recipes__guests__two.toml": GUEST,
        "guests__recipes__kernels__mine.toml": recipe,
        "guests__kernel-configs__common__mine.conf": "CONFIG_MINE=y\n",
    })  # fmt: skip
    return place


def test_a_project_in_a_repository_of_its_own(mine, original):
    project = project_in(mine / "guests", original)
    assert changed(mine, project=project) == {}
    edit(mine, "guests/kernel-configs/common/mine.conf", "=y", "=m")
    assert changed(mine, project=project).keys() == both("one")


def test_what_guestforge_was_then_is_not_known_there_and_counts_as_the_same(mine, repository):
    project = project_in(mine / "guests", repository)
    edit(repository, "guestforge/kernel/make.py", '"""', '"""Now ')
    assert changed(mine, project=project) == {}


def test_so_it_is_for_a_checkout_in_the_projects_folder_that_git_ignores(mine, original):
    linked_copy(original, mine / "guestforge", ignore=shutil.ignore_patterns(".git"))
    commit(mine, **{".gitignore": "/guestforge/\n"})
    project = project_in(mine / "guests", mine / "guestforge")
    edit(mine, "guestforge/guestforge/kernel/make.py", '"""', '"""Now ')
    assert changed(mine, project=project) == {}


@pytest.mark.parametrize(("new", "guests"), [(", ()), (Now ", ("one", "two"))])
def test_a_checkout_that_the_projects_repository_has_is_compared(mine, original, new, guests):
    linked_copy(original, mine / "guestforge", ignore=shutil.ignore_patterns(".git"))
    commit(mine)
    project = project_in(mine / "guests", mine / "guestforge")
    edit(mine, "guestforge/guestforge/kernel/make.py", '"""', new)
    assert changed(mine, project=project).keys() == both(*guests)


# what is wrong


@pytest.mark.parametrize("name", ["nothing", "HEAD:recipes", "HEAD~99", "0123456789" * 4, "a b", "@{-1}"])
def test_an_unknown_revision(repository, name):
    with pytest.raises(UserError, match="has no such commit") as caught:
        changed(repository, name)
    assert f"--changed-since {name}: {repository}" in caught.value.message
    assert "git fetch" in caught.value.hint


def test_a_name_that_a_tag_and_a_branch_have_is_the_tag_as_git_has_it(repository):
    git(repository, "tag", "same")
    then = git(repository, "rev-parse", "HEAD")
    edit(repository, "kernel-configs/s390x/base.conf", "=y", "=m")
    commit(repository)
    git(repository, "branch", "same")
    found = matrix_of(project_in(repository, repository), [S390X], "same")
    assert (found.since.commit, len(found.built)) == (then, 3)


@pytest.mark.parametrize("name", ["-x", "--help", "--output=/tmp/x"])
def test_a_revision_that_is_an_option(repository, name):
    with pytest.raises(UserError, match=f"--changed-since {name}: no name of a revision starts with a dash"):
        changed(repository, name)


def test_a_folder_in_no_repository(repository):
    shutil.rmtree(repository / ".git")
    with pytest.raises(UserError, match="is in no git repository") as caught:
        changed(repository)
    assert "without --changed-since" in caught.value.hint


def test_a_host_without_git(repository):
    host = Mock(wraps=HOST)
    host.find_tool = lambda _: None
    with pytest.raises(UserError, match="git is not installed"):
        make_matrix(project_in(repository, repository), [X86_64], [], "HEAD", host)
    assert make_matrix(project_in(repository, repository), [X86_64], [], None, host).entries
    host.run.assert_not_called()  # nor is any other program started to make keys


def test_a_repository_that_git_refuses(repository):
    write(repository / ".git" / "config", "[core\n")
    with pytest.raises(UserError, match="git can't read the repository") as caught:
        changed(repository)
    assert "bad config" in caught.value.excerpt


def test_a_shallow_clone_says_how_to_get_the_rest(original, tmp_path):
    then = git(original, "rev-parse", "HEAD~1")
    git(tmp_path, "clone", "--quiet", "--depth=1", original.as_uri(), "shallow")
    with pytest.raises(UserError, match="has no such commit") as caught:
        changed(tmp_path / "shallow", then)
    assert "fetch-depth: 0" in caught.value.hint
    assert "GIT_DEPTH: 0" in caught.value.hint
    assert changed(tmp_path / "shallow", "HEAD") == {}


@pytest.mark.parametrize("length", [40, 64])
def test_zeros_are_no_commit_to_compare_with(repository, length):
    found, said = heard(lambda: matrix_of(project_in(repository, repository), SOME, "0" * length))
    assert len(found.built) == len(found.entries) == 3 * len(SOME)
    assert said == ["--changed-since 000000000000... names no commit: everything is to be built"]


def test_a_project_without_guests(tmp_path):
    write(tmp_path / "guestforge.toml", "")
    with pytest.raises(UserError, match="the project has no guests: there is no recipe in") as caught:
        matrix_of(project_in(tmp_path), PROVEN)
    assert "--guest" in caught.value.hint
    assert [entry.guest for entry in matrix_of(project_in(tmp_path), [S390X], None, ["minimal"]).built] == ["minimal"]


def test_a_revision_without_guests_makes_all_of_them_new(repository):
    shutil.rmtree(repository / "recipes")
    then = commit(repository)
    git(repository, "revert", "--no-edit", "HEAD")
    assert changed(repository, then).keys() == both("debug", "minimal", "small")


def test_a_guest_that_is_not_there(repository):
    with pytest.raises(UserError, match="no recipe 'minimol'") as caught:
        changed(repository, guests=["minimol"])
    assert "minimal" in caught.value.hint


# every input of every step is declared, or said to be the machine's

KNOWN = {
    "source": {"package", "architecture"},
    "package": {"package", "architecture", "unpacked"},
    "kernel": {"target", "base", "request"},
    "agent": {"go", "flags", "settings", "sources"},
    "probe": {"go", "flags", "settings", "sources"},
    "initrd": {"rootfs", "compression", "compressions", "time"},
    "image": {"rootfs", "size_mib", "time"},
    "check": {"machine", "boot", "options"},
}


def test_a_new_input_of_a_step_is_noticed(monkeypatch):
    """What a step reads besides these must get its place in `guestforge/ci/declared.py`, and then here."""
    resolved = Resolved(**dict.fromkeys((field.name for field in fields(Resolved)), "1"))
    for asked, answer in {
        "sources.download.resolve": resolved,
        "kernel.step.identify": Toolchain("gcc", "ld"),
        "image.disk_step.e2fsprogs_version": "1",
        "check.step.emulators": ["1"],
        "check.step.choose_virtiofs": Mock(),
    }.items():
        monkeypatch.setattr(f"guestforge.{asked}", lambda *_, answer=answer: answer)
    evaluation = Evaluation(Store())
    steps = {step.name: step for step in walk(*plan(project_in(REPOSITORY), "debug", X86_64, evaluation).targets)}
    assert steps.keys() == KNOWN.keys()
    for name, step in steps.items():
        assert set(step.inputs(evaluation.runtime)) - MACHINE.get(name, set()) == KNOWN[name], name
        assert set(step.inputs(evaluation.runtime)) >= MACHINE.get(name, set()), name
