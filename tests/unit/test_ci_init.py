"""`ci.init`: what it writes where, whose blocks are kept, and the repositories and files that it refuses."""

import shutil

import pytest
from ci_repository import commit, edit, git, project_in, write
from ci_workflows import checkout_in, repository_in, written

from guestforge.ci.blocks import HEAD
from guestforge.ci.init import init
from guestforge.core.errors import UserError
from guestforge.core.runtime import HOST
from guestforge.project.option import read
from guestforge.project.options import CI_SYSTEMS, InitOptions

GITHUB = ".github/workflows/guests.yml"
RELEASE = ".github/workflows/guests-release.yml"
GITLAB = [".gitlab/guests.yml", ".gitlab/guest.yml", ".gitlab-ci.yml"]
BLOCK = "  # guestforge: begin jobs\n  # guestforge: end jobs\n"
MINE = "      - run: echo mine\n"


@pytest.fixture
def project(tmp_path):
    return repository_in(tmp_path / "top")


@pytest.fixture
def top(project):
    return project.root


def add(top, block, text, name=GITHUB):
    """Write a line of a user's into a block."""
    mark = next(line for line in (top / name).read_text().splitlines() if f"begin {block}" in line)
    edit(top, name, f"{mark}\n", f"{mark}\n{text}")


def contents(top):
    return {str(path): path.read_bytes() for path in top.rglob("*") if path.is_file() and ".git/" not in str(path)}


def refused(project, system="github"):
    """The error of a run that leaves every file as it is."""
    before = contents(project.root)
    with pytest.raises(UserError) as error:
        init(project, system, HOST)
    assert contents(project.root) == before
    return error.value


# what is written


@pytest.mark.parametrize(("system", "names"), [("github", [GITHUB, RELEASE]), ("gitlab", GITLAB)])
def test_each_system_has_its_files_and_a_second_run_changes_nothing(project, top, system, names):
    first = written(project, system)
    assert list(first) == names
    before = {name: (top / name).stat().st_ino for name in names}
    assert written(project, system) == first
    assert {name: (top / name).stat().st_ino for name in names} == before


@pytest.mark.parametrize("system", CI_SYSTEMS)
@pytest.mark.parametrize(
    ("inside", "root", "invoke"),
    [(".", ".", "./invoke"), ("third/forge", ".", "./third/forge/invoke"), ("forge", "my/guests", "./forge/invoke")],
)
def test_workflows_call_guestforge_where_it_lies(tmp_path, system, inside, root, invoke):
    project = repository_in(tmp_path, inside=inside, root=root)
    for name, text in written(project, system).items():
        if name == ".gitlab-ci.yml":
            continue
        assert f"GUESTFORGE_PROJECT: {root}\n" in text
        assert f"{invoke} " in text
        assert ("output/" if root == "." else f"{root}/output/") in text
        assert "submodule" not in text.lower()


def test_a_submodule_is_fetched(tmp_path):
    forge = checkout_in(tmp_path / "forge")
    git(forge, "init", "--quiet")
    commit(forge)
    project = repository_in(tmp_path / "top", inside="elsewhere")
    git(project.root, "-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(forge), "forge")
    made = written(project_in(project.root, project.root / "forge"), "github")
    assert made[GITHUB].count("submodules: true") == 2 and made[RELEASE].count("submodules: true") == 1
    assert written(project_in(project.root, project.root / "forge"), "gitlab")[GITLAB[1]].count("SUBMODULE") == 1


def test_all_guests_are_released_but_the_one_with_a_shell(tmp_path):
    made = written(repository_in(tmp_path, guests=("debug", "one", "two")), "github")
    assert "--guest one,two\n" in made[RELEASE]
    assert "debug" not in made[RELEASE]


def test_a_template_of_the_projects_comes_before_ours(project, top):
    write(top / "recipes" / "ci" / "github.yml.j2", "# {{ invoke }} {{ expr('github.ref') }}\n")
    assert written(project, "github")[GITHUB].partition("\n")[2] == "# ./tools/guestforge/invoke ${{ github.ref }}\n"


# what is the user's


def test_a_block_is_kept_and_the_rest_is_brought_up_to_date(project, top):
    first = written(project, "github")
    add(top, "before-build", MINE)
    theirs = (top / GITHUB).read_text()
    assert written(project, "github")[GITHUB] == theirs
    edit(top, "tools/guestforge/recipes/ci/github.yml.j2", "timeout-minutes: 180", "timeout-minutes: 181")
    second = written(project, "github")
    assert second[GITHUB].splitlines()[1:] == theirs.replace("minutes: 180", "minutes: 181").splitlines()[1:]
    assert MINE in second[GITHUB]
    assert second[RELEASE] == first[RELEASE]


def test_a_block_may_be_emptied(project, top):
    written(project, "github")
    edit(top, GITHUB, "  pull_request:\n", "")
    assert "  pull_request:\n" not in written(project, "github")[GITHUB]


def test_what_git_made_of_line_ends_is_no_change(project, top):
    first = written(project, "github")
    (top / GITHUB).write_bytes(first[GITHUB].replace("\n", "\r\n").encode())
    assert written(project, "github") == first


def test_a_pipeline_of_the_users_that_includes_ours_is_left_alone(project, top):
    mine = "include:\n  - local: .gitlab/guests.yml\njob:\n  script: [make]\n"
    write(top / ".gitlab-ci.yml", mine)
    assert list(written(project, "gitlab")) == GITLAB[:2]
    assert (top / ".gitlab-ci.yml").read_text() == mine
    for text in ("job:\n  script: [make]\n", mine.replace("  - local", "  # - local")):
        write(top / ".gitlab-ci.yml", text)
        error = refused(project, "gitlab")
        assert "local: .gitlab/guests.yml" in error.hint


# what is refused


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        (HEAD, "# guests: ", "has not made this file"),
        ("timeout-minutes: 180", "timeout-minutes: 90", "changed outside of its blocks"),
        ("      # guestforge: end before-build\n", "", "begins within the block before-build"),
        ("      # guestforge: begin before-build\n", "", "the block before-build ends, and has not begun"),
        ("  # guestforge: end jobs\n", "", "the block jobs has no end"),
        (
            "  # guestforge: begin jobs\n",
            "  # guestforge: begin jobs\n  # guestforge: end jobs\n" * 2,
            "there is a block jobs",
        ),
        ("# guestforge: end triggers", "# guestforge: ends triggers", "it is neither"),
        ("begin after-build", "begin before-build", "there is a block before-build already"),
    ],
)
def test_a_file_that_was_changed_beyond_recognition_is_refused(project, top, old, new, says):
    written(project, "github")
    edit(top, GITHUB, old, new)
    error = refused(project)
    assert error.message.startswith(f"{top / GITHUB}: ") and says in error.message
    assert error.hint


def test_both_marks_of_a_block_may_not_be_lost(project, top):
    written(project, "github")
    edit(top, GITHUB, "      # guestforge: begin before-build\n      # guestforge: end before-build\n", "")
    assert "changed outside" in refused(project).message


def test_the_error_names_the_line_of_a_mark_and_shows_what_was_changed(project, top):
    written(project, "github")
    text = (top / GITHUB).read_text()
    edit(top, GITHUB, "timeout-minutes: 180", "timeout-minutes: 90")
    assert "-    timeout-minutes: 90" in refused(project).excerpt
    write(top / GITHUB, text.replace("# guestforge: end triggers", "# guestforge: end trigger"))
    number = text.splitlines().index("  # guestforge: end triggers") + 1
    assert f": line {number}: the block trigger ends" in refused(project).message


def test_a_block_that_has_no_place_any_more_is_not_thrown_away(project, top):
    written(project, "github")
    marks = "      # guestforge: begin after-build\n      # guestforge: end after-build\n"
    edit(top, "tools/guestforge/recipes/ci/github.yml.j2", marks, "")
    untouched = (top / GITHUB).read_text()
    add(top, "after-build", MINE)
    assert "has no block after-build" in refused(project).message
    write(top / GITHUB, untouched)
    assert "after-build" not in written(project, "github")[GITHUB]


def test_nothing_is_written_when_one_file_is_refused(project, top):
    write(top / RELEASE, "mine\n")
    assert RELEASE in refused(project).message
    assert not (top / GITHUB).exists()


def test_a_repository_without_guests_is_refused(tmp_path):
    error = refused(repository_in(tmp_path, guests=()))
    assert "no guests" in error.message and "recipes/guests" in error.hint


def test_a_folder_that_is_no_repository_is_refused(project, top):
    shutil.rmtree(top / ".git")
    assert "is in no git repository" in refused(project).message


def test_a_project_outside_of_any_repository_is_refused(project, tmp_path):
    write(tmp_path / "apart" / "guestforge.toml", "")
    apart = project_in(tmp_path / "apart", project.checkout)
    assert f"{tmp_path / 'apart'} is in no git repository" in refused(apart).message


def test_guestforge_outside_of_the_repository_is_refused(project, tmp_path):
    away = project_in(project.root, checkout_in(tmp_path / "away"))
    error = refused(away)
    assert "outside of the repository" in error.message and "submodule" in error.hint


def test_guestforge_that_a_clone_would_lack_is_refused(project):
    checkout_in(project.root / "ignored")
    assert "a clone would lack guestforge" in refused(project_in(project.root, project.root / "ignored")).message


def test_a_folder_that_yaml_or_a_shell_would_read_otherwise_is_refused(tmp_path):
    for number, name in enumerate(("with blank", "a;b", "-x", "{{a}}", "ä")):
        assert "can't be named" in refused(repository_in(tmp_path / str(number), root=name)).message


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: 1\nb: {{ nothing }}\n", ":2: 'nothing' is undefined"),
        ("a: {{ invoke\n", ":1: "),
        ("# guestforge: begin a\n", "line 1: the block a has no end"),
    ],
)
def test_a_template_that_is_wrong_is_named_with_its_line(project, top, text, says):
    template = top / "recipes" / "ci" / "github.yml.j2"
    write(template, text)
    error = refused(project)
    assert error.message.startswith(str(template)) and says in error.message


def test_nothing_is_written_through_a_link(project, top, tmp_path):
    (tmp_path / "away").mkdir()
    (top / ".github").symlink_to(tmp_path / "away")
    assert "out of the repository" in refused(project).message
    (top / ".github").unlink()
    (top / ".github" / "workflows").mkdir(parents=True)
    (top / GITHUB).symlink_to(tmp_path / "away" / "file")
    assert "this is a link" in refused(project).message
    assert list((tmp_path / "away").iterdir()) == []


def test_the_system_must_be_named_and_known():
    for given in ({}, {"format": "json"}):
        with pytest.raises(UserError, match="--format"):
            read(InitOptions, {"project": None, **given})
