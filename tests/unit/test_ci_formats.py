"""What `ci.matrix` prints, and for which system: well-formed, also where there is nothing to build."""

import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from ci_repository import GUEST, commit, copy_of_the_checkout, edit, git, matrix_of, project_in, write

from guestforge.arch import AARCH64, PROVEN, X86_64
from guestforge.ci.formats import GITHUB_MOST, render
from guestforge.ci.matrix import Entry, Matrix
from guestforge.core.errors import UserError

INVOKE = str(Path(sys.executable).with_name("invoke"))
SETTINGS = """[ci]
runner = ["self-hosted", "linux"]
runners = { aarch64 = ["ubuntu-24.04-arm"] }
"""


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    return copy_of_the_checkout(tmp_path_factory.mktemp("checkout"))


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A project with one guest, in no repository."""
    monkeypatch.setenv("GUESTFORGE_CACHE", str(tmp_path / "cache"))
    write(tmp_path / "mine" / "guestforge.toml", "")
    write(tmp_path / "mine" / "recipes" / "guests" / "one.toml", GUEST)
    return tmp_path / "mine"


def invoke(root, *words, **variables):
    """Run the task of a checkout, as `./invoke` does, with the programs of our own environment."""
    argv = [INVOKE, "--write-pyc", "--search-root", str(root), *words]
    env = {"PATH": "/usr/bin:/bin", "HOME": str(root), "GUESTFORGE_CACHE": str(root.parent / "cache"), **variables}
    return subprocess.run(argv, cwd=root, env=env, capture_output=True, text=True)


def entry(guest="one", arch="x86_64", runner=(), changed=None, **steps):
    return Entry(guest, arch, runner, steps or {"kernel": "k", "check initrd": "c", "package lib++.x": "p"}, changed)


NOTHING = Matrix((entry(changed=()),), None)

# the form of each system


def test_github_gets_one_line_of_entries_to_include(place):
    text = render(matrix_of(project_in(place), [X86_64, AARCH64]), "github")
    assert "\n" not in text
    one, other = json.loads(text)["include"]
    assert (one["guest"], one["arch"], one["runner"]) == ("one", "x86_64", ["ubuntu-latest"])
    assert other["arch"] == "aarch64"
    assert {"kernel", "initrd", "image", "check image", "check initrd"} < one["steps"].keys()
    assert len({one["key"], other["key"]}) == 2
    assert one.keys() == {"guest", "arch", "runner", "key", "steps"}


def test_gitlab_gets_a_pipeline_with_a_job_each():
    pipeline = json.loads(render(Matrix((entry(runner=("large", "kvm")), entry("two", changed=())), None), "gitlab"))
    assert pipeline == {
        "include": [{"local": ".gitlab/guest.yml"}],
        "one x86_64": {
            "extends": ".guest",
            "variables": {
                "GUEST": "one",
                "ARCH": "x86_64",
                "KEY": entry().key,
                "KEY_KERNEL": "k",
                "KEY_CHECK_INITRD": "c",
                "KEY_PACKAGE_LIB___X": "p",
            },
            "tags": ["large", "kvm"],
        },
    }


def test_a_gitlab_job_without_labels_has_no_tags():
    assert "tags" not in json.loads(render(Matrix((entry(),), None), "gitlab"))["one x86_64"]


def test_json_has_everything_and_what_it_was_compared_with(repository, monkeypatch, tmp_path):
    monkeypatch.setenv("GUESTFORGE_CACHE", str(tmp_path))
    found = json.loads(render(matrix_of(project_in(repository, repository), PROVEN, "HEAD"), "json"))
    assert found["since"] == {"revision": "HEAD", "commit": git(repository, "rev-parse", "HEAD")}
    assert len(found["entries"]) == 2 * len(PROVEN)
    assert {(each["build"], tuple(each["changed"])) for each in found["entries"]} == {(False, ())}
    assert found["entries"][0].keys() == {"guest", "arch", "runner", "build", "changed", "key", "steps"}


def test_without_a_revision_json_says_that_nothing_was_compared(place):
    found = json.loads(render(matrix_of(project_in(place), [X86_64]), "json"))
    assert (found["since"], found["entries"][0]["changed"], found["entries"][0]["build"]) == (None, None, True)


# nothing to build


def test_an_empty_matrix_is_one_for_github_that_a_condition_sees():
    assert render(NOTHING, "github") == '{"include":[]}'  # docs/ci.md compares it with this text


def test_an_empty_pipeline_has_the_job_that_gitlab_demands():
    (job,) = json.loads(render(NOTHING, "gitlab")).values()
    assert job == {"variables": {"GIT_STRATEGY": "none"}, "script": ["echo 'nothing to build'"]}


def test_more_jobs_than_github_takes_are_refused():
    entries = tuple(entry(f"g{number}") for number in range(GITHUB_MOST + 1))
    assert len(json.loads(render(Matrix(entries[1:], None), "github"))["include"]) == GITHUB_MOST
    with pytest.raises(UserError, match="GitHub takes 256 jobs a matrix, and these are 257"):
        render(Matrix(entries, None), "github")


def test_the_key_of_an_entry_follows_from_those_of_its_steps():
    assert entry(kernel="1").key == entry(kernel="1").key
    assert len({entry(kernel="1").key, entry(kernel="2").key, entry(agent="1").key}) == 3


# runners


def test_a_project_names_its_runners(place):
    write(place / "guestforge.toml", SETTINGS)
    found = matrix_of(project_in(place), [X86_64, AARCH64])
    assert [each.runner for each in found.entries] == [("self-hosted", "linux"), ("ubuntu-24.04-arm",)]
    assert [each["runner"] for each in json.loads(render(found, "github"))["include"]] == [
        ["self-hosted", "linux"],
        ["ubuntu-24.04-arm"],
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[ci]\nrunners = { x86 = ["a"] }\n', "guestforge.toml:2: ci.runners: Value error, unknown architecture 'x86'"),
        ("[ci]\nrunner = 'a'\n", "guestforge.toml:2: ci.runner: Input should be a valid array"),
        ('[ci]\nrunner = ["a\\nb"]\n', "guestforge.toml:2: ci.runner.0: String should match pattern"),
        ('[ci]\nruner = ["a"]\n', "guestforge.toml:2: unknown key ci.runer"),
    ],
)
def test_wrong_runners_are_told_of_with_their_line(place, text, said):
    write(place / "guestforge.toml", text)
    with pytest.raises(UserError) as caught:
        project_in(place)
    assert said in caught.value.message


# the task


def test_the_task_prints_the_matrix_and_nothing_else(repository):
    done = invoke(repository, "ci.matrix", "--format", "github", "--changed-since", "HEAD", "--arch", "x86_64,aarch64")
    assert (done.returncode, done.stdout, done.stderr) == (0, '{"include":[]}\n', "")


def test_the_task_names_what_changed_in_the_work_tree(repository, tmp_path):
    git(tmp_path, "clone", "--quiet", str(repository), "clone")
    edit(tmp_path / "clone", "kernel-configs/s390x/base.conf", "=y", "=m")
    done = invoke(tmp_path / "clone", "ci.matrix", "--format=github", "--changed-since=HEAD", "--guest=minimal")
    assert [(each["guest"], each["arch"]) for each in json.loads(done.stdout)["include"]] == [("minimal", "s390x")]
    assert "the work tree is compared as it is" in done.stderr


@pytest.mark.parametrize(
    ("words", "said", "hint"),
    [
        (["--changed-since", "nothing"], "--changed-since nothing: ", "git fetch"),
        (["--changed-since=-x"], "--changed-since -x: no name of a revision starts with a dash", ""),
        (["--format", "gihub"], "--format gihub: it takes github, gitlab, json", "did you mean github?"),
        (["--guest", "minimol"], "no recipe 'minimol'", "did you mean minimal?"),
    ],
)
def test_what_is_wrong_is_an_error_and_no_matrix(repository, words, said, hint):
    done = invoke(repository, "ci.matrix", *words)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: ")
    assert said in done.stderr
    assert hint in done.stderr
    assert "Traceback" not in done.stderr


def test_an_empty_revision_is_none(repository):
    done = invoke(repository, "ci.matrix", "--changed-since", "", "--arch", "s390x")
    assert [each["build"] for each in json.loads(done.stdout)["entries"]] == [True, True]


@pytest.mark.alone
def test_a_comparison_takes_no_longer_than_a_second_and_a_half(repository):
    """In seconds of processors, of git's too: what it takes on a machine that does nothing else is no more."""
    commit(repository, **{"recipes__guests__another.toml": GUEST})

    def seconds():
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = invoke(repository, "ci.matrix", "--format", "github", "--changed-since", "HEAD~1")
        assert len(json.loads(done.stdout)["include"]) == len(PROVEN)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert min(seconds() for _ in range(3)) <= 1.5
