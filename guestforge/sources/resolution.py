"""Which version of a package a build uses: that of the project's lock file, else asked once and recorded in the cache.

What is recorded is used until someone says `refresh`. So a second build needs no network, and a kernel does not change
under a user's hands; a `version` in the recipe says it for everybody. The record knows no mirror: all mirrors serve the
same signed archive.
"""

import contextlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from guestforge.core.errors import UserError
from guestforge.core.files import atomic_file, disk_errors
from guestforge.core.progress import say, step
from guestforge.core.runtime import Runtime
from guestforge.core.store import Store
from guestforge.project.lock import AGAIN, LOCK, Lock
from guestforge.sources.aptplace import apt_place
from guestforge.sources.aptroot import AptRoot, Resolved
from guestforge.sources.hostapt import debian_mirror


@dataclass(frozen=True, slots=True)
class Archive:
    """Debian's archive, as a build reads it: recorded in `store`, from `mirror` instead of the host's where given.

    `refresh`: the mirror is asked for the newest version, though one is recorded. `lock`: these versions and no others.
    """

    store: Store
    mirror: str | None = None
    refresh: bool = False
    lock: Lock | None = None


@dataclass(frozen=True, slots=True)
class Wanted:
    """A package that a recipe asks for; `architecture` is Debian's name, `version` None for the suite's newest."""

    package: str
    suite: str
    architecture: str
    version: str | None = None


@dataclass(frozen=True, slots=True)
class Resolution:
    """A package's version, and when it was asked for (ISO 8601, UTC)."""

    resolved: Resolved
    date: str


def resolve(archive: Archive, wanted: Wanted, runtime: Runtime) -> Resolved:
    """Return the locked version of a package, else the recorded one, else what the mirror has; so too on `refresh`.

    Raises UserError for an unknown package or version, one that is not locked where others are, or a host without
    Debian's keys, BuildError for the network.
    """
    if archive.lock is not None:
        return _locked(archive.lock, wanted)
    cache = archive.store.cache
    path = record_path(cache, wanted)
    known = None if archive.refresh else read_record(path, wanted)
    if known is None:
        known = Resolution(ask(archive, wanted, runtime), datetime.now(UTC).isoformat(timespec="seconds"))
        with disk_errors(cache), atomic_file(path, "w") as file:
            json.dump(asdict(known), file, indent=1)
    say(f"{wanted.package} {known.resolved.version} of {wanted.suite}, as of {known.date[:10]}")
    return known.resolved


def ask(archive: Archive, wanted: Wanted, runtime: Runtime) -> Resolved:
    """Return the version of a package that the mirror has just now; raises as `resolve`."""
    with (
        step(f"asking for the version of {wanted.package} in {wanted.suite}"),
        apt_root(archive, wanted, runtime) as root,
    ):
        root.update()
        return root.resolve(wanted.package, wanted.version)


def _locked(lock: Lock, wanted: Wanted) -> Resolved:
    found = lock.find(wanted.suite, wanted.package, wanted.architecture)
    if found is None:
        what = f"{wanted.package} of {wanted.suite} for {wanted.architecture}"
        raise UserError(f"the project's {LOCK} has no {what}, which a recipe asks for", hint=AGAIN)
    if wanted.version not in (None, found.version):
        message = f"a recipe asks for {wanted.package} {wanted.version}, and the project's {LOCK} has {found.version}"
        raise UserError(message, hint=AGAIN)
    say(f"{found.package} {found.version} of {found.suite}, as {LOCK} has it")
    return Resolved(found.package, found.version, found.architecture, found.sha256, found.size)


def record_path(cache: Path, wanted: Wanted) -> Path:
    """Return where the version of a package is recorded."""
    pinned = [wanted.version.replace(":", "%3a")] if wanted.version else []
    return cache / "resolved" / f"{'_'.join([wanted.suite, wanted.package, wanted.architecture, *pinned])}.json"


def read_record(path: Path, wanted: Wanted) -> Resolution | None:
    """Read a record; None if there is none, or it is not of this package or not whole: then it is asked for again."""
    try:
        data = json.loads(path.read_text())
        found = Resolution(Resolved(**data["resolved"]), datetime.fromisoformat(data["date"]).isoformat())
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
    return found if found.resolved.package == wanted.package else None


@contextlib.contextmanager
def apt_root(archive: Archive, wanted: Wanted, runtime: Runtime) -> Iterator[AptRoot]:
    """Yield the apt root for a package; it is held by one build at a time."""
    chosen = debian_mirror(archive.mirror)
    name = f"apt/{wanted.suite}-{wanted.architecture}"
    with archive.store.workspace(name) as held, apt_place(held.path, runtime) as place:
        yield AptRoot(place, wanted.suite, wanted.architecture, chosen, runtime)
