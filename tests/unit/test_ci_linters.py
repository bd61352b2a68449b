"""The workflows of ci.init as others judge them: published schemas, actionlint, zizmor. Each is seen to fail, too."""

import pytest
from checkout import REPOSITORY
from ci_workflows import BIN, actionlint, judged, repository_in, schema, written, zizmor

from guestforge.ci.init import planned
from guestforge.core.runtime import HOST
from guestforge.project.folder import our_project
from guestforge.project.options import CI_SYSTEMS

GITHUB = ".github/workflows/guests.yml"
RELEASE = ".github/workflows/guests-release.yml"


def places(tmp_path, system, **where):
    project = repository_in(tmp_path, **where)
    return [tmp_path / name for name in written(project, system)]


@pytest.fixture
def broken(tmp_path):
    """A workflow of ours in which a text stands in another one's place."""

    def make(old, new, name=GITHUB):
        places(tmp_path, "github")
        text = (tmp_path / name).read_text()
        assert old in text
        (tmp_path / name).write_text(text.replace(old, new, 1))
        return tmp_path / name

    return make


@pytest.mark.parametrize("system", CI_SYSTEMS)
def test_the_schemas_take_what_is_written(tmp_path, system):
    code, said = schema(system, *places(tmp_path, system, root="guests", guests=("one", "two")))
    assert code == 0, said


def test_the_schemas_refuse_what_is_none(broken, tmp_path):
    code, said = schema("github", broken("    steps:\n", "    step:\n"))
    assert code == 1 and "jobs" in said
    bad = tmp_path / "bad.yml"
    bad.write_text("job:\n  script: [true]\n  artifacts: {when: sometimes}\n")
    code, said = schema("gitlab", bad)
    assert code == 1 and "when" in said


def test_zizmor_finds_nothing(tmp_path):
    code, said = zizmor(*places(tmp_path, "github"))
    assert code == 0, said


@pytest.mark.parametrize(
    ("old", "new", "finding"),
    [
        ("          persist-credentials: false\n", "", "artipacked"),
        ("permissions: {}", "permissions: write-all", "excessive-permissions"),
        ("3d3c42e5aac5ba805825da76410c181273ba90b1 # v7.0.1", "v7", "unpinned-uses"),
        ('--guest "$GUEST"', '--guest "${{ github.head_ref }}"', "template-injection"),
    ],
)
def test_zizmor_finds_what_is_put_in(broken, old, new, finding):
    code, said = zizmor(broken(old, new))
    assert code > 10 and finding in said, said


def test_a_release_takes_nothing_from_a_cache(broken):
    cache = "      - uses: actions/cache@27d5ce7f107fe9357f9df03efb73ab90386fccae # v5.0.5\n        with:\n"
    cache += "          path: output\n          key: any\n      # guestforge: begin before-release\n"
    code, said = zizmor(broken("      # guestforge: begin before-release\n", cache, RELEASE))
    assert code > 10 and "cache-poisoning" in said, said


@pytest.mark.slow  # Go compiles it the first time
def test_actionlint_finds_nothing_but_what_is_put_in(tmp_path, broken):
    code, said = actionlint(*places(tmp_path / "whole", "github"))
    assert code == 0, said
    code, said = actionlint(broken("needs: matrix", "needs: matrices"))
    assert code == 1 and "matrices" in said, said


@pytest.mark.slow
def test_the_module_of_actionlint_is_as_go_would_have_it():
    code, said = judged(BIN / "go", "mod", "tidy", "-diff", cwd=REPOSITORY / "tools" / "actionlint")
    assert code == 0, said


def test_our_own_workflows_are_what_is_written():
    made = planned(our_project(), "github", HOST)
    assert [str(file.path.relative_to(REPOSITORY)) for file in made] == [GITHUB, RELEASE]
    assert [str(file.path) for file in made if file.new] == [], "run ./invoke ci.init --format github"
