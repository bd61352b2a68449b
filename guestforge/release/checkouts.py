"""Which commit what we run from is, and whether that is all that there is."""

from pathlib import Path
from typing import Final

from guestforge.core.errors import GuestforgeError
from guestforge.core.runtime import Runtime
from guestforge.project.layout import CHECKOUT
from guestforge.release.provenance import Checkout

OURS: Final = "guestforge"
PROJECT: Final = "project"


def find_checkouts(project: Path, runtime: Runtime) -> tuple[Checkout, ...]:
    """Return the checkout of guestforge, and that of the folder with the recipes where that is another one."""
    found = [_checkout(OURS, CHECKOUT, runtime)]
    if not project.resolve().is_relative_to(CHECKOUT):
        found.append(_checkout(PROJECT, project, runtime))
    return tuple(found)


def _checkout(name: str, folder: Path, runtime: Runtime) -> Checkout:
    try:
        top, commit = (
            runtime.run(["git", "-C", folder, "rev-parse", what]).output.strip() for what in ("--show-toplevel", "HEAD")
        )
        # what is not known to git may be a recipe as well as what is changed
        changed = runtime.run(["git", "-C", folder, "status", "--porcelain", "--untracked-files=normal"]).output
    except GuestforgeError:  # no git, or no folder of its, or one of somebody else's
        return Checkout(name, None, None)
    if name == OURS and Path(top) != folder:
        return Checkout(name, None, None)  # an unpacked copy in another's folder
    return Checkout(name, commit, not changed.strip())
