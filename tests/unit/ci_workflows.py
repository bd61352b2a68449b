"""Repositories for `ci.init`, and the linters that judge what it writes."""

import shutil
import subprocess
import sys
from pathlib import Path

from checkout import REPOSITORY
from ci_repository import GUEST, commit, git, project_in, write

from guestforge.ci.init import init
from guestforge.core.runtime import HOST

BIN = Path(sys.executable).parent
SCHEMAS = {
    "github": ("vendor.github-workflows",),
    "gitlab": ("vendor.gitlab-ci", "--data-transform", "gitlab-ci"),
}


def checkout_in(place):
    """Put what ci.init reads of guestforge into a directory."""
    shutil.copytree(REPOSITORY / "recipes" / "ci", place / "recipes" / "ci")
    write(place / "invoke", "#!/bin/sh\n")
    return place


def repository_in(top, guests=("one",), inside="tools/guestforge", root="."):
    """Fill a directory with a repository of a user's that has guestforge in a folder; return its project."""
    checkout = checkout_in(top / inside)
    write(top / root / "guestforge.toml", "")
    for name in guests:
        write(top / root / "recipes" / "guests" / f"{name}.toml", GUEST)
    git(top, "init", "--quiet")
    commit(top)
    return project_in(top / root, checkout)


def written(project, system):
    """Run ci.init; return what it made, by the paths in the repository."""
    top = Path(git(project.root, "rev-parse", "--show-toplevel"))
    made = init(project, system, HOST)
    assert all(file.path.read_text() == file.text for file in made)
    return {str(file.path.relative_to(top)): file.text for file in made}


def judged(*argv, cwd=None):
    """Run a linter; return its exit code and what it says."""
    done = subprocess.run([str(word) for word in argv], cwd=cwd, capture_output=True, text=True, timeout=500)
    return done.returncode, done.stdout + done.stderr


def schema(system, *paths):
    name, *more = SCHEMAS[system]
    return judged(BIN / "check-jsonschema", "--builtin-schema", name, *more, *paths)


def zizmor(*paths):
    return judged(BIN / "zizmor", "--offline", "--no-progress", "--quiet", "--pedantic", "--format", "plain", *paths)


def actionlint(*paths):
    """Run the tool of tools/actionlint. It would run shellcheck too where that is installed."""
    words = (
        "tool",
        "actionlint",
        "-no-color",
        "-shellcheck=",
        "-pyflakes=",
        *(Path(path).absolute() for path in paths),
    )
    return judged(BIN / "go", *words, cwd=REPOSITORY / "tools" / "actionlint")
