"""Which project it is, and that a name of the user's comes before ours."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from guestforge.arch import X86_64
from guestforge.cli import commands
from guestforge.core.errors import UserError
from guestforge.core.graph import Evaluation
from guestforge.core.runtime import HOST
from guestforge.core.store import Store
from guestforge.kernel.fragment import compose
from guestforge.pipeline import Pipeline
from guestforge.project.folder import FILE, VARIABLE, find_project
from guestforge.project.layout import CHECKOUT, FRAGMENTS, RECIPES
from guestforge.project.load import load_guest, load_kernel
from guestforge.project.option import read
from guestforge.project.options import BuildOptions, CleanOptions

GUEST = 'description = "mine"\nkernel = "default"\nrootfs = "minimal"\n'
INVOKE = str(Path(sys.executable).with_name("invoke"))


@pytest.fixture
def place(tmp_path, monkeypatch):
    """An empty directory, and we are in it."""
    monkeypatch.delenv(VARIABLE, raising=False)
    directory = tmp_path / "mine"
    directory.mkdir()
    monkeypatch.chdir(directory)
    return directory


def fill(root, **files):
    """Write files, in whose names `__` stands for `/`."""
    for name, text in {
        "guestforge.toml": "",
        **{f"{key.replace('__', '/')}": text for key, text in files.items()},
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


# which it is


@pytest.mark.usefixtures("place")
def test_without_one_of_ones_own_it_is_the_checkout():
    project = find_project()
    assert (project.root, project.recipes, project.fragments) == (CHECKOUT, (RECIPES,), (FRAGMENTS,))


def test_the_nearest_one_that_we_are_in_is_taken(place, monkeypatch):
    fill(place)
    (place / "deep" / "below").mkdir(parents=True)
    monkeypatch.chdir(place / "deep" / "below")
    assert find_project().root == place
    fill(place / "deep")
    assert find_project().root == place / "deep"


def test_the_option_comes_before_the_variable_and_that_before_where_we_are(place, monkeypatch):
    fill(place)
    monkeypatch.setenv(VARIABLE, str(fill(place / "named")))
    assert find_project().root == place / "named"
    assert find_project(fill(place / "chosen")).root == place / "chosen"


def test_a_relative_variable_is_taken_from_where_we_are(place, monkeypatch):
    fill(place / "named")
    monkeypatch.setenv(VARIABLE, "named")
    assert find_project().root == place / "named"


@pytest.mark.parametrize(
    "make", [os.path.exists, Path.mkdir, Path.touch, lambda path: (path / FILE).mkdir(parents=True)]
)
def test_what_is_named_must_be_one(place, monkeypatch, make):
    make(place / "none")
    with pytest.raises(UserError, match=f"--project '{place}/none': there is no guestforge.toml") as caught:
        find_project(place / "none")
    assert "an empty guestforge.toml makes a folder a project" in caught.value.hint
    monkeypatch.setenv(VARIABLE, "none")
    with pytest.raises(UserError, match=f"{VARIABLE} '{place}/none': there is no"):
        find_project()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_another_users_is_taken_only_when_it_is_asked_for(place):
    fill(place)
    os.chown(place / FILE, 65534, 65534)
    with pytest.raises(UserError, match=r"guestforge\.toml belongs to another user \(uid 65534\)") as caught:
        find_project()
    assert f"--project {place}" in caught.value.hint
    assert find_project(place).root == place


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("gest = 'mine'\n", "guestforge.toml:1: unknown key gest"),
        ("guest = 3\n", "guestforge.toml:1: guest: "),
        ("[", "not TOML"),
    ],
)
def test_wrong_settings_are_told_with_file_and_line(place, text, told):
    fill(place)
    (place / FILE).write_text(text)
    with pytest.raises(UserError) as caught:
        find_project()
    assert told in caught.value.message


# names of the user's come before ours


def test_recipes_of_a_project_come_before_ours(place):
    fill(place, **{"recipes__guests__minimal.toml": GUEST})
    recipes = find_project().recipes
    assert load_guest("minimal", recipes).description == "mine"
    assert load_kernel("default", recipes) == load_kernel("default")
    (place / "recipes" / "kernels").mkdir()
    (place / "recipes" / "kernels" / "default.toml").write_text("")
    with pytest.raises(UserError, match=f"{place}/recipes/kernels/default.toml: the key source is missing"):
        load_kernel("default", recipes)


def test_an_unknown_name_is_looked_for_in_both(place):
    fill(place, **{"recipes__guests__mine.toml": GUEST})
    with pytest.raises(UserError) as caught:
        load_guest("minimla", find_project().recipes)
    assert str(place / "recipes") in caught.value.message
    assert str(RECIPES) in caught.value.message
    assert caught.value.hint == "did you mean minimal?"
    with pytest.raises(UserError) as caught:
        load_guest("mien", find_project().recipes)
    assert caught.value.hint == "did you mean mine?"


def test_a_fragment_of_a_project_takes_the_whole_place_of_ours(place):
    fill(
        place,
        **{
            "kernel-configs__x86_64__base.conf": "CONFIG_MINE=y\n",
            "kernel-configs__common__more.conf": "CONFIG_MORE=y\n",
        },
    )
    roots = find_project().fragments
    assert [request.option for request in compose(["base", "more"], "x86_64", roots)] == ["CONFIG_MINE", "CONFIG_MORE"]
    assert compose(["base"], "aarch64", roots) == compose(["base"], "aarch64")
    with pytest.raises(UserError, match="no fragment 'mroe'") as caught:
        compose(["mroe"], "x86_64", roots)
    assert "more" in caught.value.hint


def test_a_guest_of_a_project_is_made_of_its_own_parts_and_of_ours(place):
    ours = (RECIPES / "kernels" / "default.toml").read_text()
    fill(
        place,
        **{
            "recipes__guests__mine.toml": GUEST.replace('"default"', '"small"'),
            "recipes__kernels__small.toml": ours.replace('"base"', '"base", "more"'),
            "kernel-configs__common__more.conf": "CONFIG_MORE=y\n",
        },
    )
    store = Store(place.parent / "cache")
    options = BuildOptions(project=find_project(), guest="mine")
    mine = Pipeline(X86_64, options, Evaluation(store)).steps
    minimal = Pipeline(X86_64, BuildOptions(), Evaluation(store)).steps
    assert mine.rootfs == minimal.rootfs
    assert mine.kernel.inputs(HOST)["request"] != minimal.kernel.inputs(HOST)["request"]


# tasks


def told(*words):
    """Return the exit code of a task that is called where we are, and what it said."""
    env = {**os.environ, "PYTHONPATH": str(CHECKOUT), "GUESTFORGE_INSTALL": "never"}
    argv = [INVOKE, "--search-root", str(CHECKOUT), *words]
    done = subprocess.run(argv, capture_output=True, text=True, env=env, check=False)
    return done.returncode, done.stdout + done.stderr


def test_from_an_empty_directory_to_a_guest_of_ones_own(place):
    """What docs/projects.md says to do. Whose guest the steps are of shows where they go, and which name is unknown."""
    code, text = told("agent", "--arch", "aarch64", "--guest", "mine")
    assert (code, "no recipe 'mine'" in text) == (1, True), text
    fill(place, **{"recipes__guests__mine.toml": GUEST})
    code, text = told("agent", "--arch", "aarch64", "--guest", "mine")
    assert (code, f"{place}/output/aarch64/mine/agent: " in text) == (0, True), text
    (place / FILE).write_text('guest = "mine"\n')
    (place / "output" / "aarch64" / "mine" / "agent").unlink()
    assert told("agent", "--arch", "aarch64")[0] == 0
    assert (place / "output" / "aarch64" / "mine" / "agent").is_file()
    (place / FILE).write_text('guest = "yours"\n')
    code, text = told("agent", "--arch", "aarch64")
    assert (code, "no recipe 'yours'" in text) == (1, True), text


def test_output_is_the_projects(place):
    fill(place)
    assert read(BuildOptions, {}).output == place / "output"


def test_clean_removes_what_was_built_and_nothing_else(place):
    fill(place, **{"output__x86_64__mine__kernel": "k", "output__thesis.txt": "years"})
    commands.clean(read(CleanOptions, {}))
    assert sorted(path.name for path in (place / "output").iterdir()) == ["thesis.txt"]
    (place / "output" / "thesis.txt").unlink()
    commands.clean(read(CleanOptions, {}))
    assert not (place / "output").exists()
