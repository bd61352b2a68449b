"""`ci.init`: workflows for a project, made of templates and written into its repository, all of them or none."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from guestforge.ci import blocks
from guestforge.ci.formats import GITLAB_FILE
from guestforge.ci.matrix import guests_of
from guestforge.ci.site import PLAIN, Site, find_site
from guestforge.core.errors import UserError
from guestforge.core.files import atomic_file, disk_errors, read_text
from guestforge.core.runtime import Runtime
from guestforge.project.folder import Project
from guestforge.project.layout import OUTPUT
from guestforge.project.options import DEBUG, CiSystem
from guestforge.project.template import find_template, render_template

DOCUMENTED: Final = "docs/ci.md"
GITHUB_FILE: Final = ".github/workflows/guests.yml"
GITHUB_RELEASE: Final = ".github/workflows/guests-release.yml"
GITLAB_INCLUDED: Final = ".gitlab/guests.yml"
GITLAB_ENTRY: Final = ".gitlab-ci.yml"
# What is written where, by the templates in folders of recipes; paths are from the top of the repository
FILES: Final[Mapping[CiSystem, Mapping[str, str]]] = {
    "github": {GITHUB_FILE: "ci/github.yml.j2", GITHUB_RELEASE: "ci/github-release.yml.j2"},
    "gitlab": {
        GITLAB_INCLUDED: "ci/gitlab.yml.j2",
        GITLAB_FILE: "ci/gitlab-guest.yml.j2",
        GITLAB_ENTRY: "ci/gitlab-ci.yml.j2",
    },
}


@dataclass(frozen=True, slots=True)
class Made:
    """A file of the repository and what it is to hold; `new`: it holds something else now, or is not there."""

    path: Path
    text: str
    new: bool


def init(project: Project, system: CiSystem, runtime: Runtime) -> tuple[Made, ...]:
    """Write the workflows of a project, and return them. Raises as `planned` does, with nothing written."""
    made = planned(project, system, runtime)
    for file in made:
        if file.new:
            with disk_errors(file.path.parent, "use"), atomic_file(file.path, "w") as out:
                out.write(file.text)
    return made


def planned(project: Project, system: CiSystem, runtime: Runtime) -> tuple[Made, ...]:
    """Return what `init` would write.

    Raises UserError for a repository in which workflows could not work, a template that is wrong, and a file that is
    not as we left it.
    """
    return tuple(_made(project, system, runtime))


def _made(project: Project, system: CiSystem, runtime: Runtime) -> Iterator[Made]:
    site = find_site(project, runtime)
    values = _values(project, site)
    for name, template_name in FILES[system].items():
        path = site.top / name
        old = _present(path, site.top)
        if name == GITLAB_ENTRY and old is not None and not old.startswith(blocks.HEAD):
            _require_include(old, path)
            continue
        template = find_template(template_name, project.recipes)
        text = render_template(template, values, documented=DOCUMENTED)
        new = blocks.made(text, old, str(path), str(template))
        yield Made(path, new, new != old)


def _values(project: Project, site: Site) -> Mapping[str, Any]:
    """Return what a template is given: docs/ci.md lists it."""
    guests = guests_of(project, "copy one of the checkout's recipes/guests, or write your own: docs/recipes.md")
    if unfit := [name for name in guests if not PLAIN.fullmatch(name) or "/" in name]:
        raise UserError(f"{unfit[0]!a}: a guest of that name can't be named in a workflow", hint="rename its recipe")
    return {
        "invoke": site.invoke,
        "project": site.project,
        "output": (Path(site.project) / OUTPUT.name).as_posix() + "/",
        "submodule": site.submodule,
        "guests": [name for name in guests if name != DEBUG] or guests,
        "expr": _expression,
    }


def _expression(text: str) -> str:
    """Return an expression of GitHub's, whose marks are Jinja's as well."""
    return f"${{{{ {text} }}}}"


def _present(path: Path, top: Path) -> str | None:
    """Return what a file holds, None where there is none; raises UserError for what is no file in the repository."""
    if not path.parent.resolve().is_relative_to(top):
        raise UserError(f"{path.parent} leads out of the repository", hint="put a folder in the link's place")
    if path.is_symlink():
        raise UserError(f"{path}: this is a link", hint="put a file in its place, or remove it")
    if not path.exists():
        return None
    # as git checks it out for Windows, too
    return read_text(path, blocks.MAX_BYTES, "workflow").replace("\r\n", "\n")


def _require_include(text: str, path: Path) -> None:
    """Raise UserError unless a user's own pipeline has the line that only he can write: the one that includes ours."""
    lines = (line.split("#", 1)[0] for line in text.splitlines())
    if not any(GITLAB_INCLUDED in line for line in lines):
        hint = f"add to its `include:` a line `- local: {GITLAB_INCLUDED}`, and run ci.init again"
        raise UserError(f"{path}: ci.init has not made this file, and it does not include {GITLAB_INCLUDED}", hint=hint)
