"""Where a project and guestforge lie in the repository that a CI system will clone."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from guestforge.ci.revision import git_output, repository_of
from guestforge.core.errors import UserError
from guestforge.core.runtime import Runtime
from guestforge.project.folder import Project
from guestforge.project.layout import INVOKE

# What stands in YAML and in a shell's command without quotes, and is no option
PLAIN: Final = re.compile(r"[A-Za-z0-9_.+][A-Za-z0-9_.+/-]*")
_SUBMODULE: Final = "160000"  # the mode of a submodule in git's index
_HINT: Final = "add guestforge to it as a submodule: git submodule add <where you have it from> guestforge"


@dataclass(frozen=True, slots=True)
class Site:
    """A repository; `project` and `invoke` are paths in it, which are the working directory of each job.

    `submodule`: guestforge is one, which must be fetched besides.
    """

    top: Path
    project: str
    invoke: str
    submodule: bool


def find_site(project: Project, runtime: Runtime) -> Site:
    """Return where a project lies; raises UserError where a clone of its repository would not do to build it."""
    top = repository_of(project.root, runtime, "ci.init")
    if top is None:
        hint = "git init makes one; a CI system clones a repository, and ci.init writes into it"
        raise UserError(f"{project.root} is in no git repository", hint=hint)
    checkout = project.checkout.resolve()
    if not checkout.is_relative_to(top):
        raise UserError(f"guestforge's checkout {checkout} is outside of the repository {top}", hint=_HINT)
    inside = checkout.relative_to(top)
    return Site(
        top=top,
        project=_plain(project.root.resolve().relative_to(top)),
        invoke=_invoke(_plain(inside)),
        submodule=_submodule(top, inside, runtime),
    )


def _submodule(top: Path, inside: Path, runtime: Runtime) -> bool:
    """Whether guestforge is a submodule; raises UserError where git has neither that nor its files."""
    if inside.parts and git_output(top, ["ls-files", "--stage", "--", str(inside)], runtime).startswith(_SUBMODULE):
        return True
    if git_output(top, ["ls-files", "--", str(inside / INVOKE.name)], runtime).strip():
        return False
    raise UserError(f"{top / inside / INVOKE.name} is in no commit of {top}: a clone would lack guestforge", hint=_HINT)


def _invoke(checkout: str) -> str:
    return f"./{INVOKE.name}" if checkout == "." else f"./{checkout}/{INVOKE.name}"


def _plain(path: Path) -> str:
    """Return a path in the repository; raises UserError for one that a workflow can't name as it is."""
    text = path.as_posix()
    if not PLAIN.fullmatch(text):
        hint = "letters, digits and . _ + - / can be written into a workflow as they are"
        raise UserError(f"{text!a}: a folder of that name can't be named in a workflow", hint=hint)
    return text
