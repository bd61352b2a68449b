"""A project as it was at a revision: its files, and guestforge's own, read from git's objects into a directory.

Nothing is checked out and nothing of it is run. Only what decides a step's key is read.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from guestforge.ci.checkout import AGENT, PACKAGE, REQUIREMENTS
from guestforge.core.errors import BuildError, UserError
from guestforge.core.runtime import Runtime
from guestforge.project.folder import Project
from guestforge.project.layout import FRAGMENTS, OVERLAYS, RECIPES
from guestforge.project.lock import LOCK

OF_A_PROJECT: Final = (*(Path(folder.name) for folder in (RECIPES, FRAGMENTS, OVERLAYS)), Path(LOCK))
OF_OURS: Final = (*OF_A_PROJECT, PACKAGE, AGENT, REQUIREMENTS)
WANTED_BY: Final = "--changed-since"
# What CI systems give for "the commit before" where there is none, in SHA-1 and SHA-256
_NOTHING: Final = re.compile(r"0{40}|0{64}")


@dataclass(frozen=True, slots=True)
class Revision:
    """A commit of the repository that a project is in; `name` is what the user called it.

    `top` is where the repository lies. The rest is relative to it: the project's folder, that of guestforge's own files
    or None where the repository does not have them, and what is read of all.
    """

    name: str
    commit: str
    top: Path
    root: Path
    checkout: Path | None

    @property
    def paths(self) -> tuple[Path, ...]:
        """What is read of the repository."""
        ours = [self.checkout / path for path in OF_OURS] if self.checkout is not None else []
        return tuple(dict.fromkeys((*(self.root / path for path in OF_A_PROJECT), *ours)))


def find_revision(project: Project, name: str, runtime: Runtime) -> Revision | None:
    """Return what a user means by a revision; None for the zeros that a CI system gives where there was none before.

    Raises UserError for one that is not there, and for a project that is in no repository.
    """
    if name.startswith("-"):
        raise UserError(f"--changed-since {name}: no name of a revision starts with a dash")
    top = repository_of(project.root, runtime, WANTED_BY)
    if top is None:
        hint = "without --changed-since everything is built"
        raise UserError(f"{project.root} is in no git repository, and --changed-since {name} wants one", hint=hint)
    if _NOTHING.fullmatch(name):
        return None
    commit = _commit(top, name, runtime)
    if commit is None:
        raise _unknown(top, name, runtime)
    return Revision(name, commit, top, project.root.resolve().relative_to(top), _ours(project, top, runtime))


def uncommitted(revision: Revision, runtime: Runtime) -> bool:
    """Whether the work tree has something of the project, or of guestforge beside it, that no commit has."""
    argv = ["status", "--porcelain", "--untracked-files=normal", "--", *map(str, revision.paths)]
    return bool(git_output(revision.top, argv, runtime).strip())


def project_at(project: Project, revision: Revision, place: Path, runtime: Runtime) -> Project:
    """Return the project as it was, its files in an empty directory; its settings are today's.

    guestforge's own files are those of the revision where the same repository has them. Otherwise nobody can know which
    they were then, and they are today's.
    """
    _extract(revision, place, runtime)
    checkout = project.checkout if revision.checkout is None else place / revision.checkout
    return Project(place / revision.root, project.settings, checkout)


def _ours(project: Project, top: Path, runtime: Runtime) -> Path | None:
    """Return where a repository has guestforge's own files, if it has them: in its folder they may be ignored, too."""
    ours = project.checkout.resolve()
    if not ours.is_relative_to(top) or (ours != top and repository_of(ours, runtime, WANTED_BY) != top):
        return None
    inside = ours.relative_to(top)
    kept = git_output(top, ["ls-files", "--", str(inside / PACKAGE / "__init__.py")], runtime)
    return inside if kept.strip() else None


def _extract(revision: Revision, place: Path, runtime: Runtime) -> None:
    argv = ["ls-tree", "-z", "--name-only", "--full-tree", revision.commit, "--", *map(str, revision.paths)]
    there = [name for name in git_output(revision.top, argv, runtime).split("\0") if name]
    if not there:
        return
    packed = place / "revision.tar"
    git_output(revision.top, ["archive", "--format=tar", "-o", str(packed), revision.commit, "--", *there], runtime)
    # tar takes no name that leads out of the directory
    runtime.run(["tar", "--extract", "--file", packed, "--directory", place, "--no-same-owner"])
    packed.unlink()


def repository_of(folder: Path, runtime: Runtime, wanted_by: str) -> Path | None:
    """Return where the repository lies that a folder is in, None where it is in none.

    Raises UserError, in which `wanted_by` is what asks, where there is no git, and for a repository that it refuses.
    """
    if runtime.find_tool("git") is None:
        raise UserError(f"git is not installed, and {wanted_by} wants it", hint="apt-get install git")
    done = runtime.run(["git", "-C", folder, "rev-parse", "--show-toplevel"], check=False)
    if done.returncode == 0:
        return Path(done.output.rstrip("\n"))
    if "not a git repository" in done.output:
        return None
    raise UserError(f"git can't read the repository of {folder}", excerpt=done.output)  # such as another user's


def _commit(top: Path, name: str, runtime: Runtime) -> str | None:
    done = runtime.run(["git", "-C", top, "rev-parse", "--verify", "--quiet", f"{name}^{{commit}}"], check=False)
    return done.output.strip() if done.returncode == 0 else None


def _unknown(top: Path, name: str, runtime: Runtime) -> UserError:
    hint = f"`git -C {top} rev-parse {name}` must find it; `git fetch` gets what only the other side has"
    if git_output(top, ["rev-parse", "--is-shallow-repository"], runtime).strip() == "true":
        hint = "the clone is shallow: `fetch-depth: 0` of actions/checkout, or `GIT_DEPTH: 0` in GitLab, fetches all"
    return UserError(f"--changed-since {name}: {top} has no such commit", hint=hint)


def git_output(top: Path, argv: list[str], runtime: Runtime) -> str:
    """Return what git says in a repository; raises UserError where it fails."""
    try:
        return runtime.run(["git", "--literal-pathspecs", "-C", top, *argv]).output
    except BuildError as e:
        raise UserError(f"git {argv[0]} in {top} failed", excerpt=e.excerpt, hint=e.hint) from e
