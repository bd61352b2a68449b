"""A project: a folder with recipes and kernel fragments of its own, and its output. This checkout is one.

    guestforge.toml     makes a folder a project; it may be empty
    recipes/            guests/ kernels/ rootfs/
    kernel-configs/     common/ and a folder for each architecture
    overlays/           a folder for each, of files that are laid over a root file system
    guestforge.lock     which versions of Debian's packages its guests are made of, where it has been written
    output/             what is built

What a project does not have is ours. docs/projects.md is for users.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from guestforge.core.errors import UserError
from guestforge.project.layout import CHECKOUT, FRAGMENTS, OUTPUT, OVERLAYS, RECIPES
from guestforge.project.load import Folders, load_file
from guestforge.project.lock import LOCK, Lock, read_lock
from guestforge.project.models import Settings

FILE: Final = "guestforge.toml"
VARIABLE: Final = "GUESTFORGE_PROJECT"
HINT: Final = f"an empty {FILE} makes a folder a project; docs/projects.md has more"


@dataclass(frozen=True, slots=True)
class Project:
    """A folder, absolute, and what its guestforge.toml says; `checkout` has what the project does not."""

    root: Path
    settings: Settings
    checkout: Path = CHECKOUT

    @property
    def recipes(self) -> Folders:
        """The folders of recipes, in the order in which a name is looked up."""
        return self._before_ours(RECIPES)

    @property
    def fragments(self) -> Folders:
        """The folders of kernel fragments, in the order in which a name is looked up."""
        return self._before_ours(FRAGMENTS)

    @property
    def overlays(self) -> Folders:
        """The folders of overlays, in the order in which a name is looked up."""
        return self._before_ours(OVERLAYS)

    @property
    def lock(self) -> Lock | None:
        """Which versions of packages its guests are made of; None where it leaves that to each machine."""
        return read_lock(self.root / LOCK)

    @property
    def output(self) -> Path:
        """Where artifacts go: `<arch>/<guest>/` in it."""
        return self.root / OUTPUT.name

    def _before_ours(self, folder: Path) -> Folders:
        return tuple(dict.fromkeys((self.root / folder.name, self.checkout / folder.name)))


def open_project(root: Path, chosen_by: str) -> Project:
    """Return the project in a folder; `chosen_by` is what named it. Raises UserError where there is none."""
    if not (root / FILE).is_file():
        raise UserError(f"{chosen_by} {str(root)!r}: there is no {FILE}", hint=HINT)
    return Project(root, load_file(Settings, root / FILE))


def find_project(chosen: Path | None = None) -> Project:
    """Return the project that was chosen, else $GUESTFORGE_PROJECT, else the nearest one that we are in, else ours.

    Raises UserError for one that is none, whose settings are wrong, or that we only happen to be in and is another
    user's: what is in it decides what is built, and in a directory such as /tmp anybody can put one.
    """
    if chosen:
        return open_project(chosen.absolute(), "--project")
    if named := os.environ.get(VARIABLE):
        return open_project(Path(named).absolute(), VARIABLE)
    return next(_around(Path.cwd()), None) or our_project()


def our_project() -> Project:
    """Return the project that this checkout is."""
    return open_project(CHECKOUT, "the checkout")


def _around(directory: Path) -> Iterator[Project]:
    for root in (directory, *directory.parents):
        if (root / FILE).is_file():
            owner = (root / FILE).stat().st_uid
            if owner not in {os.geteuid(), 0}:
                message = f"{root / FILE} belongs to another user (uid {owner}), and was not asked for"
                raise UserError(message, hint=f"if you trust it: --project {root}, or set {VARIABLE}")
            yield open_project(root, "the project")
