"""guestforge.lock: which version of each of Debian's packages a project's guests are made of, for everybody.

`./invoke lock` writes it, and a build takes what it says; without one each machine records for itself what it was told.
"""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import Field, StringConstraints, ValidationError

from guestforge.core.errors import UserError
from guestforge.core.files import read_text
from guestforge.project.models import Model, Name, Package, Version

LOCK: Final = "guestforge.lock"
LIMIT: Final = 1024 * 1024  # bytes; a package takes 250
MAX_SIZE: Final = 8 * 1024**3  # bytes of a package; none comes near it
AGAIN: Final = "./invoke lock asks the mirror and writes it anew"


class Locked(Model):
    """One version of a package; `architecture` is Debian's name of it, or `all`, and `size` is in bytes."""

    suite: Name
    package: Package
    architecture: Name
    version: Version
    sha256: Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")]
    size: Annotated[int, Field(gt=0, le=MAX_SIZE)]

    @property
    def name(self) -> tuple[str, str, str]:
        """What it is locked under."""
        return self.suite, self.package, self.architecture


class Lock(Model):
    """What the file says."""

    schema_: Literal[1] = Field(1, alias="schema")
    packages: tuple[Locked, ...] = ()

    def find(self, suite: str, package: str, architecture: str) -> Locked | None:
        """Return a package's version for an architecture, or for all; None where it is not locked."""
        by_name = {each.name: each for each in self.packages}
        return by_name.get((suite, package, architecture)) or by_name.get((suite, package, "all"))


def read_lock(path: Path) -> Lock | None:
    """Return what a project's lock file says, None where there is none; raises UserError for one that is none."""
    if not os.path.lexists(path):
        return None
    text = read_text(path, LIMIT, "lock file")
    try:
        return Lock.model_validate_json(text)
    except ValidationError as e:
        fault = e.errors(include_url=False)[0]
        where = ".".join(map(str, fault["loc"])) or "the whole file"
        raise UserError(f"{path}: {where}: {fault['msg']}", hint=AGAIN) from e


def lock_of(packages: Iterable[Locked]) -> Lock:
    """Return a lock of packages, each of them once, in a fixed order."""
    by_name = {each.name: each for each in packages}
    return Lock(schema=1, packages=tuple(by_name[name] for name in sorted(by_name)))
